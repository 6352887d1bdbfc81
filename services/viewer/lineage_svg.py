"""Draws a lineage graph as SVG, from left to right: what something is made of always stands to the left of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias
from urllib.parse import quote

from markupsafe import Markup, escape

from services.viewer.lineage import KINDS, Edge, Graph, Node

WIDTH, HEIGHT = 172, 60
_GAP_X, _GAP_Y, _MARGIN, _PASSAGE = 48, 16, 6, 4
_SWEEPS = 6
_LETTERS = 25  # of a label; what is longer is cut, and whole in the tooltip
Stop: TypeAlias = str | tuple[str, str, int]
"""A node, or the passage of lines (source, kind, column) through a column."""
_SIGNS = {"done": "✓", "before": "◌", "next": "·", "": ""}


@dataclass(frozen=True, slots=True)
class Line:
    """One step of the way to a model, in words: for screens that are small and for readers that do not see."""

    node: Node
    told: str
    uses: tuple[str, ...]


def lines_of(graph: Graph) -> list[Line]:
    """Every stage after all that it uses."""
    columns = _columns(graph)
    ordered = sorted(graph.nodes.values(), key=lambda node: (columns[node.id], node.run, node.label))
    return [
        Line(
            node,
            node.detail or KINDS[node.kind],
            tuple(f"{edge.role}: {_named(graph.nodes[edge.source])}" for edge in graph.edges if edge.target == node.id),
        )
        for node in ordered
        if node.run or node.kind == "served"
    ]


def draw(graph: Graph, *, run: str) -> Markup:
    """The graph; nodes of `run` itself stand out, those of other runs lead to their pages."""
    columns = _columns(graph)
    edges = [edge for edge in graph.edges if columns[edge.source] < columns[edge.target]]
    ways = [_way(edge, columns) for edge in edges]
    places = _places(graph, columns, ways)
    width = (max(columns.values(), default=0) + 1) * (WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = max((y + _height(stop) for stop, (_, y) in places.items()), default=0) + _MARGIN
    parts = [_edge(edge, way, places) for edge, way in zip(edges, ways, strict=True)]
    parts += [_node(node, places[node.id], own=node.run == run) for node in graph.nodes.values()]
    label = f"Lineage of {run}: {len(graph.nodes)} parts, also listed below"
    return Markup(
        f'<svg class="lineage" viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}" role="group" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _columns(graph: Graph) -> dict[str, int]:
    """The longest way from the left to each node; what is made of nothing stands right before its first use. Going in circles,
    which only a recipe edited by hand can, counts as nothing."""
    sources: dict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        sources[edge.target].append(edge.source)
    found: dict[str, int] = {}

    def column(node: str, above: tuple[str, ...]) -> int:
        if node not in found:
            below = [column(source, (*above, node)) for source in sources[node] if source not in (*above, node)]
            found[node] = max(below, default=-1) + 1
        return found[node]

    for node in graph.nodes:
        column(node, ())
    for node in graph.nodes:
        uses = [found[edge.target] for edge in graph.edges if edge.source == node]
        if not sources[node] and uses:
            found[node] = max(0, min(uses) - 1)
    return found


def _way(edge: Edge, columns: Mapping[str, int]) -> list[Stop]:
    """From the source to the target, with a passage through each column between, so that no line runs behind a node. Lines of
    one kind from one source share their passages."""
    between = range(columns[edge.source] + 1, columns[edge.target])
    return [edge.source, *((edge.source, _style(edge.role), column) for column in between), edge.target]


def _places(
    graph: Graph, columns: Mapping[str, int], ways: Sequence[Sequence[Stop]]
) -> dict[Stop, tuple[float, float]]:
    """Top left corners. In each column by the mean height of the neighbours, so that few lines cross."""
    rows: dict[int, list[Stop]] = defaultdict(list)
    near: dict[Stop, list[Stop]] = defaultdict(list)
    for stop in dict.fromkeys([*graph.nodes, *(stop for way in ways for stop in way)]):
        rows[_column(stop, columns)].append(stop)
    for one, other in dict.fromkeys(pair for way in ways for pair in pairwise(way)):
        near[one].append(other)
        near[other].append(one)
    tallest = max((_stacked(stops) for stops in rows.values()), default=0.0)
    tops: dict[Stop, float] = {}
    for stops in rows.values():
        tops |= _spread(stops, tallest)
    for sweep in range(_SWEEPS):
        for index in sorted(rows, reverse=bool(sweep % 2)):
            rows[index].sort(
                key=lambda stop: fmean([tops[other] + _height(other) / 2 for other in near[stop]] or [tops[stop]])
            )
            tops |= _spread(rows[index], tallest)
    return {stop: (_MARGIN + _column(stop, columns) * (WIDTH + _GAP_X), _MARGIN + top) for stop, top in tops.items()}


def _column(stop: Stop, columns: Mapping[str, int]) -> int:
    return columns[stop] if isinstance(stop, str) else stop[2]


def _height(stop: Stop) -> float:
    return HEIGHT if isinstance(stop, str) else _PASSAGE


def _stacked(stops: Sequence[Stop]) -> float:
    return sum(_height(stop) + _GAP_Y for stop in stops) - _GAP_Y


def _spread(stops: Sequence[Stop], tallest: float) -> dict[Stop, float]:
    """Tops, one under the other, the whole in the middle."""
    top = (tallest - _stacked(stops)) / 2
    found = {}
    for stop in stops:
        found[stop] = top
        top += _height(stop) + _GAP_Y
    return found


def _node(node: Node, place: tuple[float, float], *, own: bool) -> str:
    x, y = place
    css = f"node kind-{node.kind}{' own' if own else ''}{' open' if node.state in ('before', 'next') else ''}"
    state = _SIGNS[node.state]
    small = node.detail or KINDS[node.kind]
    above = node.run if node.run and not own else ("this run" if own else KINDS[node.kind])
    texts = (("run", 16, above), ("name", 33, f"{state} {node.label}".strip()), ("small", 49, small))
    inner = "".join(
        f'<text class="{kind}" x="{x + 12:.1f}" y="{y + dy:.1f}">{escape(_cut(text))}</text>'
        for kind, dy, text in texts
        if kind != "small" or node.detail
    )
    drawn = (
        f'<g class="{css}"><title>{escape(_named(node))}: {escape(small)}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="9"/>'
        f'<rect class="edge-of" x="{x:.1f}" y="{y:.1f}" width="5" height="{HEIGHT}" rx="2.5"/>{inner}</g>'
    )
    if not node.run:
        return drawn
    href = f"/runs/{quote(node.run)}?stage={quote(node.label)}"
    return f'<a href="{escape(href)}" aria-label="{escape(_named(node))}">{drawn}</a>'


def _edge(edge: Edge, way: Sequence[Stop], places: Mapping[Stop, tuple[float, float]]) -> str:
    path = ""
    for one, other in pairwise(way):
        x0, y0 = places[one][0] + WIDTH, places[one][1] + _height(one) / 2
        x1, y1 = places[other][0], places[other][1] + _height(other) / 2
        path += f" L{x0:.1f} {y0:.1f}" if path else f"M{x0:.1f} {y0:.1f}"
        path += f" C{x0 + _GAP_X / 2:.1f} {y0:.1f} {x1 - _GAP_X / 2:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    return f'<path class="link {_style(edge.role)}" d="{path}"><title>{escape(edge.role)}</title></path>'


def _style(role: str) -> str:
    """The looks of a line, explained in the page's legend."""
    if role.endswith("rows"):
        return "rows"
    if role.startswith(("reward", "judges")):
        return "scores"
    return "measures" if role.startswith("system") else "serves" if role.startswith("served") else "starts"


def _named(node: Node) -> str:
    return f"{node.run}:{node.label}" if node.run else node.label


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
