"""``serve``: the OpenAI-compatible API and nothing else, over the same runs and checkpoints as ``server``."""

from __future__ import annotations

from typing import Annotated

import typer

from eztinker.cli.server_options import (
    Aliases,
    AllowedHosts,
    ConfigFile,
    Device,
    ExitWithParent,
    Host,
    Insecure,
    NumThreads,
    Port,
    ReadyFile,
    StateDir,
    run_server,
)
from eztinker.cli.texts import say


def serve(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help=say("serve model"), show_default=False),
    ] = None,
    host: Host = None,
    port: Port = None,
    state_dir: StateDir = None,
    alias: Aliases = None,
    config: ConfigFile = None,
    num_threads: NumThreads = None,
    device: Device = None,
    insecure: Insecure = None,
    allowed_host: AllowedHosts = None,
    exit_with_parent: ExitWithParent = False,
    ready_file: ReadyFile = None,
) -> None:
    """Run a server that answers OpenAI's clients, until it is told to stop."""
    flags = {
        "host": host,
        "port": port,
        "state_dir": state_dir,
        "models": model or None,
        "aliases": alias,
        "num_threads": num_threads,
        "device": device,
        "insecure": insecure,
        "allowed_hosts": allowed_host or None,
    }
    code = run_server(
        flags,
        config=config,
        exit_with_parent=exit_with_parent,
        ready_file=ready_file,
        only_openai=True,
    )
    raise typer.Exit(code)
