"""Who may look and who may steer. Keys come from services.keys; a browser that showed one gets a session of its own.

    without keys      whoever reaches the service may look and steer; it listens on this machine alone, and answers only to
                      this machine's names, so that a page from elsewhere cannot reach it under a name of its own
    with keys         looking needs a key, steering one with admin right: as `Authorization: Bearer KEY`, or by a session

A browser sends cookies along with whatever another page makes it ask. So what changes something also needs a header: the
Authorization header, or X-Rlft-Token with a secret that only our own pages hold.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from fastapi import Request

from rlft_core.errors import RlftError, UserError
from services.keys import Key, Keys

COOKIE, TOKEN_HEADER = "rlft_viewer", "X-Rlft-Token"
SESSION_S = 12 * 3600.0
LOCAL = ("127.0.0.1", "localhost")
_MOST_SESSIONS = 1000


class NotAllowed(RlftError):
    """Somebody asked for what they may not: `status` 401 without a key that is known, 403 with one that is not enough."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that showed a key. `token` is what its pages send along when they change something."""

    key: Key
    token: str
    ends: float


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks. `token` is for the page that is being made; empty for a program that sends its key each time."""

    name: str
    admin: bool
    token: str


class Access:
    """The keys of one viewer, and the sessions of the browsers that showed one."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._lock = Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._own_token = secrets.token_urlsafe(32)

    def visitor(self, request: Request) -> Visitor:
        """Who may look. Raises NotAllowed with 401."""
        header = request.headers.get("authorization")
        if not self.keys:
            return Visitor("", True, self._own_token if header is None else "")
        if header is not None:
            key = self.keys.owner(header)
            if key is None:
                raise NotAllowed("this API key is not known here", 401)
            return Visitor(key.name, key.admin, "")
        session = self._session(request.cookies.get(COOKIE))
        if session is None:
            raise NotAllowed("an API key is needed: log in, or send it as 'Authorization: Bearer KEY'", 401)
        return Visitor(session.key.name, session.key.admin, session.token)

    def admin(self, request: Request) -> Visitor:
        """Who may steer. Raises NotAllowed with 401 or 403."""
        visitor = self.visitor(request)
        if visitor.token and not _equal(request.headers.get(TOKEN_HEADER), visitor.token):
            raise NotAllowed(
                f"what changes a run needs the header {TOKEN_HEADER}, which the viewer's own pages send; load the page again. "
                "Programs send 'Authorization: Bearer KEY'",
                403,
            )
        if not visitor.admin:
            raise NotAllowed(
                f"the key '{visitor.name}' may look, not steer; `rlft key NAME --admin` makes one that may", 403
            )
        return visitor

    def log_in(self, secret: str) -> tuple[str, Session]:
        """A session for whoever holds a known key. Raises NotAllowed with 401."""
        key = self.keys.owner(f"Bearer {secret}")
        if key is None:
            raise NotAllowed("this API key is not known here", 401)
        name, session = secrets.token_urlsafe(32), Session(key, secrets.token_urlsafe(32), time.monotonic() + SESSION_S)
        with self._lock:
            self._sessions[name] = session
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return name, session

    def log_out(self, request: Request) -> None:
        """Forget the session of this browser."""
        with self._lock:
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def _session(self, name: str | None) -> Session | None:
        with self._lock:
            session = self._sessions.get(name or "")
            if session is not None and session.ends < time.monotonic():
                del self._sessions[name or ""]
                return None
            return session


def check_host(host: str, keys: Keys) -> None:
    """Raises UserError when others could reach a viewer that asks nobody for a key."""
    if not keys and host not in LOCAL:
        raise UserError(
            f"--host {host}: without API keys the viewer listens on 127.0.0.1 only, because whoever sees it may stop runs. "
            "`rlft key NAME --admin` makes a key; give its entry with --keys FILE or in RLFT_API_KEYS"
        )


def _equal(given: str | None, expected: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), expected.encode())
