"""``version``, ``health``, ``status``: the service as a whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import print_json, print_table, print_text
from eztinker.cli.texts import say

if TYPE_CHECKING:
    from eztinker.client.client import EZTinkerClient


def version(as_json: AsJson = False) -> None:
    """Print the version of this package, without asking a server."""
    import platform

    import eztinker

    if as_json:
        print_json({"version": eztinker.__version__, "python": platform.python_version()})
    else:
        print_text(f"EZTinker {eztinker.__version__}")


def health(base_url: BaseUrl = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Print one line, or the server's own answer with ``--json``."""
    with connect(base_url, api_key) as client:
        started_s = time.perf_counter()
        answer = client.health()
        milliseconds = (time.perf_counter() - started_s) * 1000
        if as_json:
            print_json(answer)
            return
        facts = {"version": answer["version"], "base_url": client.base_url}
        print_text(say("healthy", milliseconds=milliseconds, **facts))


def status(base_url: BaseUrl = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Print a table of what the server holds and does."""
    with connect(base_url, api_key) as client:
        facts = _facts(client)
    if as_json:
        print_json(facts)
        return
    shown = facts | {"base_models": ", ".join(facts["base_models"]) or "-"}
    shown["jobs"] = ", ".join(f"{count} {name}" for name, count in facts["jobs"].items())
    print_table(("EZTinker", ""), [(key.replace("_", " "), value) for key, value in shown.items()])


def _facts(client: EZTinkerClient) -> dict[str, Any]:
    health = client.health()
    models = client.get_models()
    return {
        "base_url": client.base_url,
        "version": health["version"],
        "engine": _engine(health),
        "base_models": [model["id"] for model in models if model.get("kind") == "base_model"],
        "runs": len(client.get_runs()),
        "checkpoints": len(client.get_checkpoints()),
        "jobs": {
            name: len(client.get_jobs(status=name, limit=1000)) for name in ("queued", "running")
        },
    }


def _engine(health: dict[str, Any]) -> str:
    state, trouble = health.get("engine", "unknown"), health.get("engine_error")
    return f"{state} ({trouble})" if trouble else state
