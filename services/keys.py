"""API keys. Only their hashes are kept, in a file or in the environment; they are compared in constant time.

    RLFT_API_KEYS="alice:5e88...,ops:9f86...:admin"        or the same entries, a line each, in a file; # starts a comment

A key is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlft_core.errors import UserError

VARIABLE = "RLFT_API_KEYS"
_ENTRY = re.compile(r"(?P<name>[\w.-]{1,64}):(?P<hash>[0-9a-f]{64})(?P<admin>:admin)?")
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is known: whose it is, its hash, and whether it may change what runs and what is served."""

    name: str
    hash: str
    admin: bool

    @property
    def entry(self) -> str:
        """As it stands in a file."""
        return f"{self.name}:{self.hash}" + (":admin" if self.admin else "")


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys that are let in. Without any, everybody is: for a service that only this machine can reach."""

    known: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.known)

    def owner(self, header: str | None) -> Key | None:
        """Whose key an `Authorization: Bearer KEY` header holds; every known key is compared, whichever fits."""
        if header is None or not header.lower().startswith(_BEARER):
            return None
        asked = _hash(header[len(_BEARER) :].strip())
        found = None
        for key in self.known:
            if hmac.compare_digest(key.hash, asked):
                found = key
        return found


def new_key(name: str, *, admin: bool = False) -> tuple[str, Key]:
    """A fresh key, which is shown once, and what is kept of it. Raises UserError for a name that cannot stand in a file."""
    secret = f"rlft-{secrets.token_urlsafe(32)}"
    key = Key(name, _hash(secret), admin)
    if _ENTRY.fullmatch(key.entry) is None:
        raise UserError(f"the name of a key has letters, digits, '.', '_' and '-', 64 at most; this is {name!r}")
    return secret, key


def read_keys(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Keys:
    """The keys of a file, else those of RLFT_API_KEYS. Raises UserError naming the entry that is none, never showing it."""
    if file is not None:
        if not file.is_file():
            raise UserError(f"{file}: there is no such file of API keys; `rlft key NAME` makes an entry for one")
        return Keys(_parsed(file.read_text(encoding="utf-8").splitlines(), str(file)))
    return Keys(_parsed(environ.get(VARIABLE, "").split(","), VARIABLE))


def _parsed(entries: Sequence[str], where: str) -> tuple[Key, ...]:
    found = []
    for number, entry in enumerate(entries, start=1):
        text = entry.split("#")[0].strip()
        if not text:
            continue
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise UserError(
                f"{where}: entry {number} is not NAME:SHA256 or NAME:SHA256:admin; `rlft key NAME` makes one. Keys themselves "
                "do not belong here, only their hashes"
            )
        found.append(Key(match["name"], match["hash"], match["admin"] is not None))
    return tuple(found)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
