"""API keys: what is kept, who is let in, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rlft_core.errors import UserError
from services.keys import Keys, new_key, read_keys


def test_a_key_is_let_in_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    secret, key = new_key("alice", admin=True)
    assert key.hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in key.entry
    file = tmp_path / "keys"
    other, second = new_key("bob")
    file.write_text(f"# who may\n{key.entry}  # ours\n\n{second.entry}\n")
    keys = read_keys(file)
    found = keys.owner(f"Bearer {secret}")
    assert found is not None
    assert found.name == "alice"
    assert found.admin
    found = keys.owner(f"bearer {other}")
    assert found is not None
    assert found.name == "bob"
    assert not found.admin


@pytest.mark.parametrize("header", [None, "", "Bearer ", "Bearer wrong", "Basic abc", "rlft-abc"])
def test_nobody_else_is(header: str | None) -> None:
    assert Keys((new_key("alice")[1],)).owner(header) is None


def test_keys_of_the_environment() -> None:
    secret, key = new_key("ops")
    keys = read_keys(environ={"RLFT_API_KEYS": f"{key.entry}, "})
    assert keys
    assert keys.owner(f"Bearer {secret}") == key
    assert not read_keys(environ={})


def test_a_key_in_the_clear_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match=r"RLFT_API_KEYS: entry 1 is not NAME:SHA256") as refused:
        read_keys(environ={"RLFT_API_KEYS": "rlft-in-the-clear"})
    assert "in-the-clear" not in str(refused.value)
    with pytest.raises(UserError, match=r"no such file of API keys"):
        read_keys(Path("nowhere"))
    with pytest.raises(UserError, match=r"letters, digits"):
        new_key("a b")
