"""What all routes share: the runs folder, who may do what, what was read before, and how a page is made."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from services.observe.wording import duration
from services.viewer.access import Access, Visitor
from services.viewer.folders import run_folder
from services.viewer.metrics import MetricsStore
from services.viewer.samples import SampleStore
from services.viewer.status import RunState, ago, remaining, state_of

_NUM_ABREAST = 3  # differences beside the systems, as in the report


@dataclass(frozen=True, slots=True)
class Site:
    """A viewer of one folder of runs."""

    runs: Path
    access: Access
    metrics: MetricsStore
    samples: SampleStore
    templates: Environment

    def run(self, name: str) -> tuple[Path, RunState]:
        """A run's folder and what it does. Raises NotThere."""
        folder = run_folder(self.runs, name)
        return folder, state_of(folder, self.metrics)

    def page(self, template: str, visitor: Visitor | None, **content: Any) -> Response:
        """A whole page."""
        told = self.templates.get_template(template).render(visitor=visitor, **content)
        return HTMLResponse(told)

    def tag(self, request: Request, version: str) -> str:
        """The tag of a part that is the same whenever `version` is."""
        return _tag(f"{request.url} {version}")

    def part(self, request: Request, template: str, version: str = "", **content: Any) -> Response:
        """A part of a page that is asked for again and again: 304 while it stays as it was.

        With a `version`, that is known without making the part.
        """
        tag = self.tag(request, version) if version else ""
        if version and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        told = self.templates.get_template(template).render(**content)
        tag = tag or _tag(told)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return HTMLResponse(told, headers={"ETag": tag})


def environment() -> Environment:
    """Templates of the viewer, and those of the report that it shares. All text is escaped."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader("services.viewer"), PackageLoader("services.observe")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "ago": _ago,
        "remaining": remaining,
        "duration": duration,
        "clock": _clock,
    }
    made.filters.update(filters)
    made.globals["num_abreast"] = _NUM_ABREAST
    return made


def _ago(moment_s: float) -> str:
    return ago(time.time() - moment_s)


def _clock(moment_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment_s))


def _tag(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'
