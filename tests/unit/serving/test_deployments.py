"""What is a deployment of Ray Serve has coroutines only."""

from __future__ import annotations

import inspect

import pytest

from services.serving.gateway_replica import GatewayReplica
from services.serving.registry_replica import RegistryReplica
from services.serving.replica import PolicyReplica, RewardReplica


@pytest.mark.parametrize("kind", [GatewayReplica, RegistryReplica, PolicyReplica, RewardReplica])
def test_no_method_that_serve_calls_runs_in_a_thread_beside_the_event_loop(kind: type) -> None:
    found = {name: one for name, one in inspect.getmembers(kind, inspect.isroutine) if not name.startswith("_")}
    assert found
    assert [
        name for name, one in found.items() if not (inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one))
    ] == []
