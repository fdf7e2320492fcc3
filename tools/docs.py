"""Writes ``docs/cli.md`` and ``docs/api.md`` from the program itself: its commands and its OpenAPI document.

``make docs`` runs it; a test fails when a page is stale. It invents nothing: a thin sentence on a page
is a thin docstring in the source.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

DOCS = Path(__file__).parent.parent / "docs"
GENERATED = "<!-- Written by `make docs`; change the source instead. -->"


def cli_page() -> str:
    """The reference of all commands."""
    from typer.main import get_command

    from eztinker.cli.main import app

    lines = ["# Command line", "", GENERATED, ""]
    lines += [
        "Data goes to stdout, notes and progress to stderr. Exit codes: 0 ok, 1 job failed, 2 usage, "
        "3 server unreachable, 4 not found, 5 not allowed, 6 not enough memory or disk, "
        "130 interrupted. Settings of a server are resolved in this order: flag, `EZTINKER_*` "
        "variable, `eztinker.yaml`, the user's file, default.",
        "",
    ]
    for name, command in _commands("eztinker", get_command(app)):
        lines += _command_section(name, command)
    return "\n".join(lines)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child_name, child in children.items():
        yield from _commands(f"{name} {child_name}", child)


def _command_section(name: str, command: Any) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## `{name}`", "", command.help or "", "", f"    {name} {usage}", ""]
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    if shown:
        lines += ["| | | default |", "|---|---|---|"]
        lines += [_parameter_row(param) for param in shown]
        lines.append("")
    return lines


def _parameter_row(param: Any) -> str:
    if param.param_type_name == "argument":
        names = f"`{(param.metavar or param.name).upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    default = param.default
    shown = "" if default in (None, (), [], False) or callable(default) else f"`{default}`"
    return f"| {names} | {_cell(getattr(param, 'help', '') or '')} | {shown} |"


def api_page() -> str:
    """The reference of all routes, bodies and answers."""
    from eztinker.api.server import create_app
    from eztinker.config import load_config
    from eztinker.launch import build_service

    with tempfile.TemporaryDirectory() as folder:
        service = build_service(load_config({"state_dir": Path(folder)}, environ={}))
        document = create_app(service).openapi()
    lines = ["# HTTP API", "", GENERATED, "", document["info"]["description"], ""]
    lines += [
        'Every error is `{"error": {"code", "message", "field"?, "details"?}, "request_id"}`. '
        "The interactive form of this page is `/docs` of a running server.",
        "",
    ]
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _route_section(method.upper(), path, operation, schemas)
    return "\n".join(lines)


def _route_section(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> list[str]:
    text = operation.get("description") or operation.get("summary") or ""
    lines = [f"## `{method} {path}`", "", text, ""]
    parameters = [p for p in operation.get("parameters", []) if p["in"] != "header"]
    if parameters:
        lines += ["| parameter | type | |", "|---|---|---|"]
        lines += [
            f"| `{p['name']}` ({p['in']}) | {_type(p['schema'])} | {_cell(p.get('description', ''))} |"
            for p in parameters
        ]
        lines.append("")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    lines += _schema_table("Body", body.get("schema"), schemas)
    answer = operation.get("responses", {}).get("200", {}).get("content", {})
    lines += _schema_table("Answer", answer.get("application/json", {}).get("schema"), schemas)
    return lines


def _schema_table(title: str, schema: dict[str, Any] | None, schemas: dict[str, Any]) -> list[str]:
    if schema is None:
        return []
    name = schema.get("$ref", "").rpartition("/")[2]
    fields = schemas.get(name, schema).get("properties")
    if not fields:
        return []
    required = set(schemas.get(name, schema).get("required", ()))
    lines = [f"{title}: `{name}`", "", "| field | type | default | |", "|---|---|---|---|"]
    for field, facts in fields.items():
        default = "required" if field in required else f"`{facts.get('default')}`"
        lines.append(
            f"| `{field}` | {_type(facts)} | {default} | {_cell(facts.get('description', ''))} |"
        )
    return [*lines, ""]


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(part) for part in schema[key]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return schema.get("type", "any")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"cli.md": cli_page, "api.md": api_page}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page().rstrip() + "\n", encoding="utf-8")
        print(f"docs/{name}", file=sys.stderr)


if __name__ == "__main__":
    main()
