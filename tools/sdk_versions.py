"""Runs the same calls with several releases of the official SDK, and writes which endpoint each one asks.

``make sdk-versions``; the table goes to ``docs/tinker-sdk-versions.md``, and ``--check`` compares it with
what stands there. Each release lies in a folder of its own, found before the one of this environment;
what they depend on is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from eztinker.client.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tinker-sdk-versions.md"
BUILD = ROOT / "build" / "sdk"
MODEL = "org/tiny"
RELEASES = ("0.38.0", "0.30.4", "0.24.1", "0.16.1")
"""The newest, one between, the newest whose passes are JSON, and an old one of those."""
TIMEOUT_S = 240

HEAD = """# Releases of the `tinker` SDK

Written by `make sdk-versions`, which makes the same {num_calls} calls with each release against a real
server: training with a custom loss, states, exports, sampling, everything that lists and changes.
All of them worked wherever the release has the call.

`yes`: the release asked this endpoint and was answered as it expects; empty: it does not ask it in these
calls.

"""


def folder_of(release: str) -> Path:
    """Where a release lies; fetched if it is not there."""
    folder = BUILD / release
    if not (folder / "tinker").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--target", folder, f"tinker=={release}"]
        subprocess.run(command, check=True)
    return folder


def run_release(release: str, url: str) -> dict[str, Any]:
    """The report of ``sdk_calls.py`` with one release."""
    environment = {**os.environ, "PYTHONPATH": str(folder_of(release)), "TINKER_TELEMETRY": "0"}
    command = [sys.executable, str(Path(__file__).with_name("sdk_calls.py")), url, MODEL]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"tinker {release}:\n{done.stderr[-3000:]}")
    report = json.loads(done.stdout.splitlines()[-1])
    if report["version"] != release:
        raise SystemExit(f"expected tinker {release}, got {report['version']}")
    return report


def page(reports: list[dict[str, Any]]) -> str:
    """The document."""
    calls = {name for report in reports for name in report["calls"]}
    endpoints = sorted({name for report in reports for name in report["asked"]}, key=_place)
    versions = [report["version"] for report in reports]
    lines = [
        f"| endpoint | {' | '.join(versions)} |",
        f"|---|{'---|' * len(versions)}",
        *(
            f"| `{name}` | {' | '.join(report['asked'].get(name, '') for report in reports)} |"
            for name in endpoints
        ),
    ]
    return HEAD.format(num_calls=len(calls)) + "\n".join(lines) + "\n"


def _place(endpoint: str) -> tuple[str, str]:
    method, _, path = endpoint.partition(" ")
    return path, method


def main() -> int:
    """Run all releases, say what failed, write or compare the page."""
    from tests.model_factory import write_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the page, write nothing")
    is_check = parser.parse_args().check
    with tempfile.TemporaryDirectory(prefix="eztinker-sdk-") as folder:
        model = write_model(Path(folder), "qwen2")
        server = EmbeddedServer(
            [MODEL], settings={"aliases": {MODEL: str(model)}, "num_threads": 1}
        )
        try:
            reports = [run_release(release, server.base_url) for release in RELEASES]
        finally:
            server.close()
    failed = [
        f"{report['version']} {name}: {said}"
        for report in reports
        for name, said in report["calls"].items()
        if said != "ok"
    ]
    for report in reports:
        print(
            f"{report['version']:8} {len(report['calls'])} calls, {len(report['asked'])} endpoints"
        )
    print(*failed, sep="\n")
    text = page(reports)
    if is_check and text != PAGE.read_text(encoding="utf-8"):
        failed.append("page")
        print(
            f"{PAGE.relative_to(ROOT)} is not what these runs say; write it with make sdk-versions."
        )
    if not is_check and not failed:
        PAGE.write_text(text, encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
