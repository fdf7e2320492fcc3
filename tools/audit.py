"""Known vulnerabilities of the installed packages, as pip-audit finds them; part of ``make check``.

``python -m tools.audit``. Says of how many packages the advisories were read, and ends with 1 when one of them is
vulnerable. Where no advisories can be had (no network, an index that keeps none) it says so and ends with 0: that
is no fault of what is checked, and no proof of its safety either.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_COMMAND = ["-m", "pip_audit", "--local", "--skip-editable", "--format", "json"]
_NO_SERVICE = ("ConnectionError", "ServiceError", "Timeout")


def main() -> int:
    """Ask and report; the exit code."""
    asked = subprocess.run(
        [sys.executable, *_COMMAND, "--progress-spinner", "off", "--timeout", "15"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not asked.stdout.strip():
        if any(word in asked.stderr for word in _NO_SERVICE):
            print("Not audited: no advisories can be had here.")
            return 0
        print(asked.stderr, file=sys.stderr)
        return asked.returncode or 1
    lines, is_safe = report(json.loads(asked.stdout)["dependencies"])
    print("\n".join(lines))
    return 0 if is_safe else 1


def report(dependencies: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """What to say, and whether nothing is vulnerable.

    Args:
        dependencies: as pip-audit prints them.
    """
    read = [package for package in dependencies if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, "
        f"mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for package in read
        for found in package["vulns"]
    ]
    is_safe = not lines
    lines.append(f"Advisories read of {len(read)} of {len(dependencies)} packages.")
    return lines, is_safe


if __name__ == "__main__":
    sys.exit(main())
