"""Showing a key in a browser, once for twelve hours, and taking it back."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from services.viewer.access import COOKIE, SESSION_S, NotAllowed
from services.viewer.site import Site

_MOST_BYTES = 4096


def login_routes(site: Site) -> APIRouter:
    """Routes of logging in and out."""
    routes = APIRouter()

    @routes.get("/login")
    def ask(request: Request) -> Response:
        if not site.access.keys:
            return RedirectResponse("/", status_code=303)
        return site.page("login.html.j2", None, refused="")

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        try:
            name, _ = site.access.log_in(await _secret(request))
        except NotAllowed as error:
            page = site.page("login.html.j2", None, refused=error.message)
            page.status_code = error.status
            return page
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            COOKIE,
            name,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="lax",  # a link to a run may come from a chat; what changes something needs a header too
            secure=request.url.scheme == "https",
        )
        return response

    @routes.post("/logout")
    def log_out(request: Request) -> Response:
        site.access.log_out(request)
        response = RedirectResponse("/login", status_code=303)
        response.delete_cookie(COOKIE)
        return response

    return routes


async def _secret(request: Request) -> str:
    """The field of the form. Read by hand: it is one short field, and what is longer is nobody's key."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise NotAllowed("this API key is not known here", 401)
    fields = parse_qs(body.decode("utf-8", errors="replace"))
    return fields.get("key", [""])[0].strip()
