"""How the command line prints: data to stdout, notes to stderr, hostile text made harmless.

Knows tables, JSON and the terminal, and nothing of commands. Rich is imported only when something is drawn.
Called by every command.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Everything a terminal obeys: control characters but tab and newline, and characters that turn the
# direction of writing.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNBOUNDED_WIDTH = 10_000


def print_json(value: Any) -> None:
    """One JSON document on stdout; in a single line when nobody looks at it."""
    import json

    indent = 2 if sys.stdout.isatty() else None
    _write(sys.stdout, json.dumps(value, ensure_ascii=False, indent=indent, default=str))


def print_text(text: str) -> None:
    """Data on stdout: exact into files and pipes, made harmless for a terminal."""
    _write(sys.stdout, harmless(text) if sys.stdout.isatty() else text)


def print_piece(text: str) -> None:
    """A piece of a line on stdout, at once; like ``print_text`` without the line's end."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark on stderr."""
    _write(sys.stderr, harmless(text))


def error_line(word: str, text: str) -> None:
    """A mistake on stderr, its first word in red when colours are wanted."""
    is_coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    shown = f"\x1b[31m{word}:\x1b[0m" if is_coloured else f"{word}:"
    _write(sys.stderr, f"{shown} {harmless(text)}")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; cells are plain text, whatever they look like."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(str(cell))) for cell in row))
    console().print(table)


def console() -> Console:
    """A console on stdout; it never shortens what goes into a file or pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED_WIDTH, highlight=False)


def harmless(text: str) -> str:
    """``text`` with everything that a terminal would obey shown as an escape."""
    return _OBEYED.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def size_text(size_bytes: float) -> str:
    """A size for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _write(stream: TextIO, text: str) -> None:
    """Write a line; a character the stream's encoding lacks becomes an escape, never an error."""
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
