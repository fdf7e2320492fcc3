"""``doctor``: what this machine offers EZTinker, and what stands in the way.

Reads versions from package metadata and facts from the operating system; imports torch only with
``--torch``. Changes nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_table, size_text
from eztinker.cli.texts import say
from eztinker.errors import EZTinkerError

LEAST_PYTHON = (3, 11)
LEAST_MEMORY_BYTES = 4 * 10**9
LEAST_DISK_BYTES = 5 * 10**9

_SIGNS = {"ok": "✓", "warning": "!", "failed": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing.

    Attributes:
        remedy: what to do about it; empty when nothing needs doing.
    """

    name: str
    level: Literal["ok", "warning", "failed"]
    fact: str
    remedy: str = ""


def doctor(
    with_torch: Annotated[bool, typer.Option("--torch", help=say("doctor torch"))] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a table of findings; exit code 1 if something needed is missing."""
    checks: list[Callable[[], Finding]] = [check_python, check_cores, check_memory, check_disk]
    checks += [import_torch if with_torch else check_torch, check_nano]
    checks += [lambda: check_server(base_url, api_key)]
    findings = [check() for check in checks]
    is_well = all(finding.level != "failed" for finding in findings)
    if as_json:
        print_json({"ok": is_well, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(_SIGNS[it.level], it.name, it.fact, it.remedy) for it in findings]
        print_table(("", "", "", ""), rows)
        note(say("all well" if is_well else "doctor failed"))
    if not is_well:
        raise typer.Exit(1)


def check_python() -> Finding:
    """The interpreter is new enough."""
    fact = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] >= LEAST_PYTHON:
        return Finding("python", "ok", fact)
    return Finding("python", "failed", fact, "Install Python 3.11 or newer.")


def check_cores() -> Finding:
    """How many cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", "ok", str(usable))


def check_memory() -> Finding:
    """There is room for a small model."""
    try:
        size_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return Finding("memory", "warning", "unknown on this system")
    if size_bytes >= LEAST_MEMORY_BYTES:
        return Finding("memory", "ok", size_text(size_bytes))
    remedy = f"Models beyond the built-in one want {size_text(LEAST_MEMORY_BYTES)} or more."
    return Finding("memory", "warning", size_text(size_bytes), remedy)


def check_disk() -> Finding:
    """There is room for checkpoints where a server started here would keep them."""
    free_bytes = shutil.disk_usage(Path.cwd()).free
    if free_bytes >= LEAST_DISK_BYTES:
        return Finding("disk", "ok", f"{size_text(free_bytes)} free here")
    remedy = "Free some space, or point --state-dir to a larger disk."
    return Finding("disk", "warning", f"{size_text(free_bytes)} free here", remedy)


def check_torch() -> Finding:
    """torch is installed; it is not imported."""
    from importlib.metadata import version

    if importlib.util.find_spec("torch") is None:
        remedy = "The client works without it; a server needs: pip install torch"
        return Finding("torch", "failed", "not installed", remedy)
    return Finding("torch", "ok", f"{version('torch')} (--torch looks at its devices)")


def import_torch() -> Finding:
    """torch imports, and which devices it sees."""
    found = check_torch()
    if found.level == "failed":
        return found
    # By name, since the command line itself must never depend on torch.
    torch = importlib.import_module("torch")
    devices = ["cpu", *(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))]
    return Finding("torch", "ok", f"{torch.__version__}, devices: {', '.join(devices)}")


def check_nano() -> Finding:
    """The built-in base model is where the package keeps it."""
    import eztinker

    folder = Path(eztinker.__file__).parent / "assets" / "nano"
    if (folder / "config.json").is_file():
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Finding("nano", "ok", f"built-in base model, {size_text(size_bytes)}")
    remedy = "Install the package again; its files are incomplete."
    return Finding("nano", "failed", "built-in base model missing", remedy)


def check_server(base_url: str | None, api_key: str | None) -> Finding:
    """A server answers. None running is no fault of the machine."""
    with connect(base_url, api_key) as client:
        try:
            answer = client.health()
        except (EZTinkerError, TimeoutError):
            fact = say("unreachable", base_url=client.base_url)
            return Finding("server", "warning", fact, say("start a server"))
        fact = f"EZTinker {answer.get('version', '?')} at {client.base_url}"
    return Finding("server", "ok", fact)
