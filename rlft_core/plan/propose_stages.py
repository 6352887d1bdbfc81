"""The four stages of a proposed recipe: imitate, learn what is bad, reinforce, compare. Each number with its reason.

Numbers are starting points from the size of the data, the model and the machine. None was searched for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlft_core.config.rollout import RolloutConfig, SamplingConfig
from rlft_core.config.stages import EvaluateStage, RewardModelStage, SftStage
from rlft_core.config.training import LearnerConfig, OptimizerConfig
from rlft_core.models.size import ModelSize
from rlft_core.plan.propose_data import Limits, Sides
from rlft_core.plan.propose_negatives import negatives_of
from rlft_core.plan.recipe_text import Alias, Block, Item, Node, Remark, Setting, Stage
from rlft_core.plan.text_shape import OutputShape

_SMALL_MODEL = 500_000_000
_LARGE_MODEL_LR = 1e-5
_BATCH_ROWS = int(SftStage.model_fields["batch_rows"].default)
_EPOCHS = 2.5
_MOST_EPOCHS = 10
_LEAST_STEPS = 30
_MOST_RANKS = 32
_CACHED_SEQUENCES = 16
_RANKS_SUGGESTED = 4  # of eight GPUs, as in recipes/ppo_8gpu.yaml


@dataclass(frozen=True, slots=True)
class Setup:
    """What the stages depend on. `size` is None for a model that is not on this machine."""

    shape: OutputShape
    sides: Sides
    limits: Limits
    size: ModelSize | None
    num_gpus: int

    @property
    def small(self) -> bool:
        """Whether the model is small enough to take large learning rates."""
        return self.size is not None and self.size.num_parameters < _SMALL_MODEL

    @property
    def batch_rows(self) -> int:
        """Rows of a supervised step, prompts of a PPO step: fewer where large ones would leave only a few steps."""
        rows = 32 if self.num_gpus else _BATCH_ROWS
        while rows > max(_BATCH_ROWS, self.gpus[0]) and self.sides.num_train < _LEAST_STEPS * rows:
            rows //= 2
        return rows

    @property
    def gpus(self) -> tuple[int, int, int]:
        """GPUs for learner ranks, a power of two, engines, and reward models. One GPU cannot be shared."""
        if self.num_gpus < 2:
            return 0, self.num_gpus, 0
        ranks = 1 << ((self.num_gpus // 2).bit_length() - 1)
        scorers = int(self.num_gpus > 2)
        ranks = min(ranks, _MOST_RANKS)
        return ranks, self.num_gpus - ranks - scorers, scorers


def sft_stage(setup: Setup) -> Stage:
    """Imitate the references, and keep the model that is best on validation rows."""
    every, steps = _schedule(_EPOCHS * setup.sides.num_train / setup.batch_rows, most=2000 if setup.num_gpus else 300)
    epochs = steps * setup.batch_rows / setup.sides.num_train
    return Stage(
        "1. Imitate the outputs of the data (maximum likelihood): the start of what follows, and what it is compared with.",
        (
            Setting("type", "sft"),
            Setting("num_steps", steps, f"at most: {epochs:.1f} passes over {setup.sides.num_train:,} rows"),
            *_batch("batch_rows", setup),
            *_optimizer(setup, SftStage.model_fields["optimizer"].default, steps),
            Setting("validate_every", every, "steps: some ten measurements"),
            Setting("keep", "best", "the weights with the lowest validation loss, not the last ones"),
            Setting("patience", 3, "stop after three measurements without a new best"),
            *_learner(setup, "sft"),
        ),
    )


def reward_model_stage(setup: Setup) -> Stage:
    """Learn to tell references from synthetic bad outputs."""
    wanted = 1.5 * setup.sides.num_train / setup.batch_rows
    steps = max(20, min(math.ceil(wanted / 10) * 10, 400 if setup.num_gpus else 120))
    settings: list[Node] = [
        Setting("type", "reward_model"),
        Setting("num_steps", steps, f"of {setup.batch_rows} outputs, each beside 5 bad ones"),
        Setting("negatives_per_row", 5),
    ]
    settings += _batch("batch_rows", setup)
    settings.append(Block("negatives", tuple(negatives_of(setup.shape, setup.limits.completion))))
    settings += _optimizer(setup, RewardModelStage.model_fields["optimizer"].default, steps)
    settings += _learner(setup, "reward_model")
    settings += _rollout(setup, suggest=False)
    return Stage(
        "2. Learn what a bad output is, from the data's outputs against synthetic bad ones, which rlft negatives shows: nobody "
        "has to rank anything.",
        tuple(settings),
    )


def ppo_stage(setup: Setup) -> Stage:
    """Reinforce against the reward model and a length penalty, watched by metrics nobody rewards."""
    epochs = _MOST_EPOCHS * setup.sides.num_train // setup.batch_rows
    steps = max(60, min(200, epochs // 10 * 10)) if setup.num_gpus else 60
    settings: list[Node] = [
        Setting("type", "ppo"),
        Setting("num_steps", steps, f"of {setup.batch_rows} prompts; raise it while the report's curves still rise"),
        *_batch("prompts_per_step", setup),
        *_completion(setup.limits.completion),
        Setting("optimizer", *_ppo_rate(setup)),
    ]
    if setup.gpus[0]:
        settings.append(
            Setting("max_lag", 1, "generate the next batch while the learner works; 0 is strictly on-policy")
        )
    settings += _learner(setup, "ppo")
    settings += _rollout(setup)
    settings += [_rewards(setup), _watch(setup, steps)]
    return Stage(
        "3. Generate, score, update: 8 completions of each prompt are judged against each other (RLOO), with a pull towards "
        "the model of stage 1 (KL).",
        tuple(settings),
    )


def evaluate_stage(setup: Setup) -> Stage:
    """Compare untuned, imitating and reinforced model, each also with post-processing."""
    settings: list[Node] = [
        Setting("type", "evaluate"),
        Setting("systems", {"base": "base", "mle": "sft", "rl": "ppo"}),
    ]
    if setup.limits.completion != EvaluateStage.model_fields["max_tokens"].default:
        settings.append(Setting("max_tokens", setup.limits.completion))
    steps, why = _postprocess(setup.shape)
    settings += [
        Setting("postprocess", steps, why),
        Setting("postprocessed", ["base", "mle", "rl"]),
        *_rollout(setup, suggest=False),
        Setting("rewards", Alias("rewards")),
    ]
    return Stage(
        "4. All three on the same held-out rows, greedily, with intervals; and each again after the cheap remedy, cutting "
        "what is too long: reinforcement learning should beat that.",
        tuple(settings),
    )


def _schedule(steps: float, *, most: int) -> tuple[int, int]:
    """Steps between two measurements, and a number of steps that is a multiple of it: some ten measurements."""
    wanted = max(10, min(math.ceil(steps), most))
    every = max(5, math.ceil(wanted / 50) * 5)
    return every, math.ceil(wanted / every) * every


def _batch(key: str, setup: Setup) -> list[Node]:
    if setup.num_gpus:
        return [Setting(key, setup.batch_rows)] if setup.batch_rows != _BATCH_ROWS else []
    return [Setting(key, 32, "with GPUs; and more steps", active=False)]


def _ppo_rate(setup: Setup) -> tuple[dict[str, float], str]:
    if setup.small:
        return {"lr": 3e-5}, "as in recipes/last_mile.yaml, which tunes a model of this size"
    return {"lr": 2e-6}, "large models take small steps"


def _optimizer(setup: Setup, default: OptimizerConfig, steps: int) -> list[Node]:
    """Both numbers or none: a key that a recipe leaves out is the optimiser's default, not the stage's."""
    lr = default.lr if setup.small else _LARGE_MODEL_LR
    warmup = min(default.warmup_steps, max(1, steps // 8))
    if (lr, warmup) == (default.lr, default.warmup_steps):
        return []
    why = "a careful rate: the model is not on this machine, so its size is not known" if setup.size is None else ""
    return [Setting("optimizer", {"lr": lr, "warmup_steps": warmup}, why)]


def _completion(tokens: int) -> list[Node]:
    if tokens == SamplingConfig.model_fields["max_tokens"].default:
        return []
    return [Setting("sampling", {"max_tokens": tokens}, "1.5 times what 99 % of the outputs have")]


def _learner(setup: Setup, stage: str) -> list[Node]:
    """The learner's settings, written out once for the stages that share them."""
    imitating, others = _learner_values(setup, freeze=False), _learner_values(setup, freeze=True)
    values = imitating if stage == "sft" else others
    if stage == "ppo" and setup.num_gpus == 1:
        return [
            Setting(
                "learner", {**values, "device": "cpu"}, "the only GPU goes to the engine; of two, the learner takes one"
            )
        ]
    if not values:
        return [Setting("learner", {"num_ranks": _RANKS_SUGGESTED}, "with 8 GPUs", active=False)]
    if stage == "ppo" or (stage == "reward_model" and imitating == others):
        return [Setting("learner", Alias("learner"))]
    why = f"{values['num_ranks']} of {setup.num_gpus} GPUs learn" if "num_ranks" in values else ""
    if "freeze" in values:
        why = "the upper half learns, in half the time"
    shared = stage == "reward_model" or imitating == others
    return [Setting("learner", values, why, anchor="learner" if shared else "")]


def _learner_values(setup: Setup, *, freeze: bool) -> dict[str, object]:
    values: dict[str, object] = {}
    ranks, _, _ = setup.gpus
    longest = setup.limits.max_length
    if ranks > 1:
        values["num_ranks"] = ranks
    if setup.num_gpus:
        tokens = max(8192, longest)
        values |= {"max_row_tokens": tokens, "max_batch_tokens": tokens}
        if not setup.small:
            values["gradient_checkpointing"] = True
    elif longest > LearnerConfig.model_fields["max_row_tokens"].default:
        values["max_row_tokens"] = longest
    if freeze and not setup.num_gpus and setup.size is not None and setup.size.num_layers > 1:
        values["freeze"] = {"embeddings": True, "bottom_layers": setup.size.num_layers // 2}
    return values


def _rollout(setup: Setup, *, suggest: bool = True) -> list[Node]:
    values: dict[str, object] = {}
    _, engines, _ = setup.gpus
    if engines > 1:
        values["num_engines"] = engines
    if setup.num_gpus:
        values["max_sequences"] = 256
    elif setup.size is not None:
        per_token = 2 * setup.size.kv_values_per_token
        needed = math.ceil(per_token * setup.limits.max_length * _CACHED_SEQUENCES / 2**20 / 256) * 256
        if needed > RolloutConfig.model_fields["kv_cache_mb"].default:
            values["kv_cache_mb"] = needed
    if values:
        return [Setting("rollout", values)]
    if setup.num_gpus or not suggest:
        return []
    return [Setting("rollout", {"num_engines": 4, "max_sequences": 256}, "with 8 GPUs", active=False)]


def _rewards(setup: Setup) -> Block:
    _, _, scorers = setup.gpus
    model: dict[str, object] = {"type": "reward_model", "clip": 5}
    if scorers:
        model["gpus_per_actor"] = 1
    shape = setup.shape
    typical = max(1, shape.length(0.5))
    spread = shape.length(0.75) - shape.length(0.25)
    penalty: dict[str, object] = {"type": "length_penalty"}
    if shape.spaceless:
        penalty["unit"] = "characters"
    # Of a text, a word more or less is nothing; of a label, it is all.
    penalty |= {"tolerance": max(int(typical > 3), round(spread / 4)), "scale": max(2, typical)}
    middle = f"{shape.length(0.25)} to {shape.counted(shape.length(0.75))}" if spread else shape.counted(typical)
    items: list[Node] = [
        Item(model, "references have mean 0 and deviation 1; beyond 5 it guesses"),
        Remark(
            f"The model of stage 2 may like long outputs. Half of the data's have {middle}; off the row's own length, "
            f"{penalty['tolerance']} are free, and {penalty['scale']} more cost 1."
        ),
        Item(penalty),
    ]
    if shape.labels:
        items.append(Item({"type": "exact_match"}, "a label is right or wrong"))
    return Block("rewards", tuple(items), anchor="rewards")


def _watch(setup: Setup, steps: int) -> Setting:
    values: dict[str, object] = {"every": max(5, steps // 4)}
    why = "the model that was best on validation rows by ROUGE-L, which nobody rewards"
    if setup.shape.latin_share < 0.5:
        values |= {"falls": {"similarity_to_reference": 0.02}, "best_by": "similarity_to_reference"}
        why = "ROUGE sees only Latin letters and digits, so it is left out; the embedding model knows English best"
    return Setting("watch", {**values, "keep_best": True}, why)


def _postprocess(shape: OutputShape) -> tuple[dict[str, object], str]:
    """Cuts that leave nearly all references as they are."""
    steps: dict[str, object] = {}
    if shape.single_line_share > 0.99:
        steps["first_line"] = True
    longest, usual = shape.lengths[-1], shape.length(0.99)
    most = longest if longest <= 1.5 * usual else usual
    if shape.length(0.5) > 8 and shape.repeating_share < 0.01 and not shape.spaceless:
        steps["cut_repetition"] = 4
    steps["max_chars" if shape.spaceless else "max_words"] = most
    if shape.full_stop_share < 0.05:
        steps["strip_final"] = "."
    return steps, "what nearly all outputs of the data are"
