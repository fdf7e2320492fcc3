"""A stage of the finance pipeline as a script: its flags, its settings file, its server.

Settings come from ``configs/config.py`` beside the scripts (or ``--config FILE``), flags change single ones. Knows no
stage. Called by the scripts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from eztinker.recipes.experiment.connection import client_or_own_server
from eztinker.recipes.experiment.door import spellings
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.finance.config import FinanceConfig, read_config_file
from eztinker.recipes.finance.parts import QuantizationChoice
from eztinker.recipes.terminal import TerminalProgress, print_out
from eztinker.recipes.troubleshooting import Names, run_door


@dataclass(frozen=True)
class Flag:
    """A documented flag.

    Attributes:
        name: as documented, without dashes.
        target: setting that it changes (``data.total_samples``, ``use_judge``), or, without a setting, the argument of the
            stage (``:eval_sft``).
        help: for ``--help``.
        kind: how its text becomes a value.
        switched: the value of a flag that takes none.
        choices: the values that it takes.
    """

    name: str
    target: str
    help: str
    kind: Callable[[str], Any] = str
    switched: Any = None
    choices: tuple[str, ...] | None = None


NAMES = Names(
    model="TEACHER_CONFIG.model_name, JUDGE_CONFIG.model_name, MODEL_CONFIG.base_model in configs/config.py",
    less="--quantization nf4, SFT_CONFIG.per_device_train_batch_size, GRPO_CONFIG.max_new_tokens in configs/config.py",
    data="--local_data FILE",
)

NO_JUDGE = Flag("no-judge", "use_judge", "rules only, no judge", switched=False)


@dataclass(frozen=True)
class StageDoor:
    """A script over a stage.

    Attributes:
        script: its file; ``configs/config.py`` is looked for beside its folder.
        description: what ``--help`` says first.
        run: the stage: ``run(config, client, progress, **arguments)``.
        flags: documented ones, beside those that every stage has.
        needs_server: whether it can need a server.
        asks_model: whether it does under these settings and arguments of the stage.
        check: raises at once, before a server is started, for what is missing; called like ``run`` without the client.
    """

    script: str
    description: str | None
    run: Callable[..., dict[str, Any]]
    flags: Sequence[Flag] = ()
    needs_server: bool = True
    asks_model: Callable[[FinanceConfig, Mapping[str, Any]], bool] = lambda *_: True
    check: Callable[..., None] | None = None

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the script; its exit code."""
        return run_door(lambda: self._work(arguments), NAMES)

    def parser(self) -> argparse.ArgumentParser:
        """The flags."""
        parser = argparse.ArgumentParser(
            description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for flag in self.flags:
            common: dict[str, Any] = {
                "dest": flag.target,
                "default": argparse.SUPPRESS,
                "help": flag.help,
            }
            if flag.switched is None:
                shown = None if flag.choices else flag.name.upper()
                parser.add_argument(
                    *spellings(flag.name), type=flag.kind, choices=flag.choices, metavar=shown, **common
                )  # fmt: skip
            else:
                parser.add_argument(
                    *spellings(flag.name), action="store_const", const=flag.switched, **common
                )
        parser.add_argument(
            "--config", type=Path, metavar="FILE", help="settings (configs/config.py)"
        )
        parser.add_argument(
            "--root", type=Path, metavar="FOLDER", help="of data, checkpoints and reports (here)"
        )
        parser.add_argument("--overwrite", action="store_true", help="make an output anew")
        if self.needs_server:
            parser.add_argument(
                "--quantization", choices=get_args(QuantizationChoice), help="of all base models"
            )
            parser.add_argument("--base-url", "--base_url", metavar="URL", help="server to use")
        return parser

    def _work(self, arguments: Sequence[str] | None) -> None:
        given = vars(self.parser().parse_args(arguments))
        base_url = given.pop("base_url", None)
        config, of_stage = _settings(given, Path(self.script).resolve().parents[1])
        progress = TerminalProgress()
        if self.check is not None:
            self.check(config, **of_stage)
        server = (
            client_or_own_server(base_url, (), config.output_dir / "server", progress)
            if self.needs_server and self.asks_model(config, of_stage)
            else nullcontext()
        )
        with server as client:
            figures = self.run(config, client, progress, **of_stage)
        for name, value in figures.items():
            if not isinstance(value, (dict, list)):
                print_out(f"{name}: {value}")


def _settings(given: dict[str, Any], home: Path) -> tuple[FinanceConfig, dict[str, Any]]:
    """The bundle from file and flags, and the arguments of the stage."""
    file = given.pop("config") or home / "configs" / "config.py"
    root, quantization = given.pop("root"), given.pop("quantization", None)
    values: dict[str, Any] = dict(read_config_file(file))
    values["overwrite"] = given.pop("overwrite")
    if root is not None:
        values["root"] = root
    of_stage = {name[1:]: given.pop(name) for name in list(given) if name.startswith(":")}
    parts: dict[str, dict[str, Any]] = {}
    for target, value in given.items():
        part, _, name = target.rpartition(".")
        if part:
            parts.setdefault(part, {})[name] = value
        else:
            values[name] = value
    config = make_settings(FinanceConfig, values)
    changes: Mapping[str, Mapping[str, Any]] = parts
    return config.with_parts(**changes).with_quantization(quantization), of_stage
