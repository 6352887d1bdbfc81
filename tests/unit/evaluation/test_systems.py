"""Post-processed systems beside plain ones: their order, their texts, and what stays the model's."""

from __future__ import annotations

import numpy as np

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.evaluation.systems import with_postprocessed
from rlft_core.evaluation.table import evaluate
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

CONFIG = PostprocessConfig(first_line=True, strip_final=".")


def samples(text: str) -> list[Sample]:
    return [Sample(Row("r1", "in", "maze game"), text, np.arange(7, dtype=np.int32), "length")]


def test_each_stands_right_after_its_own() -> None:
    plain = {"base": samples("a\nb"), "mle": samples("maze game.\nFun!"), "rl": samples("maze")}
    found = with_postprocessed(plain, CONFIG, ("mle", "rl"))
    assert list(found) == ["base", "mle", "mle+post", "rl", "rl+post"]
    assert [entry[0].text for entry in found.values()] == ["a\nb", "maze game.\nFun!", "maze game", "maze", "maze"]
    assert [plain[name][0].text for name in plain] == ["a\nb", "maze game.\nFun!", "maze"]
    assert list(with_postprocessed(plain, None, ())) == ["base", "mle", "rl"]
    assert list(with_postprocessed(plain, CONFIG, ())) == ["base", "mle", "rl"]


def test_the_text_counts_for_what_is_read_and_the_model_for_what_was_generated() -> None:
    result = evaluate(with_postprocessed({"mle": samples("maze game.\nFun!")}, CONFIG, ("mle",)), resamples=50)
    summary = result.summary()
    for metric, plain, post in (("num_words", 3.0, 2.0), ("num_tokens", 7.0, 7.0), ("ended_by_eos", 0.0, 0.0)):
        assert (summary["mle"][metric]["mean"], summary["mle+post"][metric]["mean"]) == (plain, post)
    assert summary["mle+post"]["rougeL"]["mean"] == 1.0
    assert list(result.paired()) == ["mle+post-mle"]
    assert result.paired()["mle+post-mle"]["num_words"]["mean"] == -1.0
