"""What the model wrote while it was trained: samples of every n-th step in samples.jsonl. Scores nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlft_core.rewards.spans import token_ends
from rlft_core.types import Completion, Score, ScoredGroup
from services.observe import jsonl
from services.observe.sinks import SinkError


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token's text and what it earned: `reward` in all, `parts` what each token-level reward gave it, unweighted."""

    text: str
    reward: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One completion as a person reads it. `reward` is the total, `breakdown` each reward's own unweighted value; `tokens`
    only where a reward looks at every token."""

    id: str
    prompt: str
    output: str
    reference: str
    reward: float
    breakdown: Mapping[str, float]
    finish_reason: str
    skipped: str | None = None
    tokens: tuple[TokenRecord, ...] = ()


def sample_records(scored: ScoredGroup, *, limit: int | None = None, tokenizer: Any = None) -> list[SampleRecord]:
    """The first `limit` completions of a group (all without a limit). Text only: small enough to send anywhere.

    With the policy's tokenizer, samples that were rewarded token by token say so.
    """
    row = scored.group.prompt.row
    pairs = list(zip(scored.group.completions, scored.scores, strict=True))
    return [
        SampleRecord(
            id=row.id,
            prompt=row.input,
            output=completion.text,
            reference=row.output,
            reward=score.total,
            breakdown=dict(score.breakdown),
            finish_reason=completion.finish_reason,
            skipped=score.skipped,
            tokens=_tokens(completion, score, tokenizer) if score.dense and tokenizer is not None else (),
        )
        for completion, score in pairs[:limit]
    ]


def _tokens(completion: Completion, score: Score, tokenizer: Any) -> tuple[TokenRecord, ...]:
    ends = token_ends(tokenizer, completion.token_ids.tolist())
    texts = [completion.text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return tuple(
        TokenRecord(text, _short(score.per_token[t]), {name: _short(values[t]) for name, values in score.dense.items()})
        for t, text in enumerate(texts)
    )


def _line(record: SampleRecord) -> dict[str, Any]:
    """The record without what it does not have."""
    return {key: value for key, value in asdict(record).items() if key != "tokens" or value}


def _short(value: float) -> float:
    return round(float(value), 6)


class SampleLog:
    """Appends records to `samples.jsonl` in the run's folder for steps 0, n, 2n, ...; n = 0 writes none."""

    def __init__(self, folder: Path, *, every: int) -> None:
        self._path = folder / "samples.jsonl"
        self._every = every

    def due(self, step: int) -> bool:
        """Whether this step's samples are wanted; ask before fetching them."""
        return self._every > 0 and step % self._every == 0

    def rewind(self, stage: str, step: int) -> None:
        """Forget the samples of `stage` from `step` on: they are about to be written again."""
        jsonl.rewind(self._path, stage=stage, step=step)

    def write(self, stage: str, step: int, records: Iterable[SampleRecord]) -> None:
        """Append the records if the step is due. Raises SinkError when they cannot be written."""
        if not self.due(step):
            return
        try:
            jsonl.append_rows(self._path, ({"stage": stage, "step": step} | _line(record) for record in records))
        except OSError as error:
            raise SinkError(f"{self._path}: {error}") from error
