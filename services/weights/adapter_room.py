"""For how large an adapter vLLM makes room: it knows a few sizes only."""

from __future__ import annotations

from rlft_core.errors import ConfigError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def room_for(rank: int) -> int:
    """The smallest room that holds an adapter of `rank`. Raises ConfigError above the largest."""
    if rank > _RANKS[-1]:
        raise ConfigError(f"adapters of rank {rank} do not fit into an engine; the largest rank is {_RANKS[-1]}")
    return next(room for room in _RANKS if room >= rank)
