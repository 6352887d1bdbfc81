"""The same for programs: runs and metrics as JSON, and the two things that a run can be asked for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from rlft_core.errors import UserError
from services.viewer.folders import METRICS, NotThere, run_folders
from services.viewer.metrics import MOST_POINTS
from services.viewer.site import Site
from services.viewer.status import RunState, state_of
from services.viewer.steering import Scale, Stop, scale, stop

_MOST_BYTES = 16 * 1024
_Wish = TypeVar("_Wish", bound=BaseModel)


class TooLarge(UserError):
    """A request is larger than any that means something."""


def api_routes(site: Site) -> APIRouter:
    """Routes under /api."""
    routes = APIRouter(prefix="/api")

    @routes.get("/runs")
    def runs(request: Request) -> dict[str, Any]:
        site.access.visitor(request)
        return {"runs": [_told(state_of(folder, site.metrics)) for folder in run_folders(site.runs)]}

    @routes.get("/runs/{name}")
    def run(request: Request, name: str) -> dict[str, Any]:
        site.access.visitor(request)
        return _told(site.run(name)[1])

    @routes.get("/runs/{name}/metrics")
    def metrics(
        request: Request,
        name: str,
        stage: str = "",
        metric: Annotated[list[str] | None, Query(max_length=64)] = None,
        points: Annotated[int, Query(ge=1, le=5000)] = MOST_POINTS,
    ) -> dict[str, Any]:
        site.access.visitor(request)
        folder, _ = site.run(name)
        log = site.metrics.log(folder / METRICS)
        if stage and stage not in log.stages:
            raise NotThere(
                f"'{name}' has recorded no stage '{stage[:60]}'; there are: {', '.join(log.stages) or 'none'}"
            )
        found = [log.read(one, metric, most=points) for one in ([stage] if stage else log.stages)]
        return {"stages": {one.name: {"steps": one.steps, "metrics": dict(one.columns)} for one in found}}

    @routes.post("/runs/{name}/stop")
    async def stop_run(request: Request, name: str) -> dict[str, Any]:
        folder, state, wish = await _asked(site, request, name, Stop)
        return await run_in_threadpool(stop, folder, state, wish)

    @routes.post("/runs/{name}/scale")
    async def scale_run(request: Request, name: str) -> dict[str, Any]:
        folder, state, wish = await _asked(site, request, name, Scale)
        return await run_in_threadpool(scale, folder, state, wish)

    return routes


async def _asked(site: Site, request: Request, name: str, kind: type[_Wish]) -> tuple[Path, RunState, _Wish]:
    """Who asks is looked at before the body is: a stranger must not make us read one."""
    site.access.admin(request)
    folder, state = await run_in_threadpool(site.run, name)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise TooLarge(f"a request to a run has {_MOST_BYTES} bytes at most")
    try:
        return folder, state, kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        told = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False, include_input=False)]
        raise RequestValidationError(told) from error


def _told(state: RunState) -> dict[str, Any]:
    """The state as JSON; the curve of the list by its own name."""
    told = asdict(state)
    spark = told.pop("spark")
    return {**told, "headline": {"metric": spark["label"], "values": spark["values"]}, "metrics": spark["last"]}
