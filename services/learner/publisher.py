"""The learner's end of a weight sync: gather, cast, put into the object store, and say what the probe should give.

Frozen weights are put once and their chunks used again in every version. With adapters only these are sent. All ranks
take part, because sharded weights are gathered; rank 0 publishes. The refs of the last two versions are kept alive.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import ray
import torch
from torch import Tensor

from rlft_core.batching.packing import number_tokens
from rlft_core.checkpoints.adapter import adapter_of
from rlft_core.checkpoints.export import full_weights
from rlft_core.checkpoints.state import whole
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.updates.collective import Collective
from rlft_core.updates.passes import collect
from services.weights.bundle import Manifest, Parameter, Probe, flatten
from services.weights.publication import Publication

PROBE_TARGETS = 32


class Publisher:
    """Publishes versions of a policy. `probe_pair` is a (prompt, output) of the training rows."""

    def __init__(
        self,
        policy: Policy,
        compute: Compute,
        collective: Collective,
        *,
        dtype: torch.dtype,
        probe_pair: tuple[Sequence[int], Sequence[int]],
    ) -> None:
        self._policy = policy
        self._compute = compute
        self._collective = collective
        self._dtype = dtype
        self._probe_pair = (list(probe_pair[0]), list(probe_pair[1])[:PROBE_TARGETS])
        self._frozen: tuple[tuple[Parameter, ...], tuple[ray.ObjectRef, ...], int] | None = None
        self._alive: deque[Publication] = deque(maxlen=2)

    def publish(self, version: int) -> tuple[Publication | None, float]:
        """(publication on rank 0 and None elsewhere, seconds for gathering, casting and storing)."""
        probe = self._probe()
        started = time.perf_counter()
        manifest, chunks = self._adapter(version) if self._policy.has_adapter else self._weights(version)
        if self._collective.rank != 0:
            return None, time.perf_counter() - started
        publication = Publication(manifest, tuple(chunks), probe)
        self._alive.append(publication)
        return publication, time.perf_counter() - started

    def _weights(self, version: int) -> tuple[Manifest, list[ray.ObjectRef]]:
        frozen_names = {n for n, p in self._policy.inner.named_parameters() if not p.requires_grad}
        if self._frozen is not None:
            trained = {n: whole(p).detach() for n, p in self._policy.inner.named_parameters() if p.requires_grad}
        else:
            everything = full_weights(self._policy)
            trained = {n: w for n, w in everything.items() if n not in frozen_names}
            self._frozen = self._store({n: w for n, w in everything.items() if n in frozen_names}, version)
        old, old_refs, old_bytes = self._frozen
        new, new_refs, new_bytes = self._store(trained, version)
        moved = [dataclasses.replace(p, chunk=p.chunk + len(old_refs)) for p in new]
        manifest = Manifest(version, _name(self._dtype), (*old, *moved), old_bytes + new_bytes)
        return manifest, [*old_refs, *new_refs]

    def _adapter(self, version: int) -> tuple[Manifest, list[ray.ObjectRef]]:
        adapter = adapter_of(self._policy)
        assert adapter is not None
        parameters, refs, num_bytes = self._store(adapter.weights, version)
        text = adapter.config_text
        return Manifest(version, _name(self._dtype), parameters, num_bytes, "adapter", text), list(refs)

    def _store(
        self, named: Mapping[str, Tensor], version: int
    ) -> tuple[tuple[Parameter, ...], tuple[ray.ObjectRef, ...], int]:
        if self._collective.rank != 0 or not named:
            return (), (), 0
        manifest, chunks = flatten(named.items(), version=version, dtype=self._dtype)
        return manifest.parameters, tuple(ray.put(chunk) for chunk in chunks), manifest.num_bytes

    def _probe(self) -> Probe:
        prompt, output = self._probe_pair
        groups = number_tokens([(prompt, [output])])
        found = collect(
            lambda rows: (self._policy(rows).logprobs,), groups, len(output), self._compute, self._collective
        )
        return Probe((*prompt, *output), found[0].numpy().astype(np.float32))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
