"""Which kinds of bad outputs fit a data set, and why one is left out."""

from __future__ import annotations

from rlft_core.config.negatives import ModelSamplesConfig
from rlft_core.plan.recipe_text import Item, Node, Remark
from rlft_core.plan.text_shape import OutputShape

_FEW_OUTPUTS = 10
_ONE_WORD = 1
_MOSTLY = 0.5
_WORTH_IT = 0.2
_NEAREST = 20
_ENOUGH_TO_BE_NEAR = 10 * _NEAREST


def negatives_of(shape: OutputShape, max_tokens: int) -> list[Node]:
    """The published kinds and ours; one that cannot work on these outputs is commented out with the reason."""
    short = shape.length(0.9) <= _ONE_WORD if not shape.spaceless else bool(shape.labels)
    no_order = "the outputs are single words" if short else ""
    few = f"only {shape.num_distinct} different outputs, so another row's is often right"
    copied = f"{shape.copied_share:.0%} of the outputs stand word for word in their input"
    facts = f"{_share(shape.fact_share)} of the outputs have numbers or names to exchange"
    # Of labels, another row's is wrong by definition: the mistake that matters most.
    published = {
        "random_tokens": "",
        "irrelevant": few if not shape.labels and shape.num_distinct < _FEW_OUTPUTS else "",
        "shuffled": no_order,
        "repetitive": "",
        "copy": copied if shape.copied_share > _MOSTLY else "",
    }
    ours = {
        "truncated": no_order,
        "run_on": "",
        "hallucinated": facts if shape.fact_share < _WORTH_IT else "",
        "typos": "",
    }
    return [
        Remark("The five kinds of the paper on the last mile of fine-tuning (Solway 2024) ..."),
        *(_item(kind, why) for kind, why in published.items()),
        Remark("... and more that models really do."),
        *_near(shape, active=not published["irrelevant"]),
        *(_item(kind, why) for kind, why in ours.items()),
        _samples(max_tokens),
    ]


def _near(shape: OutputShape, *, active: bool) -> list[Node]:
    """Another row's output that is close in meaning. The bundled embedding model reads English; of labels none is close."""
    if not active or shape.labels or shape.spaceless or shape.num_distinct < _ENOUGH_TO_BE_NEAR:
        return []
    values = {"kind": "irrelevant", "name": "irrelevant_near", "nearest": _NEAREST}
    return [Item(values, f"another row's, among the {_NEAREST} closest in meaning: the hard ones")]


def _share(share: float) -> str:
    return f"only {share:.0%}" if share >= 0.01 else "hardly any"


def _item(kind: str, left_out: str) -> Item:
    return Item({"kind": kind}, f"left out: {left_out}" if left_out else "", active=not left_out)


def _samples(max_tokens: int) -> Item:
    """The model's own mistakes, one for nearly every row."""
    values: dict[str, object] = {"kind": "model_samples", "share": 3, "per_row": 1, "temperature": 0.7}
    if max_tokens != ModelSamplesConfig.model_fields["max_tokens"].default:
        values["max_tokens"] = max_tokens
    return Item(values, "what the model of stage 1 gets wrong")
