"""Pages of runs: the list, one run with its live parts, evaluation, lineage, recipe, and two runs compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from rlft_core.errors import DataError
from services.observe.report import evaluations_of
from services.observe.report_curves import chosen_figures, curves_of
from services.observe.report_reward_model import findings_of
from services.observe.report_watch import watch_of
from services.observe.run_files import reward_models_of, watches_of
from services.observe.wording import compact
from services.viewer import compare
from services.viewer.folders import METRICS, RECIPE, REPORT, SUMMARY, NotThere, age_key, read_object, run_folders
from services.viewer.judges import judge_reports
from services.viewer.lineage import lineage_of
from services.viewer.lineage_svg import draw, lines_of
from services.viewer.site import Site
from services.viewer.sparkline import sparkline
from services.viewer.status import STATES, RunState, facts_of, state_of

#: Value in the address -> what it is called.
SMOOTHINGS = {"0": "none", "0.5": "light", "1": "medium", "3": "strong"}
SORTS = {"newest": "newest first", "name": "name", "state": "state", "value": "reward or loss"}
_MOST_CURVES = 24
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
Metrics = Annotated[list[str], Query(alias="metric", max_length=_MOST_CURVES)]


def page_routes(site: Site) -> APIRouter:
    """Routes of the pages that a person opens."""
    routes = APIRouter()
    _list_routes(routes, site)
    _run_routes(routes, site)
    _other_routes(routes, site)
    _compare_routes(routes, site)
    return routes


def _list_routes(routes: APIRouter, site: Site) -> None:
    @routes.get("/")
    def runs(request: Request, q: str = "", state: str = "", sort: str = "newest") -> Response:
        visitor = site.access.visitor(request)
        return site.page("runs.html.j2", visitor, query=str(request.url.query), **_listed(site, q, state, sort))

    @routes.get("/parts/runs")
    def runs_part(request: Request, q: str = "", state: str = "", sort: str = "newest") -> Response:
        site.access.visitor(request)
        return site.part(request, "runs_part.html.j2", **_listed(site, q, state, sort))


def _run_routes(routes: APIRouter, site: Site) -> None:
    @routes.get("/runs/{name}")
    def run(request: Request, name: str, metric: Metrics = [], stage: str = "", smoothing: str = "1") -> Response:  # noqa: B006
        visitor = site.access.visitor(request)
        folder, state = site.run(name)
        log = site.metrics.log(folder / METRICS)
        stage = stage or compare.default_stage(log)
        return site.page(
            "run.html.j2",
            visitor,
            **_head(state),
            **_curves(site, folder, stage, metric, smoothing),
            query=str(request.url.query),
            stages=log.stages,
            stage=stage,
            smoothings=SMOOTHINGS,
            smoothing=smoothing,
            known_metrics=log.metrics(stage),
            chosen=metric,
            has_report=(folder / REPORT).is_file(),
        )

    @routes.get("/parts/runs/{name}/head")
    def head(request: Request, name: str) -> Response:
        site.access.visitor(request)
        return site.part(request, "head_part.html.j2", **_head(site.run(name)[1]))

    @routes.get("/parts/runs/{name}/curves")
    def curves(request: Request, name: str, metric: Metrics = [], stage: str = "", smoothing: str = "1") -> Response:  # noqa: B006
        site.access.visitor(request)
        folder, _ = site.run(name)
        log = site.metrics.log(folder / METRICS)
        stage = stage or compare.default_stage(log)
        version = f"{log.version} {age_key(folder / 'stages' / stage / 'watch.jsonl') if stage in log.stages else ''}"
        known = request.headers.get("if-none-match")
        made: dict[str, Any] = {}
        if known != site.tag(request, version):
            made = _curves(site, folder, stage, metric, smoothing)
        return site.part(request, "curves_part.html.j2", version, **made)


def _other_routes(routes: APIRouter, site: Site) -> None:
    @routes.get("/runs/{name}/evaluation")
    def evaluation(request: Request, name: str) -> Response:
        visitor = site.access.visitor(request)
        folder, state = site.run(name)
        return site.page(
            "evaluation.html.j2",
            visitor,
            run=state,
            has_report=(folder / REPORT).is_file(),
            evaluations=evaluations_of(read_object(folder / SUMMARY)),
            reward_models=[findings_of(stage, result) for stage, result in _reward_models(folder).items()],
            judges=judge_reports(folder),
        )

    @routes.get("/runs/{name}/recipe")
    def recipe(request: Request, name: str) -> Response:
        visitor = site.access.visitor(request)
        folder, state = site.run(name)
        text = json.dumps(read_object(folder / RECIPE), indent=2, ensure_ascii=False)
        return site.page("recipe.html.j2", visitor, run=state, recipe=text, has_report=(folder / REPORT).is_file())

    @routes.get("/runs/{name}/lineage")
    def lineage(request: Request, name: str) -> Response:
        visitor = site.access.visitor(request)
        folder, state = site.run(name)
        graph = lineage_of(site.runs, name)
        return site.page(
            "lineage.html.j2",
            visitor,
            run=state,
            has_report=(folder / REPORT).is_file(),
            drawing=draw(graph, run=name),
            lines=lines_of(graph),
            notes=graph.notes,
        )

    @routes.get("/runs/{name}/report")
    def report(request: Request, name: str) -> Response:
        site.access.visitor(request)
        folder, _ = site.run(name)
        if not (folder / REPORT).is_file():
            raise NotThere(f"'{name}' has no report yet; `rlft report {name}` builds one")
        return FileResponse(folder / REPORT, headers={"Content-Security-Policy": _REPORT_POLICY})


def _compare_routes(routes: APIRouter, site: Site) -> None:
    @routes.get("/compare")
    def compared(request: Request, a: str = "", b: str = "", smoothing: str = "1", metric: Metrics = []) -> Response:  # noqa: B006
        visitor = site.access.visitor(request)
        names = [path.name for path in run_folders(site.runs)]
        content: dict[str, Any] = {"sides": [], "figures": [], "shared": [], "scores": None, "differences": []}
        if a and b:
            content = _compared(site, [a, b], metric, smoothing)
        return site.page(
            "compare.html.j2",
            visitor,
            names=names,
            asked=(a, b),
            smoothings=SMOOTHINGS,
            smoothing=smoothing,
            chosen=metric,
            **content,
        )


def _listed(site: Site, q: str, state: str, sort: str) -> dict[str, Any]:
    """The runs to show, and what the form over them holds."""
    found = [state_of(folder, site.metrics) for folder in run_folders(site.runs)]
    words = q.lower().split()
    shown = [
        run
        for run in found
        if (not state or run.state == state)
        and all(word in f"{run.name} {run.stage} {run.model}".lower() for word in words)
    ]
    shown.sort(key=lambda run: run.name)
    if sort == "state":
        shown.sort(key=lambda run: list(STATES).index(run.state))
    elif sort == "value":
        shown.sort(key=lambda run: -run.spark.values[-1] if run.spark.values else float("inf"))
    elif sort != "name":
        shown.sort(key=lambda run: (not run.works, -run.heard_s))
    return {
        "runs": shown,
        "num_all": len(found),
        "sparks": {run.name: sparkline(run.spark) for run in shown},
        "newest": {run.name: compact(run.spark.values[-1]) if run.spark.values else "" for run in shown},
        "states": {name: sum(run.state == name for run in found) for name in STATES},
        "sorts": SORTS,
        "asked": {"q": q, "state": state, "sort": sort},
    }


def _head(state: RunState) -> dict[str, Any]:
    return {"run": state, "facts": facts_of(state)}


def _curves(site: Site, folder: Path, stage: str, metrics: Sequence[str], smoothing: str) -> dict[str, Any]:
    """The figures of a stage: those that are chosen, else those that everyone looks at."""
    log = site.metrics.log(folder / METRICS)
    times = smoothing_of(smoothing)
    looks = _watches(folder).get(stage, ())
    content: dict[str, Any] = {"num_damaged": log.num_damaged, "watch": watch_of(looks) if looks else None}
    if metrics:
        figures = chosen_figures(log.read(stage, metrics), metrics, smoothing=times)
        return {**content, "figures": figures, "others": (), "num_steps": len(log.read(stage, ()).steps)}
    found = curves_of(log.read(stage), (), smoothing=times)
    return {**content, "figures": found.figures, "others": found.others, "num_steps": found.num_steps}


def smoothing_of(text: str) -> float:
    """How much to smooth; what is none of the choices counts as the usual."""
    return float(text) if text in SMOOTHINGS else 1.0


def _compared(site: Site, specs: Sequence[str], metrics: Sequence[str], smoothing: str) -> dict[str, Any]:
    sides = [compare.side_of(site.runs, spec, site.metrics) for spec in specs]
    shared = compare.shared_metrics(sides)
    chosen = [metric for metric in metrics if metric in shared]
    shown = chosen or [metric for metric in shared if metric in compare.USUAL] or shared[:6]
    return {
        "sides": sides,
        "figures": compare.figures_over(sides, shown, smoothing=smoothing_of(smoothing)),
        "shared": shared,
        "scores": compare.scores_of(site.runs, [side.run for side in sides]),
        "differences": compare.recipe_differences(site.runs, sides),
    }


def _watches(folder: Path) -> dict[str, Any]:
    """The watch of each stage; a damaged file is gone without until it is written again."""
    try:
        return dict(watches_of(folder))
    except DataError:
        return {}


def _reward_models(folder: Path) -> dict[str, Any]:
    try:
        return reward_models_of(folder)
    except DataError:
        return {}
