"""Draws a lineage graph as SVG, from left to right: what something is made of always stands to the left of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from urllib.parse import quote

from markupsafe import Markup, escape

from services.viewer.lineage import KINDS, Edge, Graph, Node

WIDTH, HEIGHT = 178, 60
_GAP_X, _GAP_Y, _MARGIN = 60, 18, 6
_SWEEPS = 6
_LETTERS = 24  # of a label; what is longer is cut, and whole in the tooltip
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
        if node.run
    ]


def draw(graph: Graph, *, run: str) -> Markup:
    """The graph; nodes of `run` itself stand out, those of other runs lead to their pages."""
    columns = _columns(graph)
    places = _places(graph, columns)
    width = (max(columns.values(), default=0) + 1) * (WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = max((y for _, y in places.values()), default=0) + HEIGHT + _MARGIN
    parts = [_edge(edge, places) for edge in graph.edges if edge.source != edge.target]
    parts += [_node(node, places[node.id], own=node.run == run) for node in graph.nodes.values()]
    label = f"Lineage of {run}: {len(graph.nodes)} parts, also listed below"
    return Markup(
        f'<svg class="lineage" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _columns(graph: Graph) -> dict[str, int]:
    """The longest way from the left to each node; going in circles, which only a recipe edited by hand can, counts as nothing."""
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
    return found


def _places(graph: Graph, columns: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """Top left corners. In each column by the mean height of the neighbours, so that few lines cross."""
    rows: dict[int, list[str]] = defaultdict(list)
    for node in graph.nodes:
        rows[columns[node]].append(node)
    near: dict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        near[edge.source].append(edge.target)
        near[edge.target].append(edge.source)
    tallest = max((len(nodes) for nodes in rows.values()), default=0)
    middle = _spread(rows, tallest)
    for sweep in range(_SWEEPS):
        for index in sorted(rows, reverse=bool(sweep % 2)):
            rows[index].sort(key=lambda node: fmean([middle[other] for other in near[node]] or [middle[node]]))
            middle |= _spread({index: rows[index]}, tallest)
    return {node: (_MARGIN + columns[node] * (WIDTH + _GAP_X), _MARGIN + middle[node]) for node in middle}


def _spread(rows: Mapping[int, Sequence[str]], tallest: int) -> dict[str, float]:
    """Heights that fill the column evenly."""
    whole = tallest * (HEIGHT + _GAP_Y)
    return {
        node: (place + 0.5) * whole / len(nodes) - (HEIGHT + _GAP_Y) / 2
        for nodes in rows.values()
        for place, node in enumerate(nodes)
    }


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


def _edge(edge: Edge, places: Mapping[str, tuple[float, float]]) -> str:
    (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
    x0, y0, y1 = x0 + WIDTH, y0 + HEIGHT / 2, y1 + HEIGHT / 2
    bend = max(30.0, (x1 - x0) * 0.45)
    return (
        f'<path class="link {_style(edge.role)}" d="M{x0:.1f} {y0:.1f} C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} '
        f'{x1:.1f} {y1:.1f}"><title>{escape(edge.role)}</title></path>'
    )


def _style(role: str) -> str:
    """The looks of a line, explained in the page's legend."""
    if role.endswith("rows"):
        return "rows"
    if role.startswith(("reward", "judges")):
        return "scores"
    return "measures" if role.startswith("system") else "starts"


def _named(node: Node) -> str:
    return f"{node.run}:{node.label}" if node.run else node.label


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
