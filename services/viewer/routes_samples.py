"""Pages of what a model wrote: the samples of a step with every token coloured, and one row followed over the steps."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from rlft_core.errors import DataError
from services.observe import charts
from services.observe.charts import Series
from services.observe.report import held_out_of
from services.observe.report_curves import Figure
from services.viewer.folders import REPORT, NotThere
from services.viewer.sample_views import SampleView, prompt_view, sample_view, signed, watch_rewards
from services.viewer.samples import SampleIndex, Watched, evaluated_row, watched_rows
from services.viewer.site import Site

PROMPTS_A_PAGE = 4
_MOST_OF_ROW = 8  # samples of one row at one step
_MOST_CHOICES = 200


def sample_routes(site: Site) -> APIRouter:
    """Routes of the samples of a run."""
    routes = APIRouter()

    @routes.get("/runs/{name}/samples")
    def samples(request: Request, name: str, stage: str = "", step: int | None = None, page: int = 0) -> Response:
        visitor = site.access.visitor(request)
        folder, run = site.run(name)
        index = site.samples.index(folder)
        content = _step_content(index, stage, step, page)
        return site.page(
            "samples.html.j2", visitor, run=run, has_report=(folder / REPORT).is_file(), stages=index.stages, **content
        )

    @routes.get("/runs/{name}/rows")
    def rows(request: Request, name: str, id: str = "", stage: str = "") -> Response:
        visitor = site.access.visitor(request)
        folder, run = site.run(name)
        index = site.samples.index(folder)
        watched = watched_rows(folder)
        choices = {one: list(rows)[:_MOST_CHOICES] for one, rows in watched.items()}
        for one in index.stages:
            known = choices.setdefault(one, [])
            known += [row for row in index.row_ids(one) if row not in known][: _MOST_CHOICES - len(known)]
        choices = {one: ids for one, ids in choices.items() if ids}
        stage = stage or next(reversed(choices), "")
        if stage and stage not in choices and stage not in index.stages:
            raise NotThere(f"'{name}' has no stage '{stage[:60]}' with samples")
        row_id = id or next(iter(choices.get(stage, ())), "")
        row = watched.get(stage, {}).get(row_id)
        try:
            held_out = evaluated_row(folder, row_id)
        except DataError:
            held_out = None
        return site.page(
            "rows.html.j2",
            visitor,
            run=run,
            has_report=(folder / REPORT).is_file(),
            choices=choices,
            stage=stage,
            row_id=row_id,
            watched=row,
            rewards=[signed(look.reward) if look.reward is not None else "none" for look in row.looks] if row else [],
            curve=_figure(row) if row is not None else None,
            sampled=_sampled(index, stage, row_id),
            held_out=held_out_of([held_out])[0] if held_out is not None else None,
        )

    return routes


def _step_content(index: SampleIndex, stage: str, step: int | None, page: int) -> dict[str, Any]:
    """The prompts of one page of one step. A step between two that were written counts as the one before."""
    if stage and stage not in index.stages:
        raise NotThere(f"no samples of a stage '{stage[:60]}'; there are some of: {', '.join(index.stages) or 'none'}")
    stage = stage or next(reversed(index.stages), "")
    steps = index.steps(stage)
    if step is None or not steps:
        step = steps[-1] if steps else 0
    step = max((one for one in steps if one <= step), default=steps[0] if steps else 0)
    by_row = index.at(stage, step)
    num_pages = max(1, -(-len(by_row) // PROMPTS_A_PAGE))
    page = min(max(page, 0), num_pages - 1)
    chosen = list(by_row.items())[page * PROMPTS_A_PAGE : (page + 1) * PROMPTS_A_PAGE]
    scale = index.scale(stage)
    return {
        "stage": stage,
        "step": step,
        "steps": steps,
        "page": page,
        "num_pages": num_pages,
        "prompts": [prompt_view(row_id, rows, scale) for row_id, rows in chosen],
        "has_tokens": scale > 0,
        "scale": signed(scale),
        "num_damaged": index.num_damaged,
        "followed": set(index.row_ids(stage)),
    }


def _sampled(index: SampleIndex, stage: str, row_id: str) -> list[tuple[int, list[SampleView]]]:
    """The samples of one row by step, the best first."""
    scale = index.scale(stage)
    found = []
    for step, rows in index.of_row(stage, row_id).items():
        best = sorted(rows, key=lambda row: -float(row.get("reward") or 0.0))[:_MOST_OF_ROW]
        found.append((step, [sample_view(row, place, scale) for place, row in enumerate(best, start=1)]))
    return found


def _figure(row: Watched) -> Figure | None:
    steps, rewards = watch_rewards(row)
    if len(steps) < 2:
        return None
    chart = charts.line_chart([Series("Reward", steps, rewards)], label=f"Reward of {row.id} over {len(steps)} looks")
    return Figure("Reward of this row", "its greedy answer", chart, signed(rewards[-1]))
