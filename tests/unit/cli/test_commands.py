"""Commands as documented: what goes to stdout, what to stderr, and the exit codes."""

import json

import pytest

from eztinker import __version__
from tests.unit.cli.conftest import Run
from tests.unit.client import fake_service
from tests.unit.client.fake_service import FakeService

COMMANDS = (
    "server version health status create list-runs delete sample chat save checkpoints eval logs demo "
    "recipe doctor estimate conformance merge export import push pin prune serve"
)
GROUPS = {
    "jobs": "list show cancel",
    "keys": "create list revoke",
    "config": "show check import",
    "data": "inspect",
}


def test_the_program_has_these_commands_and_no_others(run: Run):
    from eztinker.cli.main import app

    named = {info.name or info.callback.__name__ for info in app.registered_commands}
    assert named == set(COMMANDS.split())
    for group in app.registered_groups:
        inside = {c.name or c.callback.__name__ for c in group.typer_instance.registered_commands}
        assert inside == set(GROUPS[str(group.name)].split())
    assert run().code == 2


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_has_help(run: Run, command: str):
    shown = run(command, "--help")
    assert shown.code == 0
    assert "Usage" in shown.stdout


def test_version(run: Run):
    assert run("version").stdout == f"EZTinker {__version__}\n"
    assert run("--version").stdout == f"EZTinker {__version__}\n"
    assert json.loads(run("version", "--json").stdout)["version"] == __version__


def test_health(run: Run, service: FakeService):
    shown = run("health")
    assert shown.code == 0
    assert shown.stdout.startswith("ok: EZTinker 9.9 at http://localhost:8000, answered in ")
    assert json.loads(run("health", "--json").stdout) == {"status": "ok", "version": "9.9"}


def test_create_prints_the_id_alone_on_stdout(run: Run, service: FakeService):
    created = run("create")
    assert created.stdout == "run_00000000\n"
    assert "Qwen/Qwen2-0.5B-Instruct" in created.stderr
    assert service.bodies[0]["base_model"] == "Qwen/Qwen2-0.5B-Instruct"
    assert run("create", "--model", "nano", "--run-id", "custom123").stdout == "custom123\n"


def test_a_name_that_exists_is_usage(run: Run, service: FakeService):
    run("create", "--run-id", "mine")
    again = run("create", "--run-id", "mine")
    assert (again.code, again.stdout) == (2, "")
    assert again.stderr.strip() == "Error: A run named 'mine' exists."


def test_list_runs_is_the_documented_table(run: Run, service: FakeService):
    run("create", "--run-id", "run_948cfd1d")
    assert run("list-runs").stdout == (
        "┏━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━┓\n"
        "┃ Run ID       ┃ Base Model               ┃\n"
        "┡━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━┩\n"
        "│ run_948cfd1d │ Qwen/Qwen2-0.5B-Instruct │\n"
        "└──────────────┴──────────────────────────┘\n"
    )
    listed = json.loads(run("list-runs", "--json").stdout)
    assert [row["run_id"] for row in listed["runs"]] == ["run_948cfd1d"]


def test_tables_never_shorten_names_in_a_pipe(run: Run, service: FakeService):
    name = "models/" + "x" * 300
    run("create", "--model", name)
    assert name in run("list-runs").stdout


def test_empty_lists_are_notes_and_not_data(run: Run, service: FakeService):
    for command in (["list-runs"], ["checkpoints"], ["jobs", "list"]):
        shown = run(*command)
        assert (shown.code, shown.stdout) == (0, "")
        assert "yet" in shown.stderr


def test_sample_as_documented(run: Run, service: FakeService):
    shown = run("sample", "What is 2+2?", "--max-tokens", "30", "--temperature", "0.7")
    assert shown.stderr == "Job submitted: job_00000000\n"
    assert shown.stdout == "What is 2+2? answer 0\n"
    assert service.bodies[0]["max_new_tokens"] == 30
    assert service.bodies[0]["temperature"] == 0.7


