"""The administration of a running service over HTTP: promote, rollback, and what it serves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from rlft_core.errors import ConfigError, ServiceError

VARIABLE = "RLFT_API_KEY"
_DEADLINE_S = 1800.0  # a canary's engine has to start


class ServiceClient:
    """A service at `url`; the key comes from RLFT_API_KEY. All methods raise ConfigError or ServiceError."""

    def __init__(self, url: str, environ: Mapping[str, str] = os.environ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        key = environ.get(VARIABLE, "").strip()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def the_model(self, name: str | None) -> str:
        """`name`, or the only model that is served."""
        if name is not None:
            return name
        there = [str(model["model"]) for model in self._ask("GET", "/admin/models")["models"]]
        if len(there) != 1:
            raise ConfigError(f"the service has several models; say which by --model: {', '.join(there)}")
        return there[0]

    def promote(self, model: str, checkpoint: str, percent: float) -> str:
        """Let `model` stand for another checkpoint; returns what it does now, for people."""
        body = {"run": checkpoint, "percent": percent}
        return _told(self._ask("POST", f"/admin/models/{quote(model)}/promote", body))

    def rollback(self, model: str) -> str:
        """Undo the last promote; returns what `model` stands for now, for people."""
        return _told(self._ask("POST", f"/admin/models/{quote(model)}/rollback", {}))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = httpx.request(
                method,
                self._url + path,
                json=body,
                headers=self._headers,
                timeout=httpx.Timeout(_DEADLINE_S, connect=10.0),
            )
            content: dict[str, Any] = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ConfigError(
                f"--url {self._url}: no service of rlft answers there ({error or type(error).__name__})"
            ) from None
        if answer.is_success:
            return content
        message = str(content.get("error", {}).get("message", content))
        if answer.status_code in (401, 403):
            raise ConfigError(f"{message}. Put an admin's key into {VARIABLE}; `rlft key NAME --admin` makes one")
        raise ServiceError(message) if answer.status_code >= 500 else ConfigError(message)


def _told(shown: Mapping[str, Any]) -> str:
    line = f"{shown['model']}: {shown['checkpoint']}"
    if shown["canary"] is not None:
        line += f", and {shown['canary']} for {shown['percent']:g} % of the requests"
    return f"{line} ({len(shown['replicas'])} replicas)"
