"""A recipe as a script with flags: what ``train/``, ``eval/`` and ``scripts/`` hold besides their documentation.

Makes the flags from the recipe's settings (``--num_samples``, also ``--num-samples``), adds those that documents
name differently, and runs the recipe on a server that answers or on one started for it. Knows no recipe. Called by
the doors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from eztinker.recipes.catalogue import get_recipe
from eztinker.recipes.experiment.connection import client_or_own_server
from eztinker.recipes.experiment.settings import make_settings, read_yaml
from eztinker.recipes.terminal import TerminalProgress, print_out
from eztinker.recipes.troubleshooting import names_of, run_door

DEVICE_HELP = "of the server that is started for this: auto, cpu, cuda (auto)"


@dataclass(frozen=True)
class Door:
    """A script over a recipe.

    Attributes:
        recipe: its name in the catalogue.
        description: what ``--help`` says first.
        renamed: documented flag -> key of the settings, where they differ.
        switches: documented flag without value -> the key and the value that it sets.
        has_device: whether there is ``--device``.
    """

    recipe: str
    description: str | None
    renamed: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    has_device: bool = False

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run the script; its exit code."""
        documented = {key: flag for flag, key in self.renamed.items()}
        fields = [
            documented.get(key, key) for key in get_recipe(self.recipe).config_class.model_fields
        ]
        return run_door(lambda: self._work(arguments), names_of(fields, "--{} {}"))

    def parser(self) -> argparse.ArgumentParser:
        """The flags."""
        parser = argparse.ArgumentParser(
            description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        config_class = get_recipe(self.recipe).config_class
        taken = {key: flag for flag, key in self.renamed.items()}
        hidden = {key for key, _ in self.switches.values()}
        for key, info in config_class.model_fields.items():
            if key not in hidden:
                _add(parser, taken.get(key, key), key, info)
        for flag, (key, value) in self.switches.items():
            parser.add_argument(
                *spellings(flag), dest=key, action="store_const", const=value, default=argparse.SUPPRESS
            )  # fmt: skip
        parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with the same names")
        parser.add_argument("--base-url", "--base_url", metavar="URL", help="server to use")
        if self.has_device:
            parser.add_argument("--device", default="auto", help=DEVICE_HELP)
        return parser

    def _work(self, arguments: Sequence[str] | None) -> None:
        flags = vars(self.parser().parse_args(arguments))
        base_url, file = flags.pop("base_url"), flags.pop("config")
        device = flags.pop("device", "auto")
        recipe = get_recipe(self.recipe)
        held = {} if file is None else self._translated(read_yaml(file))
        config: Any = make_settings(recipe.config_class, held | flags)
        state_dir = Path(config.output_dir) / "server"
        with client_or_own_server(
            base_url, config.model_name_or_path, state_dir, TerminalProgress(), device=device
        ) as client:
            figures = recipe.run(config, client, TerminalProgress())
        for name, value in figures.items():
            if not isinstance(value, (dict, list)):
                print_out(f"{name}: {value}")

    def _translated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A file's documented names as keys of the settings."""
        translated: dict[str, Any] = {}
        for name, value in values.items():
            if name in self.switches:
                key, switched = self.switches[name]
                translated |= {key: switched} if value else {}
            else:
                translated[self.renamed.get(name, name)] = value
        return translated


def spellings(flag: str) -> list[str]:
    """A flag with its dashes, also with dashes for underscores."""
    return list(dict.fromkeys([f"--{flag}", f"--{flag.replace('_', '-')}"]))


def _add(parser: argparse.ArgumentParser, flag: str, key: str, info: Any) -> None:
    default = info.get_default(call_default_factory=True)
    shown = "" if default is None or default == [] or isinstance(default, bool) else f" ({default})"
    text = f"{info.description or ''}{shown}".replace("%", "%%")
    common: dict[str, Any] = {"dest": key, "default": argparse.SUPPRESS, "help": text}
    if info.annotation is bool:
        parser.add_argument(*spellings(flag), action=argparse.BooleanOptionalAction, **common)
    elif isinstance(default, list) or "list" in str(info.annotation):
        parser.add_argument(*spellings(flag), nargs="*", **common)
    else:
        parser.add_argument(*spellings(flag), type=_reader(info), metavar="VALUE", **common)


def _reader(info: Any) -> Callable[[str], Any]:
    """How a flag's text becomes a value; the settings check its range."""
    kinds = [
        kind for kind in (info.annotation, *get_args(info.annotation)) if isinstance(kind, type)
    ]
    for kind in (int, float):
        if kind in kinds:
            return kind
    return str
