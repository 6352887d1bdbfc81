"""A curve as small as a word, for the list of runs."""

from __future__ import annotations

from markupsafe import Markup, escape

from services.observe.wording import compact
from services.viewer.metrics import Spark

_WIDTH, _HEIGHT, _PAD = 104, 26, 3


def sparkline(spark: Spark) -> Markup:
    """The points of a run's headline metric; nothing for fewer than two."""
    values = spark.values
    if len(values) < 2:
        return Markup()
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    width, height = _WIDTH - 2 * _PAD, _HEIGHT - 2 * _PAD
    points = [
        (_PAD + width * place / (len(values) - 1), _PAD + height * (1 - (value - low) / span))
        for place, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    label = f"{spark.label} from {compact(values[0])} to {compact(values[-1])}"
    return Markup(
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<polyline points="{line}"/><circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="2.5"/></svg>'
    )
