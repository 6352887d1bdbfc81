"""Charts as inline SVG text: lines and bars over steps, intervals side by side, calibration. Computes no metrics.

Colours are classes (`c0`, `c1`, ...) that the page's style sheet fills in, so one drawing serves light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from services.observe.wording import MINUS, compact

WIDTH, HEIGHT = 360, 205
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 36
NUM_COLORS = 8
_MAX_POINTS = 400  # more than the pixels can show
_MAX_BARS = 60
_SMOOTH_FROM = 12  # fewer points are drawn as they are


@dataclass(frozen=True, slots=True)
class Series:
    """One line: `steps` [n] increasing, `values` [n] finite, and its place among the colours.

    `low` and `high` [n] are the bounds of a band around it.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    color: int = 0
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def line_chart(series: Sequence[Series], *, label: str, x_label: str = "step", smoothing: float = 1.0) -> Markup:
    """Lines over steps, each faint as measured and strong as smoothed (see `smooth`), or only as measured with `smoothing` 0.
    `label` is for screen readers."""
    shown = [_thinned(one) for one in series]
    xs = [x for one in shown for x in one.steps]
    ys = [y for one in shown for y in one.values]
    x_ticks, y_ticks = _integer_ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_of = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_of = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_ticks, y_ticks, x_of=x_of, y_of=y_of, x_label=x_label)]
    for one in shown:
        if len(one.values) >= _SMOOTH_FROM and not smoothing:
            parts.append(_path(one.steps, one.values, x_of=x_of, y_of=y_of, css=f"line c{one.color}"))
        elif len(one.values) >= _SMOOTH_FROM:
            smoothed = smooth(one.values, times=smoothing)
            parts.append(_path(one.steps, one.values, x_of=x_of, y_of=y_of, css=f"line raw c{one.color}"))
            parts.append(_path(one.steps, smoothed, x_of=x_of, y_of=y_of, css=f"line c{one.color}"))
        else:
            parts.append(_path(one.steps, one.values, x_of=x_of, y_of=y_of, css=f"line c{one.color}"))
            parts += [
                _dot(x_of(x), y_of(y), css=f"dot c{one.color}") for x, y in zip(one.steps, one.values, strict=True)
            ]
        parts += _hover_points(one, x_of=x_of, y_of=y_of)
    return _svg(parts, label=label)


def band_chart(one: Series, *, label: str, marked: Sequence[float] = ()) -> Markup:
    """One line as measured, a dot at each step, its band if it has one; `marked` steps stand out."""
    x_ticks = _integer_ticks(min(one.steps), max(one.steps))
    y_ticks = ticks(min((*one.values, *one.low)), max((*one.values, *one.high)))
    x_of = _scale(min(one.steps), max(one.steps), LEFT, WIDTH - RIGHT)
    y_of = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_ticks, y_ticks, x_of=x_of, y_of=y_of, x_label="step")]
    if one.low and len(one.steps) > 1:
        around = [*zip(one.steps, one.high, strict=True), *reversed([*zip(one.steps, one.low, strict=True)])]
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in around)
        parts.append(f'<polygon class="band c{one.color}" points="{points}"/>')
    parts.append(_path(one.steps, one.values, x_of=x_of, y_of=y_of, css=f"line c{one.color}"))
    for x, y in zip(one.steps, one.values, strict=True):
        parts.append(_dot(x_of(x), y_of(y), css="dot marked" if x in marked else f"dot c{one.color}"))
    parts += _hover_points(one, x_of=x_of, y_of=y_of)
    return _svg(parts, label=label)


def calibration_chart(bins: Sequence[Mapping[str, float]], *, label: str) -> Markup:
    """Bins {confidence, accuracy, n} as dots, larger with more pairs in them; on the diagonal, what is said comes true."""
    x_ticks, y_ticks = ticks(0.5, 1.0), ticks(0.0, 1.0)
    x_of = _scale(0.5, 1.0, LEFT, WIDTH - RIGHT)
    y_of = _scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = [
        _axes(x_ticks, y_ticks, x_of=x_of, y_of=y_of, x_label="probability it gives"),
        f'<line class="diagonal" x1="{x_of(0.5):.1f}" y1="{y_of(0.5):.1f}" x2="{x_of(1.0):.1f}" y2="{y_of(1.0):.1f}"/>',
    ]
    most = max((bin_["n"] for bin_ in bins), default=1)
    for bin_ in bins:
        told = f"gives {bin_['confidence']:.2f}, right {bin_['accuracy']:.2f} of the time, {bin_['n']:g} pairs"
        parts.append(
            f'<circle class="dot c0" cx="{x_of(bin_["confidence"]):.1f}" cy="{y_of(bin_["accuracy"]):.1f}" '
            f'r="{3 + 5 * math.sqrt(bin_["n"] / most):.1f}"><title>{escape(told)}</title></circle>'
        )
    return _svg(parts, label=label)


