"""What is done so far: one JSON line per finished item beside an output, so that a killed program continues.

The first line holds the settings; other settings on the same output are refused. Knows no case and no model.
Called by sampling and evaluation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from eztinker.errors import InvalidRequestError
from eztinker.rl.durable import write_text

_MAY_CHANGE = {"overwrite"}


class Journal:
    """Finished items by their ``index``.

    Attributes:
        done: index -> item.
    """

    def __init__(self, path: Path, done: dict[int, dict[str, Any]], file: TextIO) -> None:
        self._path, self.done, self._file = path, done, file

    @staticmethod
    def is_begun(output: Path) -> bool:
        """Whether an output has a journal: it is half done."""
        return _path_of(output).exists()

    @classmethod
    def open(
        cls,
        output: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool,
        keeps_output: bool = False,
    ) -> Journal:
        """Continue the journal of an output, or begin one.

        Args:
            output: what the items will make.
            settings: of the work.
            overwrite: begin afresh.
            keeps_output: an output of before is not removed when work begins afresh: the new one replaces it.

        Raises:
            InvalidRequestError: the output is finished, or its journal has other settings.
        """
        path = _path_of(output)
        if overwrite:
            path.unlink(missing_ok=True)
            if not keeps_output:
                output.unlink(missing_ok=True)
        elif output.exists() and not path.exists():
            raise InvalidRequestError(
                f"{output} exists and is finished. Name another output, or pass --overwrite.",
                code="output_exists",
                field="output",
            )
        kept = {key: value for key, value in settings.items() if key not in _MAY_CHANGE}
        lines = _whole_lines(path) or [{"settings": kept}]
        _refuse_other(output, lines[0]["settings"], kept)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(path, text)
        done = {line["index"]: line for line in lines[1:]}
        return cls(path, done, path.open("a", encoding="utf-8"))

    def add(self, item: dict[str, Any]) -> None:
        """Write an item down; it survives the program."""
        self._file.write(json.dumps(item, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done[item["index"]] = item

    def finish(self) -> None:
        """The output is whole: the journal has done its work."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _path_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.journal.jsonl")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Lines that were written whole; a kill may have cut the last."""
    if not path.is_file():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.split("\n") if line]


def _refuse_other(output: Path, held: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differences = [
        f"{key} was {held.get(key)!r}, now {value!r}"
        for key, value in now.items()
        if held.get(key) != value
    ]
    if differences:
        raise InvalidRequestError(
            f"{output} is half done with other settings: {'; '.join(differences)}. Use the same, name another "
            "output, or pass --overwrite.",
            code="experiment_mismatch",
            field="output",
        )
