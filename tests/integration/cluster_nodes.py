"""A Ray cluster of several nodes on this machine, in a process of its own; told on standard input to lose one of them.

    python -m tests.integration.cluster_nodes 0 4 4        a head without CPUs, two workers with 4

Prints {"address": ..., "nodes": [node ids]}; then each line of input is a node id, whose processes are all killed.
"""

from __future__ import annotations

import json
import socket
import sys
from contextlib import suppress

import psutil
from ray.cluster_utils import Cluster


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """See above."""
    head, *workers = (float(size) for size in sys.argv[1:])
    port, store = free_port(), 256 << 20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": head,
            "include_dashboard": True,
            "dashboard_port": port,
            "object_store_memory": store,
            "dashboard_agent_listen_port": free_port(),  # the default one may be another cluster's
        },
    )
    try:
        others = [
            cluster.add_node(num_cpus=size, object_store_memory=store, dashboard_agent_listen_port=free_port())
            for size in workers
        ]
        nodes = [cluster.head_node, *others]
        known = {node.node_id: node for node in nodes}
        print(json.dumps({"address": f"http://127.0.0.1:{port}", "nodes": list(known)}), flush=True)  # noqa: T201
        for line in sys.stdin:
            node = known[line.strip()]
            for infos in node.all_processes.values():
                for info in infos:
                    lose(info.process.pid)
            print(json.dumps({"lost": node.node_id}), flush=True)  # noqa: T201
    finally:
        cluster.shutdown()


def lose(pid: int) -> None:
    """`kill -9` of a process and all below it, as when a machine goes."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


if __name__ == "__main__":
    main()