def test_several_answers_come_without_the_prompt(run: Run, service: FakeService):
    assert run("sample", "x", "--num-samples", "2").stdout == " answer 0\n---\n answer 1\n"
    answer = json.loads(run("sample", "x", "--json", "--num-samples", "2").stdout)
    assert [sequence["text"] for sequence in answer["sequences"]] == [" answer 0", " answer 1"]
    assert answer["job_id"] == "job_00000001"


def test_sample_reads_its_prompt_from_stdin(run: Run, service: FakeService):
    assert run("sample", "-", stdin="from a pipe").stdout == "from a pipe answer 0\n"


def test_sample_names_whose_weights(run: Run, service: FakeService):
    run(
        "sample",
        "x",
        "--run-id",
        "r",
        "--checkpoint",
        "c",
        "--stop",
        "a",
        "--stop",
        "b",
        "--seed",
        "1",
    )
    body = service.bodies[0]
    assert (body["run_id"], body["checkpoint"], body["stop"], body["seed"]) == (
        "r",
        "c",
        ["a", "b"],
        1,
    )


def test_an_interrupted_sample_is_cancelled(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    service.num_polls_to_finish = 10**6
    monkeypatch.setattr(
        "eztinker.client.client.EZTinkerClient.func.wait_for_job", _interrupt, raising=True
    )
    shown = run("sample", "x")
    assert shown.code == 130
    assert [job["status"] for job in service.jobs.values()] == ["cancelled"]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_save_prints_the_folder(run: Run, service: FakeService):
    saved = run("save", "run_1", "final")
    assert (saved.stdout, saved.stderr) == ("/ck/final\n", "Saved final of run_1.\n")


def test_checkpoints(run: Run, service: FakeService):
    service.checkpoints = [
        {
            "name": "final",
            "run_id": "run_1",
            "created_at": "2026-01-01T00:00:00Z",
            "size_bytes": 1_900_000,
            "is_sampler": False,
        }
    ]
    row = run("checkpoints").stdout.splitlines()[3]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "final",
        "run_1",
        "2026-01-01T00:00:00Z",
        "1.9 MB",
        "yes",
    ]
    assert json.loads(run("checkpoints", "--json").stdout)["checkpoints"] == service.checkpoints


def test_jobs(run: Run, service: FakeService):
    run("sample", "x")
    assert "job_00000000" in run("jobs", "list").stdout
    assert run("jobs", "list", "--status", "running").stdout == ""
    shown = run("jobs", "show", "job_00000000").stdout
    assert "x answer 0" in shown
    assert json.loads(run("jobs", "show", "job_00000000", "--json").stdout)["kind"] == "sample"
    assert run("jobs", "cancel", "job_00000000").stderr == "Job job_00000000: cancelled.\n"
    assert run("jobs", "show", "job_9").code == 4


def test_status(run: Run, service: FakeService):
    run("create", "--model", "nano")
    facts = json.loads(run("status", "--json").stdout)
    assert facts["base_models"] == ["nano"]
    assert facts["runs"] == 1
    assert facts["jobs"] == {"queued": 0, "running": 0}
    assert "0 queued, 0 running" in run("status").stdout


def test_delete(run: Run, service: FakeService):
    run("create", "--run-id", "mine")
    assert run("delete", "mine").stderr == "Deleted mine.\n"
    gone = run("delete", "mine")
    assert gone.code == 4
    assert gone.stderr == "Error: There is no run 'mine'.\n"


def test_chat_with_two_models_keeps_two_conversations(run: Run, service: FakeService):
    run_id = run("create", "--model", "nano").stdout.strip()
    shown = run("chat", run_id, "--vs", "nano", stdin="one\ntwo\n")
    assert shown.code == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[::2] == [f"[{run_id}]", "[nano]"] * 2
    asked = service.bodies[1:]
    assert [body["model"] for body in asked[:2]] == [run_id, "nano"]
    assert [len(body["messages"]) for body in asked] == [1, 1, 3, 3]


