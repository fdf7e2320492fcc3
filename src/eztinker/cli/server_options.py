"""Options that ``server`` and ``serve`` have in common, and what their values mean as settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

Host = Annotated[str | None, typer.Option("--host", help=say("server host"))]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help=say("server port"))]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help=say("server state-dir"))]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", metavar="NAME=PATH", help=say("server alias"))
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help=say("server config"))]
NumThreads = Annotated[
    int | None, typer.Option("--num-threads", min=0, help=say("server num-threads"))
]
Device = Annotated[str | None, typer.Option("--device", help=say("server device"))]
Insecure = Annotated[bool | None, typer.Option("--insecure", help=say("server insecure"))]
AllowedHosts = Annotated[
    list[str] | None, typer.Option("--allowed-host", help=say("server allowed-host"))
]
ExitWithParent = Annotated[bool, typer.Option("--exit-with-parent", hidden=True)]
ReadyFile = Annotated[Path | None, typer.Option("--ready-file", hidden=True)]


def run_server(
    flags: dict[str, Any],
    *,
    config: Path | None,
    exit_with_parent: bool,
    ready_file: Path | None,
    only_openai: bool = False,
) -> int:
    """Run a server until it is told to stop; its exit code.

    Args:
        flags: settings as the options gave them, None where they did not; lists as they came.
        config: file of further settings.
        exit_with_parent, ready_file, only_openai: as in ``launch.serve``.
    """
    from eztinker.config import load_config

    given = {name: tuple(v) if isinstance(v, list) else v for name, v in flags.items()}
    given["aliases"] = aliases_of(flags["aliases"]) if flags["aliases"] else None
    settings = load_config(given, config_file=config)
    from eztinker.launch import serve

    return serve(
        settings, exit_with_parent=exit_with_parent, ready_file=ready_file, only_openai=only_openai
    )


def aliases_of(pairs: list[str]) -> dict[str, str]:
    """``NAME=NAME_OR_PATH`` pairs as a mapping."""
    aliases = {}
    for pair in pairs:
        name, separator, target = pair.partition("=")
        if not (name and separator and target):
            raise InvalidRequestError(
                f"--alias: expected NAME=NAME_OR_PATH, got {pair!r}.", field="alias"
            )
        aliases[name] = target
    return aliases
