"""``serve``: the OpenAI-compatible API and nothing else, over the same runs and checkpoints as ``server``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eztinker.cli.server import aliases_of
from eztinker.cli.texts import say


def serve(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help=say("serve model"), show_default=False),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help=say("server host"))] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help=say("server port"))
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", help=say("server state-dir"))
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME=PATH", help=say("server alias"))
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help=say("server config"))] = None,
    num_threads: Annotated[
        int | None, typer.Option("--num-threads", min=0, help=say("server num-threads"))
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help=say("server device"))] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help=say("server insecure"))
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option("--allowed-host", help=say("server allowed-host"))
    ] = None,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", hidden=True)] = False,
    ready_file: Annotated[Path | None, typer.Option("--ready-file", hidden=True)] = None,
) -> None:
    """Run a server that answers OpenAI's clients, until it is told to stop."""
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "state_dir": state_dir,
        "models": tuple(model) if model else None,
        "aliases": aliases_of(alias) if alias else None,
        "num_threads": num_threads,
        "device": device,
        "insecure": insecure,
        "allowed_hosts": tuple(allowed_host) if allowed_host else None,
    }
    from eztinker.config import load_config
    from eztinker.launch import serve as run_server

    settings = load_config(flags, config_file=config)
    code = run_server(
        settings, exit_with_parent=exit_with_parent, ready_file=ready_file, only_openai=True
    )
    raise typer.Exit(code)
