"""``recipe NAME``: run a training recipe, continue it, or say what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl
from eztinker.cli.output import note, print_json, print_table, print_text
from eztinker.cli.texts import say

if TYPE_CHECKING:
    from eztinker.recipes.catalogue import Recipe
    from eztinker.recipes.experiment.plan import Plan


def recipe(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help=say("recipe config"))] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=say("recipe dry-run"))] = False,
    keys: Annotated[bool, typer.Option("--keys", help=say("recipe keys"))] = False,
    stages: Annotated[str | None, typer.Option("--stages", help=say("recipe stages"))] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe with its settings from a file and from ``key=value`` words; without a name list them."""
    from eztinker.recipes.catalogue import get_recipe

    if name is None:
        _list_recipes(as_json)
        return
    chosen = get_recipe(name)
    if keys:
        _list_keys(chosen, as_json)
        return
    words = [*(settings or []), *([] if stages is None else [f'stages="{stages}"'])]
    _run(chosen, config, words, dry_run, base_url, api_key, as_json)


def _run(
    chosen: Recipe,
    file: Path | None,
    words: list[str],
    dry_run: bool,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    from eztinker.errors import EZTinkerError
    from eztinker.recipes.experiment.connection import client_or_own_server
    from eztinker.recipes.experiment.settings import load_settings
    from eztinker.recipes.terminal import TerminalProgress
    from eztinker.recipes.troubleshooting import advice_for, names_of

    settings: Any = load_settings(chosen.config_class, file, words)
    progress = TerminalProgress()
    model, folder = settings.model_name_or_path, Path(settings.output_dir)
    try:
        state: Path | None = folder / "server"
        if dry_run and not (folder / "server").exists():
            state = None  # a plan leaves nothing behind
        with client_or_own_server(base_url, model, state, progress, api_key) as client:
            if dry_run:
                plan = chosen.plan(settings, client)
                plan.facts["memory_estimate"] = _memory(settings, plan.facts)
                _show_plan(plan, as_json)
                return
            _show_figures(chosen.run(settings, client, progress), as_json)
    except (KeyboardInterrupt, EZTinkerError) as error:
        names = names_of(chosen.config_class.model_fields)
        advice = advice_for(error, names) if isinstance(error, EZTinkerError) else None
        if advice:
            note(advice)
        if (folder / "state.json").is_file() and not dry_run:
            note(say("recipe continue", folder=folder))
        raise


def _memory(settings: Any, facts: dict[str, Any]) -> str:
    """Memory that a server on this machine would take at its highest, as text; its micro-batches fit by themselves."""
    from eztinker.cli.estimate import peak_bytes
    from eztinker.cli.output import size_text
    from eztinker.errors import EZTinkerError

    kinds = {"load_in_4bit": "nf4", "load_in_8bit": "int8"}
    quantization = next((k for name, k in kinds.items() if getattr(settings, name, False)), "none")
    longest = facts.get("tokens_longest") or getattr(settings, "max_completion_length", 512)
    try:
        peak = peak_bytes(
            settings.model_name_or_path,
            rank=getattr(settings, "lora_r", 8),
            batch=getattr(settings, "per_device_train_batch_size", 8),
            seq_len=int(longest),
            quantization=quantization,
        )
    except EZTinkerError as error:  # a model that only the server has
        return say("recipe no estimate", reason=error.message)
    return size_text(peak)


def _show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan.as_dict())
        return
    print_table((plan.recipe, ""), [(k.replace("_", " "), _cell(v)) for k, v in plan.facts.items()])
    for number, text in enumerate(plan.first_batch, start=1):
        print_text(f"--- {number} ---\n{text}")
    for text in plan.notes:
        note(text)


def _show_figures(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(figures)
    else:
        print_table(("", ""), [(k.replace("_", " "), _cell(v)) for k, v in figures.items()])


def _list_recipes(as_json: bool) -> None:
    from eztinker.recipes.catalogue import RECIPES

    rows = [{"name": name, "does": does} for name, (_, does) in RECIPES.items()]
    if as_json:
        print_json(rows)
    else:
        print_table(("recipe", ""), [(row["name"], row["does"]) for row in rows])


def _list_keys(chosen: Recipe, as_json: bool) -> None:
    from eztinker.recipes.experiment.settings import explain

    rows = explain(chosen.config_class)
    if as_json:
        print_json([{"key": k, "default": d, "description": text} for k, d, text in rows])
    else:
        print_table(("key", "default", ""), rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(inner)}" for name, inner in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    return "-" if value is None else str(value)
