"""The command lines of the documentation, against a real server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eztinker import EZTinkerClient, JobFailedError
from eztinker.client.embedded import EmbeddedServer
from tests.commands.conftest import PROGRAM, Shell, environment


def test_a_session_as_documented(shell: Shell):
    assert shell("eztinker health").stdout.startswith("ok: EZTinker ")
    created = shell("eztinker create")
    run_id = created.stdout.strip()
    assert re.fullmatch(r"run_[0-9a-f]{8}", run_id), created.stderr
    listed = shell("eztinker list-runs").stdout
    assert re.search(rf"│ {run_id}\s+│ Qwen/Qwen2-0.5B-Instruct │", listed)
    sampled = shell('eztinker sample "What is 2+2?" --max-tokens 30 --temperature 0.7')
    assert re.fullmatch(r"Job submitted: job_[0-9a-f]{8}\n", sampled.stderr)
    assert sampled.stdout.startswith("What is 2+2?")
    saved = shell(f"eztinker save {run_id} checkpoint_final")
    assert saved.stdout.strip().endswith(f"checkpoints/{run_id}/checkpoint_final")
    assert "checkpoint_final" in shell("eztinker checkpoints").stdout
    assert "checkpoint_final" in shell(f"eztinker checkpoints --run-id {run_id}").stdout
    tuned = shell(
        f"eztinker sample x --run-id {run_id} --checkpoint checkpoint_final --max-tokens 3"
    )
    assert tuned.stdout.startswith("x")
    assert "Qwen/Qwen2-0.5B-Instruct" in shell("eztinker status").stdout
    assert shell(f"eztinker delete {run_id}").returncode == 0
    assert shell(f"eztinker delete {run_id}").returncode == 4


def test_a_run_of_ones_own_name(shell: Shell):
    line = "eztinker create --model Qwen/Qwen2-0.5B-Instruct --run-id custom123"
    assert shell(line).stdout == "custom123\n"
    again = shell(line)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("Error: ")
    assert len(again.stderr.splitlines()) == 1
    assert shell("eztinker create --model no/such-model").returncode == 4


def test_every_read_command_prints_one_json_document(shell: Shell):
    job = json.loads(shell("eztinker sample x --max-tokens 2 --num-samples 2 --json").stdout)
    assert len(job["sequences"]) == 2
    for line in (
        "version",
        "health",
        "status",
        "list-runs",
        "checkpoints",
        "jobs list",
        f"jobs show {job['job_id']}",
        "config show",
        "doctor",
    ):
        done = shell(f"eztinker {line} --json")
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)


def test_the_seed_decides(shell: Shell):
    line = "eztinker sample hello --max-tokens 20 --seed {}"
    first, second, other = (shell(line.format(seed)).stdout for seed in (7, 7, 8))
    assert first == second != other


def test_jobs_as_documented(shell: Shell):
    submitted = shell("eztinker sample x --max-tokens 2").stderr.split()[-1]
    assert submitted in shell("eztinker jobs list --limit 5").stdout
    assert "completed" in shell(f"eztinker jobs show {submitted}").stdout
    assert "completed" in shell(f"eztinker jobs cancel {submitted}").stderr
    assert shell("eztinker jobs show job_00000000").returncode == 4


def test_the_log_of_a_run(shell: Shell, running_server: EmbeddedServer):
    run_id = shell("eztinker create").stdout.strip()
    with EZTinkerClient(running_server.base_url) as client:
        loss = client.forward_backward(run_id, [1, 2, 3])["loss"]
        client.optim_step(run_id, learning_rate=1e-3)
        with pytest.raises(JobFailedError):
            client.optim_step(run_id)
    lines = shell(f"eztinker logs {run_id}").stdout.splitlines()
    assert [line.split()[2] for line in lines] == [
        "create_run",
        "forward_backward",
        "optim_step",
        "optim_step",
    ]
    assert f"loss {loss:.4g}" in lines[1]
    assert "step 1 " in lines[2]
    assert "failed: " in lines[3]
    entry = json.loads(shell(f"eztinker logs {run_id} --after 0 --json").stdout.splitlines()[0])
    assert (entry["seq"], entry["result"]["loss"]) == (1, loss)
    assert shell("eztinker logs no_such_run").returncode == 4


def test_a_log_is_followed(shell: Shell, running_server: EmbeddedServer):
    run_id = shell("eztinker create").stdout.strip()
    following = subprocess.Popen(
        [PROGRAM, "logs", run_id, "--follow"],
        env=environment(running_server.base_url),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with following:
        assert following.stdout is not None
        assert "create_run" in following.stdout.readline()
        assert shell(f"eztinker save {run_id} one").returncode == 0
        assert "save_checkpoint" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
    assert following.returncode == 130


def test_evaluation_counts_and_keeps_the_answers(shell: Shell, tmp_path: Path):
    line = "eztinker eval --model nano --max-samples 6 --max-tokens 80"
    figures = json.loads(shell(f"{line} --answers answers.jsonl --json").stdout)
    rows = [json.loads(row) for row in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == figures["num_examples"] == 6
    assert figures["accuracy"] == sum(row["is_correct"] for row in rows) / 6
    assert figures["ci95"][0] <= figures["accuracy"] <= figures["ci95"][1]
    assert "accuracy" in shell(line).stdout


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        ("", 2, "--run-id"),
        ("--model nano --run-id x", 2, "not both"),
        ("--model nano --checkpoint one", 2, "--run-id"),
        ("--run-id no_such_run", 4, "no_such_run"),
        ("--model no_such_model", 4, "no_such_model"),
        ("--model nano --dataset gsm9k", 4, "gsm8k"),
        ("--model nano --num-samples 4", 2, "temperature"),
        ("--model nano --pass-at 4", 2, "pass@k"),
        ("--model nano --split dev", 2, "split"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    line: str, code: int, named: str, shell: Shell
):
    done = shell(f"eztinker eval {line}")
    assert (done.returncode, done.stdout) == (code, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_chat_with_the_built_in_model(shell: Shell):
    line = "eztinker chat --model nano --max-tokens 8 --temperature 0"
    done = shell(line, stdin="What is 3 + 4?\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_ctrl_c_is_130(running_server: EmbeddedServer):
    chat = subprocess.Popen(
        [PROGRAM, "chat"],
        env=environment(running_server.base_url),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with chat:
        assert chat.stderr is not None
        assert "/exit" in chat.stderr.readline()
        chat.send_signal(signal.SIGINT)
        assert chat.stderr.read() == "Error: Interrupted.\n"
    assert chat.returncode == 130


@pytest.mark.parametrize("command", ["version", "config show", "doctor --json", "--help"])
def test_a_reader_that_leaves_early_is_no_mistake(command: str):
    # PIPESTATUS is bash's: the exit code of the first command, whose reader has gone.
    line = f"eztinker {command} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], env=environment("http://127.0.0.1:9"), capture_output=True, text=True
    )
    assert done.returncode in (0, 1)  # 1 is typer's for its own help
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_without_a_server_the_exit_code_is_three(shell: Shell):
    done = shell("eztinker list-runs --base-url http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (3, "")
    assert "eztinker server" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_speaks_chinese_when_asked(shell: Shell):
    assert "启动服务" in shell("eztinker --help", EZTINKER_LANG="zh").stdout
    assert "任务已提交" in shell("eztinker sample x --max-tokens 1", LC_ALL="zh_CN.UTF-8").stderr


def test_module_and_script_are_the_same_program(shell: Shell):
    assert shell(f"{sys.executable} -m eztinker version").stdout == shell("eztinker version").stdout


@pytest.mark.parametrize("arguments", [["--help"], ["sample", "--help"], ["server", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    """How long ``--help`` takes is measured by ``benchmarks/native_api.py``; this is what makes it quick."""
    script = (
        "import sys\nfrom eztinker.cli.main import run\n"
        f"sys.argv = ['eztinker', *{arguments}]\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'fastapi', 'httpx', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment()
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