def test_chat_takes_one_name_for_its_weights(run: Run):
    shown = run("chat", "nano", "--model", "nano")
    assert (shown.code, "once" in shown.stderr) == (2, True)


def test_chat_refuses_an_unknown_model_before_anybody_types(run: Run, service: FakeService):
    for names in (["nosuch"], ["nano", "--vs", "nosuch"]):
        shown = run("chat", *names, stdin="")
        assert shown.code == 4
        assert "there is no 'nosuch'" in shown.stderr


def test_chat_answers_a_mistyped_command_itself(run: Run, service: FakeService):
    shown = run("chat", stdin="/help\n/restart\n/etc/hosts\n/quit\nmore\n")
    assert shown.stderr.count("/reset") == 3
    assert [body["messages"][-1]["content"] for body in service.bodies] == ["/etc/hosts"]


def test_chat_keeps_the_conversation(run: Run, service: FakeService):
    shown = run("chat", "--system", "Be brief.", stdin="one\n\ntwo\n/reset\nthree\n/exit\nfour\n")
    assert shown.code == 0
    assert shown.stdout == "answer 0\n" * 3
    conversations = [[m["content"] for m in body["messages"]] for body in service.bodies]
    assert conversations == [
        ["Be brief.", "one"],
        ["Be brief.", "one", " answer 0", "two"],
        ["Be brief.", "three"],
    ]


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthorized", 5),
        (404, "model_not_found", 4),
        (400, "invalid_request", 2),
        (503, "out_of_memory", 6),
        (503, "disk_full", 6),
        (500, "internal_error", 1),
    ],
)
def test_exit_codes(run: Run, service: FakeService, status: int, code: str, exit_code: int):
    service.script = [fake_service.error(status, code, "What happened.") for _ in range(9)]
    failed = run("list-runs", "--json")
    assert (failed.code, failed.stdout) == (exit_code, "")
    assert failed.stderr.startswith("Error: What happened.")
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize(("code", "exit_code"), [("not_finite", 1), ("out_of_memory", 6)])
def test_a_failed_job_ends_with_one_or_the_want_of_room(
    run: Run, service: FakeService, code: str, exit_code: int
):
    failed = {"job_id": "job_1", "status": "failed", "error": {"code": code, "message": "Why."}}
    service.script = [None, fake_service.httpx.Response(200, json=failed)]
    shown = run("sample", "x")
    assert shown.code == exit_code
    assert shown.stderr.endswith("Error: Job job_1 failed: Why.\n")


def test_an_unreachable_server_is_named_with_the_remedy(run: Run, service: FakeService):
    service.script = [fake_service.refused() for _ in range(99)]
    shown = run("health", "--base-url", "http://nowhere:1")
    assert shown.code == 3
    assert "http://nowhere:1" in shown.stderr
    assert "eztinker server" in shown.stderr


def test_options_come_from_the_environment_and_flags_win(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://from-env")
    monkeypatch.setenv("EZTINKER_API_KEY", "k1")
    run("list-runs")
    run("list-runs", "--base-url", "http://from-flag", "--api-key", "k2")
    assert [request.url.host for request in service.seen] == ["from-env", "from-flag"]
    assert [request.headers["X-API-Key"] for request in service.seen] == ["k1", "k2"]


@pytest.mark.parametrize(
    "command",
    [
        ["sample"],
        ["nonsense"],
        ["sample", "x", "--max-tokens", "0"],
        ["sample", "x", "--unknown"],
        ["jobs", "list", "--status", "odd"],
        ["create", "--quantization", "int3"],
        ["list-runs", "--base-url", "not-an-address"],
    ],
)
def test_wrong_usage_is_two(run: Run, command: list[str]):
    wrong = run(*command)
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr
