"""The stages of a recipe. Each reads the folders of earlier stages and writes one of its own."""

from __future__ import annotations

from typing import Annotated, Literal, TypeGuard

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from rlft_core.config.algorithms import (
    PreferenceConfig,
)
from rlft_core.config.base import Strict
from rlft_core.config.edits import CorruptedEditsConfig, EditsConfig, FileEditsConfig, SampledEditsConfig
from rlft_core.config.judge import JudgingConfig
from rlft_core.config.negatives import PUBLISHED_KINDS, ModelSamplesConfig, NegativeConfig, NegativeConfigs
from rlft_core.config.online import OnlineDpoStage, PpoStage
from rlft_core.config.pairs import JudgeRowsConfig, PairsConfig, SampledPairsConfig
from rlft_core.config.postprocess import POST, PostprocessConfig
from rlft_core.config.rewards import RewardConfig, RewardModelConfig
from rlft_core.config.rollout import RolloutConfig
from rlft_core.config.training import CheckpointConfig, LearnerConfig, OptimizerConfig

BASE = "base"
"""The name under which stages refer to the model of `model.name`, untuned or tuned before."""


def _check_rows_divide(batch_rows: int, num_ranks: int) -> None:
    if batch_rows % num_ranks:
        raise ValueError(
            f"batch_rows ({batch_rows}) does not divide among learner.num_ranks ({num_ranks}); make batch_rows a multiple of it"
        )


class SftStage(Strict):
    """Supervised fine-tuning: maximise the likelihood of the output given the input."""

    type: Literal["sft"] = "sft"
    name: str = "sft"
    """The stage's name and folder."""
    start_from: str | None = None
    """Stage whose model is the start, or `base`. Default: the training stage before this one."""
    num_steps: PositiveInt = 100
    """Optimiser steps."""
    batch_rows: PositiveInt = 8
    """Rows in one optimiser step, over all ranks."""
    train_on_prompt: bool = False
    """Also learn to predict the prompt."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=5e-5, warmup_steps=10)
    """AdamW and its schedule."""
    learner: LearnerConfig = LearnerConfig()
    """The learner's processes and memory."""
    checkpoint: CheckpointConfig = CheckpointConfig(every=100)
    """When to save."""
    validate_every: NonNegativeInt = 0
    """Measure the loss on validation rows after this many steps; 0: only at the end."""
    validation_rows: PositiveInt = 128
    """Validation rows to measure on."""
    keep: Literal["last", "best"] = "last"
    """What becomes the stage's model: the weights of the last step, or those with the lowest validation loss."""
    patience: NonNegativeInt = 0
    """Stop after so many measurements in a row without a new lowest validation loss; 0 goes on to the last step."""
    judge: JudgeRowsConfig | None = None
    """Also learn to judge, from preference pairs: one model is policy and judge."""
    rollout: RolloutConfig = RolloutConfig()
    """The engine that samples, where pairs are made of what the model writes."""

    @model_validator(mode="after")
    def _keeps_what_it_measures(self) -> SftStage:
        if (self.keep == "best" or self.patience) and not self.validate_every:
            key = "keep: best" if self.keep == "best" else "patience"
            raise ValueError(f"{key} needs validation losses to compare; set validate_every, for instance to 25")
        if (self.keep == "best" or self.patience) and self.judge is not None and not self.judge.imitate:
            key = "keep: best" if self.keep == "best" else "patience"
            raise ValueError(
                f"{key} compares losses of outputs, which judge.imitate: false does not learn; leave it out, or imitate too"
            )
        return self

    @model_validator(mode="after")
    def _rows_divide(self) -> SftStage:
        _check_rows_divide(self.batch_rows, self.learner.num_ranks)
        return self


class RewardModelStage(Strict):
    """A reward model from references and synthetic bad outputs, or from minimal edits: no preferences are needed.

    Its own weights are trained, all that `learner.freeze` leaves; `model.lora` is for policies."""

    type: Literal["reward_model"] = "reward_model"
    name: str = "reward_model"
    """The stage's name and folder."""
    start_from: str | None = None
    """Stage whose model becomes the backbone, or `base`. Default: the policy of the training stage before this one."""
    num_steps: PositiveInt = 100
    """Optimiser steps."""
    batch_rows: PositiveInt = 8
    """Rows in one optimiser step, over all ranks: each is one reference with its negatives."""
    negatives: NegativeConfigs = PUBLISHED_KINDS
    """Kinds of bad outputs."""
    negatives_per_row: PositiveInt = 4
    """Bad outputs beside each reference, their kinds drawn by share."""
    edits: EditsConfig | None = None
    """Learn from minimal edits instead: pairs of a text and what became of it when somebody corrected it."""
    level: Literal["sequence", "token"] = "sequence"
    """`sequence`: one reward for a text, read at its last token. `token`: one for every token; a text's score is their
    mean."""
    loss: Literal["bradley_terry", "binary", "edited", "labels"] = "bradley_terry"
    """`bradley_terry`: the better text must score higher. `binary`: good or bad, each by itself. For `level: token` also
    `edited`: Bradley-Terry of the tokens that differ alone; `labels`: each of them good or bad by itself."""
    label_weight: NonNegativeFloat = 0.0
    """For `level: token`: so many times the loss `labels` is added. The texts' scores decide which of two is better, the
    labels where it is wrong."""
    margin: NonNegativeFloat = 0.0
    """Bradley-Terry: by how much higher, before the loss is satisfied."""
    normalize: bool = True
    """Shift and scale the reward so that references (`level: token`: their tokens) have mean 0 and standard deviation 1.
    With `labels` the reward is within [-1, 1] already and stays so."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-4, warmup_steps=5)
    """AdamW and its schedule."""
    learner: LearnerConfig = LearnerConfig()
    """The learner's processes and memory."""
    rollout: RolloutConfig = RolloutConfig()
    """The engine that samples for the kind `model_samples`, and for edits of what the model writes."""
    checkpoint: CheckpointConfig = CheckpointConfig(every=100)
    """When to save."""
    validate_every: NonNegativeInt = 0
    """Measure on validation rows after this many steps; 0: only at the end."""
    validation_rows: PositiveInt = 128
    """Validation rows to measure on, each with one negative of every kind."""

    @property
    def kinds(self) -> tuple[NegativeConfig, ...]:
        """The kinds of bad outputs that are made from rows; none where edits come from elsewhere."""
        if self.edits is None:
            return self.negatives
        return self.edits.kinds if isinstance(self.edits, CorruptedEditsConfig) else ()

    @property
    def made_per_row(self) -> int:
        """Bad outputs for each row, as far as the recipe says how many."""
        if self.edits is None:
            return self.negatives_per_row
        return 1 if isinstance(self.edits, FileEditsConfig) else self.edits.per_row

    @property
    def marks_tokens(self) -> bool:
        """Whether it matters which tokens of two texts differ: to learn from them, or to measure how well they are found."""
        return self.level == "token" or self.edits is not None

    @property
    def squashes(self) -> bool:
        """Whether a token's reward is 2 p - 1 of what the model says, and not that itself."""
        return self.loss == "labels"

    @property
    def samples_model(self) -> ModelSamplesConfig | None:
        """The kind that needs an engine, when the recipe has it."""
        return next((kind for kind in self.kinds if isinstance(kind, ModelSamplesConfig)), None)

    @property
    def sampled_edits(self) -> SampledEditsConfig | None:
        """The edits of what the model writes, when the recipe has them: these need an engine too."""
        return self.edits if isinstance(self.edits, SampledEditsConfig) else None

    @model_validator(mode="after")
    def _fits(self) -> RewardModelStage:
        _check_rows_divide(self.batch_rows, self.learner.num_ranks)
        if self.margin and self.loss not in ("bradley_terry", "edited"):
            raise ValueError("margin belongs to the losses bradley_terry and edited; leave it out or change the loss")
        if self.loss in ("edited", "labels") and self.level != "token":
            raise ValueError(f"loss: {self.loss} looks at single tokens; set level to token, or take bradley_terry")
        if self.label_weight and (self.level != "token" or self.loss == "labels"):
            raise ValueError("label_weight adds labels of single tokens to another loss of level: token; leave it out")
        if self.edits is not None and self.negatives != PUBLISHED_KINDS:
            raise ValueError(
                "give `negatives` or `edits`, not both: edits of source `corrupted` have kinds of their own"
            )
        if sum(isinstance(kind, ModelSamplesConfig) for kind in self.kinds) > 1:
            raise ValueError("negatives: model_samples may stand there once; raise its per_row or share instead")
        return self


class DpoStage(Strict):
    """Direct preference optimisation on pairs that are there before it starts: offline, without engines or rewards."""

    type: Literal["dpo"] = "dpo"
    name: str = "dpo"
    """The stage's name and folder."""
    start_from: str | None = None
    """Stage whose model is the start and the reference, or `base`. Default: the policy of the training stage before."""
    num_steps: PositiveInt = 100
    """Optimiser steps."""
    batch_rows: PositiveInt = 8
    """Tasks in one optimiser step, over all ranks; each has one pair or more."""
    pairs: PairsConfig
    """Which texts are preferred to which."""
    preference: PreferenceConfig = PreferenceConfig()
    """How a pair becomes a loss."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=5e-6, warmup_steps=10)
    """AdamW and its schedule."""
    learner: LearnerConfig = LearnerConfig()
    """The learner's processes and memory."""
    rollout: RolloutConfig = RolloutConfig()
    """The engine that samples, where pairs are made of what the model writes."""
    checkpoint: CheckpointConfig = CheckpointConfig(every=100)
    """When to save."""
    validate_every: NonNegativeInt = 0
    """Measure on validation rows after this many steps; 0: only at the end."""
    validation_rows: PositiveInt = 128
    """Validation rows to measure on."""

    @model_validator(mode="after")
    def _rows_divide(self) -> DpoStage:
        _check_rows_divide(self.batch_rows, self.learner.num_ranks)
        return self


class EvaluateStage(Strict):
    """Several models on the same held-out rows, with intervals, paired row by row."""

    type: Literal["evaluate"] = "evaluate"
    name: str = "evaluate"
    """The stage's name and folder."""
    systems: dict[str, str] = Field(min_length=1)
    """What to compare: a label for each stage name, or `base`."""
    split: Literal["validation", "test"] = "test"
    """Rows to evaluate on. They take no part in training."""
    max_rows: NonNegativeInt = 0
    """Use only the first rows; 0 means all."""
    max_tokens: PositiveInt = 64
    """Longest completion."""
    temperature: NonNegativeFloat = 0.0
    """0 decodes greedily; above, completions are drawn, with the same seeds for every system."""
    postprocess: PostprocessConfig | None = None
    """Report systems a second time as `<label>+post`, their outputs post-processed so."""
    postprocessed: tuple[str, ...] | None = None
    """Systems to report so. Default: all that are not `base`."""
    rewards: tuple[RewardConfig, ...] = ()
    """Rewards reported beside the text metrics."""

    @property
    def reward_models(self) -> tuple[RewardModelConfig, ...]:
        """The rewards that are models."""
        return tuple(reward for reward in self.rewards if isinstance(reward, RewardModelConfig))

    @model_validator(mode="after")
    def _measures_alone(self) -> EvaluateStage:
        judges = [reward.label for reward in self.rewards if isinstance(reward, JudgingConfig)]
        if judges:
            raise ValueError(
                f"rewards: '{judges[0]}' compares samples with each other, and an evaluation has one of each system; leave it "
                "out, and run `rlft compare` on the finished run"
            )
        return self

    @model_validator(mode="after")
    def _postprocesses_what_it_has(self) -> EvaluateStage:
        unknown = [label for label in self.postprocessed or () if label not in self.systems]
        if unknown:
            raise ValueError(
                f"postprocessed: '{unknown[0]}' is none of the systems; there are: {', '.join(self.systems)}"
            )
        taken = [label for label in self.systems_postprocessed if f"{label}{POST}" in self.systems]
        if taken:
            raise ValueError(f"systems: '{taken[0]}{POST}' is the name of '{taken[0]}' post-processed; choose another")
        if self.postprocessed and self.postprocess is None:
            raise ValueError("postprocessed names systems, but postprocess says nothing; give it at least one step")
        return self

    @property
    def systems_postprocessed(self) -> tuple[str, ...]:
        """Labels of the systems that are reported a second time, post-processed."""
        if self.postprocess is None:
            return ()
        if self.postprocessed is not None:
            return self.postprocessed
        return tuple(label for label, source in self.systems.items() if source != BASE)

    rollout: RolloutConfig = RolloutConfig()
    """The engine that generates."""
    show_samples: NonNegativeInt = 3
    """Rows printed side by side at the end."""


def pairs_in(stage: object) -> PairsConfig | None:
    """Where a stage's preference pairs come from, if it has any."""
    if isinstance(stage, SftStage):
        return stage.judge.pairs if stage.judge is not None else None
    return stage.pairs if isinstance(stage, DpoStage) else None


def samples_first(stage: object) -> TypeGuard[SftStage | RewardModelStage | DpoStage]:
    """Whether a stage needs an engine before its learner starts, to learn from what the model writes."""
    if isinstance(stage, RewardModelStage):
        return stage.samples_model is not None or stage.sampled_edits is not None
    return isinstance(pairs_in(stage), SampledPairsConfig)


StageConfig = Annotated[
    SftStage | RewardModelStage | PpoStage | OnlineDpoStage | DpoStage | EvaluateStage, Field(discriminator="type")
]