def stacked_bars(steps: Sequence[float], parts: Mapping[str, Sequence[float]], *, label: str) -> Markup:
    """Bars over steps, each made of the parts' values (none below 0); neighbouring steps are averaged when many."""
    size = math.ceil(len(steps) / _MAX_BARS)
    bins = [range(at, min(at + size, len(steps))) for at in range(0, len(steps), size)]
    heights = {name: [sum(values[i] for i in bin_) / len(bin_) for bin_ in bins] for name, values in parts.items()}
    top = max(sum(column) for column in zip(*heights.values(), strict=True))
    y_ticks = ticks(0.0, top or 1.0)
    y_of = _scale(0.0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    first, last = steps[0] - 0.5, steps[-1] + 0.5
    x_of = _scale(first, last, LEFT, WIDTH - RIGHT)
    drawn = [_axes(_integer_ticks(steps[0], steps[-1]), y_ticks, x_of=x_of, y_of=y_of, x_label="step")]
    for index, bin_ in enumerate(bins):
        left, right = x_of(steps[bin_[0]] - 0.5), x_of(steps[bin_[-1]] + 0.5)
        gap = min(1.0, (right - left) * 0.15)
        base = 0.0
        for color, (name, values) in enumerate(heights.items()):
            y0, y1 = y_of(base), y_of(base + values[index])
            base += values[index]
            if y0 - y1 > 0.05:
                told = escape(f"step {steps[bin_[0]]:g}: {name} {values[index]:.2f} s")
                drawn.append(
                    f'<rect class="bar c{color % NUM_COLORS}" x="{left + gap / 2:.1f}" y="{y1:.1f}" '
                    f'width="{right - left - gap:.1f}" height="{y0 - y1:.1f}"><title>{told}</title></rect>'
                )
    return _svg(drawn, label=label)


def interval_chart(
    estimates: Sequence[tuple[str, Mapping[str, float]]], *, label: str, bounds: tuple[float, float] | None = None
) -> Markup:
    """One row for each (name, {mean, low, high}): a dot in its interval, all on one scale, from `bounds` if given."""
    width, row = 190, 17
    low = min(estimate["low"] for _, estimate in estimates) if bounds is None else bounds[0]
    high = max(estimate["high"] for _, estimate in estimates) if bounds is None else bounds[1]
    x_of = _scale(low, high, 6, width - 6)
    drawn = []
    for index, (name, estimate) in enumerate(estimates):
        y = row * index + row / 2
        x0, x1 = x_of(estimate["low"]), x_of(estimate["high"])
        told = escape(f"{name}: {estimate['mean']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}]")
        drawn.append(
            f'<g><title>{told}</title><line class="rule" x1="0" x2="{width}" y1="{y}" y2="{y}"/>'
            f'<line class="whisker c{index % NUM_COLORS}" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot c{index % NUM_COLORS}" cx="{x_of(estimate["mean"]):.1f}" cy="{y}" r="4"/></g>'
        )
    return _svg(drawn, label=label, width=width, height=row * len(estimates), css="intervals")


def smooth(values: Sequence[float], *, times: float = 1.0) -> list[float]:
    """Gaussian average around each point, so that nothing is shifted in time; width `times` n / 25 points, at least 1.

    `s_t = sum_u w(u - t) v_u / sum_u w(u - t)`, `w(d) = exp(-d^2 / (2 width^2))`, over |d| <= 3 width.
    """
    width = max(1.0, times * len(values) / 25)
    reach = math.ceil(3 * width)
    smoothed = []
    for at in range(len(values)):
        near = range(max(0, at - reach), min(len(values), at + reach + 1))
        weights = [math.exp(-((index - at) ** 2) / (2 * width**2)) for index in near]
        total = math.fsum(weight * values[index] for weight, index in zip(weights, near, strict=True))
        smoothed.append(total / math.fsum(weights))
    return smoothed


def ticks(low: float, high: float, *, target: int = 5) -> list[float]:
    """About `target` round numbers that enclose [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = (low - abs(low) * 0.1, high + abs(high) * 0.1) if low else (0.0, 1.0)
    raw = (high - low) / (target - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.7)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """The tick with as many decimals as its step needs: `0.25`, `1,200`, `2e-05`."""
    if abs(value) < step * 1e-6:
        return "0"
    if step < 1e-4 or abs(value) >= 1e6:
        return compact(value, digits=4)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def _integer_ticks(low: float, high: float) -> list[float]:
    inside = [tick for tick in ticks(low, high) if low <= tick <= high and float(tick).is_integer()]
    return inside or [low]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A linear map of [low, high] to [start, end]; a single value goes to the middle."""
    if high == low:
        return lambda _value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _axes(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    *,
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    x_label: str,
) -> str:
    drawn = []
    step = y_ticks[1] - y_ticks[0]
    for tick in y_ticks:
        y = y_of(tick)
        css = "zero" if abs(tick) < step * 1e-6 else "grid"
        drawn.append(f'<line class="{css}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        drawn.append(
            f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{tick_label(tick, step)}</text>'
        )
    x_step = x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else 1.0
    for tick in x_ticks:
        drawn.append(
            f'<text class="tick" x="{x_of(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
            f"{tick_label(tick, x_step)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(drawn)


def _path(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    x_of: Callable[[float], float],
    y_of: Callable[[float], float],
    css: str,
) -> str:
    points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{css}" points="{points}"/>'


def _dot(x: float, y: float, *, css: str) -> str:
    return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _hover_points(one: Series, *, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> list[str]:
    """Invisible circles that show the number under the pointer."""
    stride = math.ceil(len(one.steps) / 120)
    pairs = list(zip(one.steps, one.values, strict=True))[::stride]
    return [
        f'<circle class="hit" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="6">'
        f"<title>{escape(f'{one.name}, step {x:g}: {y:.4g}')}</title></circle>"
        for x, y in pairs
    ]


def _thinned(one: Series) -> Series:
    """At most `_MAX_POINTS` points, the means of neighbours."""
    size = math.ceil(len(one.steps) / _MAX_POINTS)
    if size == 1:
        return one
    starts = range(0, len(one.steps), size)
    means = [math.fsum(one.values[at : at + size]) / len(one.values[at : at + size]) for at in starts]
    return Series(name=one.name, steps=[one.steps[at] for at in starts], values=means, color=one.color)


def _svg(parts: Sequence[str], *, label: str, width: int = WIDTH, height: int = HEIGHT, css: str = "chart") -> Markup:
    # Everything in `parts` is either a number or went through escape(), so the text is safe as markup.
    return Markup(
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
