"""Systems by name: the ones that models make, and each of them again with its outputs post-processed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rlft_core.config.postprocess import POST, PostprocessConfig
from rlft_core.postprocess import postprocess
from rlft_core.rewards.protocol import Sample


def with_postprocessed(
    systems: Mapping[str, Sequence[Sample]], config: PostprocessConfig | None, labels: Collection[str]
) -> dict[str, list[Sample]]:
    """All systems, and right after each of those in `labels` the same outputs post-processed, as `<label>+post`.

    Only the text is other. Tokens and finish reason stay what the model produced, because nothing is generated again:
    `num_tokens`, `ended_by_eos` and rewards that count tokens say what the model did, everything else what one reads.
    """
    found: dict[str, list[Sample]] = {}
    for label, samples in systems.items():
        found[label] = list(samples)
        if config is not None and label in labels:
            found[label + POST] = [replace(sample, text=postprocess(sample.text, config)) for sample in samples]
    return found
