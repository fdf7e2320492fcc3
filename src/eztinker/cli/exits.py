"""How a command ends: every error becomes a short message and an exit code, never a traceback.

0 ok, 1 a job failed or something else went wrong, 2 usage (a name that exists included), 3 no server,
4 not found, 5 key refused, 6 not enough memory or disk, 130 interrupted. The error classes carry their
codes; this file only adds what is no ``EZTinkerError``. Called by ``main.py`` around every command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from eztinker.cli.output import error_line
from eztinker.cli.texts import language, say
from eztinker.errors import (
    DiskFullError,
    EZTinkerError,
    JobFailedError,
    OutOfMemoryError,
    ServerUnreachableError,
)

INTERRUPTED = 130
_NO_ROOM = frozenset({OutOfMemoryError.code, DiskFullError.code})


@contextmanager
def friendly_exits() -> Iterator[None]:
    """Turn what a command raises into a message on stderr and ``typer.Exit``."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        error_line(say("error"), say("interrupted"))
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _let_go_of_stdout()
        raise typer.Exit(0) from None
    except ServerUnreachableError as error:
        # The message names the way out in English; whoever reads Chinese gets it in Chinese too.
        hint = f" {say('start a server')}" if language() == "zh" else ""
        error_line(say("error"), error.message + hint)
        raise typer.Exit(error.exit_code) from None
    except EZTinkerError as error:
        error_line(say("error"), error.message)
        raise typer.Exit(exit_code_of(error)) from None
    except TimeoutError as error:
        error_line(say("error"), str(error))
        raise typer.Exit(1) from None


def exit_code_of(error: EZTinkerError) -> int:
    """The error's own code; a job that died for want of room counts as want of room."""
    if isinstance(error, JobFailedError) and error.details.get("code") in _NO_ROOM:
        return OutOfMemoryError.exit_code
    return error.exit_code


def _let_go_of_stdout() -> None:
    """The reader of our output has gone (``| head``): let the last flush of Python meet no broken pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
