"""Worker processes: bounded, reused, replaced, collected."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker.grading import math as math_grading
from eztinker.grading.math import grade_math
from eztinker.grading.math_verify_pool import MathVerifyPool

# A worker without math-verify: "sleep" never answers, "die" ends, anything else answers its own pid.
FAKE_WORKER = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["answer"] == "sleep": time.sleep(60)
    if request["answer"] == "die": os._exit(1)
    if request["answer"] == "noise": print("not json", flush=True); continue
    print(json.dumps({"is_equal": request["answer"] in (request["truth"], str(os.getpid()))}), flush=True)
"""


@pytest.fixture
def pool() -> Iterator[MathVerifyPool]:
    pool = MathVerifyPool(num_workers=1, command=("-c", FAKE_WORKER))
    yield pool
    pool.close()


def worker_pid(pool: MathVerifyPool) -> int:
    worker = pool._places.queue[-1]
    assert worker is not None
    return worker.pid


def test_no_process_before_the_first_call(pool: MathVerifyPool) -> None:
    assert pool._places.queue == [None]


def test_a_worker_is_reused(pool: MathVerifyPool) -> None:
    assert pool.verify("a", "a", 5).status == "used"
    first = worker_pid(pool)
    assert pool.verify(str(first), "b", 5).is_equal
    assert worker_pid(pool) == first


@pytest.mark.parametrize(
    ("answer", "status"), [("sleep", "timeout"), ("die", "unavailable"), ("noise", "unavailable")]
)
def test_a_failing_worker_is_replaced(pool: MathVerifyPool, answer: str, status: str) -> None:
    pool.verify("a", "a", 5)
    first = worker_pid(pool)
    started = time.monotonic()
    verdict = pool.verify(answer, "a", 0.3)
    assert (verdict.is_equal, verdict.status) == (False, status)
    assert time.monotonic() - started < 2
    assert pool.verify("a", "a", 5).is_equal
    assert worker_pid(pool) != first


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
def test_no_zombie_and_no_survivor(pool: MathVerifyPool) -> None:
    pool.verify("a", "a", 5)
    first = worker_pid(pool)
    pool.verify("sleep", "a", 0.1)
    assert not Path(f"/proc/{first}").exists()
    pool.verify("a", "a", 5)
    second = worker_pid(pool)
    pool.close()
    assert not Path(f"/proc/{second}").exists()
    assert pool.verify("a", "a", 5).status == "unavailable"


def test_a_busy_pool_answers_in_time(pool: MathVerifyPool) -> None:
    pool.verify("a", "a", 5)
    thread = threading.Thread(target=pool.verify, args=("sleep", "a", 1.0))
    thread.start()
    time.sleep(0.1)
    assert pool.verify("a", "a", 0.1).status == "timeout"
    thread.join()
    assert pool.verify("a", "a", 5).is_equal


def test_a_worker_that_cannot_start_is_said_once_and_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = 'print(\'{"ready": false, "reason": "No module named math_verify"}\')'
    pool = MathVerifyPool(num_workers=1, command=("-c", code))
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert pool.verify("a", "a", 5).status == "unavailable"
    assert len(caplog.records) == 1
    assert "pip install" in caplog.text
    started = time.monotonic()
    pool.verify("a", "a", 5)
    assert time.monotonic() - started < 0.01
    pool.close()


def test_own_rules_decide_alone_without_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = MathVerifyPool(num_workers=1, command=("-c", "raise SystemExit"))
    monkeypatch.setattr(math_grading, "default_pool", lambda: pool)
    grade = grade_math("\\boxed{\\sqrt{12}}", "2\\sqrt{3}")
    assert (grade.is_correct, grade.math_verify) == (False, "unavailable")
    assert grade_math("\\boxed{18}", "18").is_correct
    pool.close()


@pytest.mark.parametrize(
    ("answer", "truth", "is_correct"),
    [
        ("\\boxed{2\\sqrt{3}}", "\\sqrt{12}", True),
        ("\\boxed{x+1}", "1+x", True),
        ("\\boxed{3+4}", "7", True),
        ("\\boxed{\\{1,2\\}}", "\\{2,1\\}", True),
        ("\\boxed{5x}", "5", False),
        ("\\boxed{18,19}", "18", False),
        ("\\boxed{5!}", "5", False),
        ("\\boxed{)(}", "][", False),  # two failed parses
    ],
)
def test_real_math_verify(answer: str, truth: str, is_correct: bool) -> None:
    grade = grade_math(answer, truth, timeout_s=20)
    assert (grade.is_correct, grade.math_verify) == (is_correct, "used")


def test_a_bomb_costs_its_timeout_and_nothing_else() -> None:
    assert grade_math("\\boxed{3+4}", "7", timeout_s=20).is_correct
    started = time.monotonic()
    grade = grade_math("\\boxed{10^{9999999}}", "18", timeout_s=0.5)
    assert (grade.is_correct, grade.math_verify) == (False, "timeout")
    assert time.monotonic() - started < 3
    assert grade_math("\\boxed{3+4}", "7", timeout_s=20).math_verify == "used"


def test_a_script_without_main_guard_can_grade_and_ends(tmp_path: Path) -> None:
    script = tmp_path / "grade.py"
    script.write_text(
        "from eztinker.grading.math import grade_math\n"
        "print(grade_math('\\\\boxed{2+2}', '4', timeout_s=20).math_verify)\n"
        "import sys; print('torch' in sys.modules or 'sympy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["used", "False"]
    assert done.stderr == ""
