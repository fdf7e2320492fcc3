"""What `make check` says of known vulnerabilities."""

from __future__ import annotations

from typing import Any

from tools.audit import report

SAFE: dict[str, Any] = {"name": "safe", "version": "1.0", "vulns": []}
UNKNOWN: dict[str, Any] = {"name": "unknown", "skip_reason": "not on the index"}
HOLED: dict[str, Any] = {
    "name": "holed",
    "version": "0.9",
    "vulns": [
        {"id": "PYSEC-1", "fix_versions": ["1.0", "0.9.1"]},
        {"id": "PYSEC-2", "fix_versions": []},
    ],
}


def test_vulnerable_packages_fail_with_what_mends_them() -> None:
    lines, is_safe = report([SAFE, HOLED])
    assert not is_safe
    assert lines[:2] == [
        "holed 0.9: PYSEC-1, mended in 1.0, 0.9.1",
        "holed 0.9: PYSEC-2, mended in no version yet",
    ]


def test_packages_that_nobody_could_judge_are_counted_apart() -> None:
    lines, is_safe = report([SAFE, UNKNOWN])
    assert is_safe
    assert lines == ["Advisories read of 1 of 2 packages."]
