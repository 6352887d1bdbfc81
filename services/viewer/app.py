"""The viewer as a web application: puts routes, access, headers and error pages together. Knows no run."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rlft_core.errors import DeadlineError, UserError
from services.keys import Keys
from services.viewer.access import LOCAL, Access, NotAllowed
from services.viewer.folders import NotThere
from services.viewer.metrics import MetricsStore
from services.viewer.routes_api import TooLarge, api_routes
from services.viewer.routes_login import login_routes
from services.viewer.routes_pages import page_routes
from services.viewer.routes_samples import sample_routes
from services.viewer.samples import SampleStore
from services.viewer.site import Site, environment

#: Our own scripts and styles, nothing from elsewhere. Heat maps set the strength of a colour in a style attribute.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: Address -> (package, folders and file, media type). The report's style is the viewer's too.
_FILES = {
    "report.css": ("services.observe", ("templates", "report.css"), "text/css"),
    "viewer.css": ("services.viewer", ("static", "viewer.css"), "text/css"),
    "viewer.js": ("services.viewer", ("static", "viewer.js"), "text/javascript"),
    "samples.js": ("services.viewer", ("static", "samples.js"), "text/javascript"),
}


def create_app(runs: Path, keys: Keys) -> FastAPI:
    """The viewer of one folder of runs."""
    app = FastAPI(title="rlft viewer", docs_url=None, redoc_url=None, openapi_url=None)
    site = Site(runs, Access(keys), MetricsStore(), SampleStore(), environment())
    for routes in (page_routes, sample_routes, api_routes, login_routes):
        app.include_router(routes(site))
    _add_files(app)
    _add_errors(app, site)
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    if not keys:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL), www_redirect=False)

    @app.middleware("http")
    async def headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Cache-Control", "no-cache, private")
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return app


def _add_files(app: FastAPI) -> None:
    found = {}
    for name, (package, parts, media) in _FILES.items():
        content = importlib.resources.files(package).joinpath(*parts).read_bytes()
        found[name] = (content, media, f'"{hashlib.sha256(content).hexdigest()[:20]}"')

    @app.get("/static/{name}")
    def file(name: str, request: Request) -> Response:
        if name not in found:
            raise NotThere(f"there is no file '{name[:60]}'")
        content, media, tag = found[name]
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, media_type=media, headers={"ETag": tag})

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}


def _add_errors(app: FastAPI, site: Site) -> None:
    def shown(request: Request, message: str, status: int) -> Response:
        if request.url.path.startswith("/api/") or "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"error": {"message": message}}, status_code=status)
        page = site.templates.get_template("error.html.j2").render(message=message, status=status, visitor=None)
        return HTMLResponse(page, status_code=status)

    @app.exception_handler(NotAllowed)
    async def not_allowed(request: Request, error: NotAllowed) -> Response:
        wants_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        if error.status == 401 and wants_page and not request.url.path.startswith("/api/"):
            return RedirectResponse("/login", status_code=303)
        response = shown(request, error.message, error.status)
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.exception_handler(NotThere)
    async def not_there(request: Request, error: NotThere) -> Response:
        return shown(request, str(error), 404)

    @app.exception_handler(TooLarge)
    async def too_large(request: Request, error: TooLarge) -> Response:
        return shown(request, str(error), 413)

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> Response:
        return shown(request, str(error), 409)

    @app.exception_handler(DeadlineError)
    async def late(request: Request, error: DeadlineError) -> Response:
        return shown(request, str(error), 504)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return shown(request, f"this cannot be understood: {told}", 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return shown(request, str(error.detail), error.status_code)
