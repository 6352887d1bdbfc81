"""`rlft serve`, `rlft promote`, `rlft rollback` and `rlft key`: tuned models behind OpenAI's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Debug, Host, KeysFile, RunsDir
from services.cli.told import told

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN[:STAGE][@STEP]...", help="What is served: runs, and perhaps a stage and a step of them."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="Name of a model for clients, in the order of the runs; default: as it was named."),
]
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")]
Replicas = Annotated[int, typer.Option("--replicas", min=1, help="Engines of each model.")]
MaxReplicas = Annotated[
    int | None, typer.Option("--max-replicas", min=1, help="Up to so many, by load; default: --replicas.")
]
ToZero = Annotated[bool, typer.Option("--scale-to-zero", help="End all engines of a model that nobody asks.")]
Idle = Annotated[float, typer.Option("--idle", min=1, help="Seconds of less load before an engine ends.")]
MaxLength = Annotated[
    int, typer.Option("--max-length", min=0, help="Longest prompt and answer in tokens; default: as it was tuned.")
]
KvCache = Annotated[int, typer.Option("--kv-cache-mb", min=8, help="Cache of an engine without a GPU.")]
TensorParallel = Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs of each engine.")]
MaxAtOnce = Annotated[int, typer.Option("--max-at-once", min=1, help="Requests in work; more are told 429.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens that a request may ask for.")]
PerMinute = Annotated[int, typer.Option("--requests-per-minute", min=0, help="Of each key; 0: no limit.")]
TokensPerMinute = Annotated[
    int, typer.Option("--tokens-per-minute", min=0, help="Of each key, read and written; 0: no limit.")
]
Postprocess = Annotated[
    list[str] | None,
    typer.Option("--postprocess", metavar="STEP=VALUE", help="Cut answers, e.g. first_line=true. Repeatable."),
]
Merge = Annotated[
    bool,
    typer.Option("--merge", help="Merge adapters into their base: whole weights, an engine for each name."),
]
State = Annotated[
    Path | None, typer.Option("--state", help="File that remembers promotes; default: RUNS_DIR/.serving/state.json.")
]

Checkpoint = Annotated[str, typer.Argument(metavar="RUN[:STAGE][@STEP]", help="What the model shall stand for.")]
Url = Annotated[str, typer.Option("--url", help="Address of the service, e.g. http://127.0.0.1:8000.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Its model; needed where it serves several.")]
Percent = Annotated[
    float, typer.Option("--percent", min=0.01, max=100, help="Only for this share of the requests (a canary).")
]


def serve_command(
    models: Models,
    names: Names = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys: KeysFile = None,
    replicas: Replicas = 1,
    max_replicas: MaxReplicas = None,
    scale_to_zero: ToZero = False,
    idle_s: Idle = 120.0,
    max_length: MaxLength = 0,
    kv_cache_mb: KvCache = 256,
    tensor_parallel: TensorParallel = 1,
    max_at_once: MaxAtOnce = 256,
    max_tokens: MaxTokens = 4096,
    requests_per_minute: PerMinute = 0,
    tokens_per_minute: TokensPerMinute = 0,
    postprocess: Postprocess = None,
    merge: Merge = False,
    state: State = None,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Serve tuned models with OpenAI's protocol, until Ctrl-C or SIGTERM; requests in work are then finished.

    RAY_ADDRESS names the Ray cluster to join; without it, one is started on this machine.
    """
    with told(debug):
        from services.cli.serving import ServeOptions, run_service

        options = ServeOptions(
            models=tuple(models),
            names=tuple(names or ()),
            host=host,
            port=port,
            keys=keys,
            min_replicas=0 if scale_to_zero else replicas,
            max_replicas=max(max_replicas or replicas, replicas),
            idle_s=idle_s,
            max_length=max_length,
            kv_cache_mb=kv_cache_mb,
            tensor_parallel=tensor_parallel,
            max_at_once=max_at_once,
            max_tokens=max_tokens,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            postprocess=tuple(postprocess or ()),
            state=state or runs_dir / ".serving" / "state.json",
            runs_dir=runs_dir,
            merge=merge,
        )
        run_service(options)


def promote_command(
    checkpoint: Checkpoint, url: Url, model: ModelName = None, percent: Percent = 100.0, debug: Debug = False
) -> None:
    """Let a served model stand for another checkpoint. No request fails; RLFT_API_KEY holds the key, of an admin."""
    with told(debug):
        from services.serving.client import ServiceClient

        client = ServiceClient(url)
        typer.echo(client.promote(client.the_model(model), checkpoint, percent))


def rollback_command(url: Url, model: ModelName = None, debug: Debug = False) -> None:
    """Undo the last promote of a served model, or end its canary."""
    with told(debug):
        from services.serving.client import ServiceClient

        client = ServiceClient(url)
        typer.echo(client.rollback(client.the_model(model)))


def key_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    admin: Annotated[bool, typer.Option("--admin", help="May also change what runs and what is served.")] = False,
    debug: Debug = False,
) -> None:
    """Make an API key. It is shown once; its entry, a hash, goes to the service."""
    with told(debug):
        from services.keys import VARIABLE, new_key

        secret, key = new_key(name, admin=admin)
        typer.echo(f"Key, shown this once:\n{secret}\n\nEntry, for --keys FILE or {VARIABLE}:\n{key.entry}")
