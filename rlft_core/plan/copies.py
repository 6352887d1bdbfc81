"""How many copies of the model a stage with a judge holds at once, against PPO with a reward model and a critic."""

from __future__ import annotations

from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe
from rlft_core.plan.stages import has_reference, own_judges

SEPARATE = 5
"""Policy, reference and critic of a learner rank, an engine and a reward model, with all weights trained (Ouyang et al. 2022)."""


def model_copies(recipe: Recipe, stage: OnlineStage) -> dict[str, int]:
    """Copies by who holds them, of the model or one as large: ranks hold a share each, so that they count as one."""
    found = {"the learner's policy": 1}
    if has_reference(recipe, stage):
        found["its reference"] = 1
    if stage.model_critic is not None:
        found["its critic"] = 1
    found["engines"] = stage.rollout.num_engines
    found |= {f"reward model '{model.label}'": model.num_actors for model in stage.reward_models}
    found |= {f"judge '{judge.label}'": judge.rollout.num_engines for judge in own_judges(recipe, stage)}
    return found


def copies_note(recipe: Recipe, stage: OnlineStage) -> str | None:
    """What judging takes; None for a stage without a judge of ours."""
    if not stage.judges:
        return None
    copies = model_copies(recipe, stage)
    parts = ", ".join(who if number == 1 else f"{number} {who}" for who, number in copies.items())
    shared = [judge.label for judge in stage.judges if recipe.shares_engines(stage, judge)]
    told = f"; '{shared[0]}' judges on the rollout engines and takes none" if shared else ""
    total = sum(copies.values())
    return (
        f"stages.{stage.name} holds {total} copies of the model at once: {parts}{told}. PPO with a reward model and a critic as "
        f"large, all weights trained, holds {SEPARATE + stage.rollout.num_engines - 1}"
    )
