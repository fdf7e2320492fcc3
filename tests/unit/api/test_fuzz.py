"""Requests nobody would write: from our OpenAPI document, as sequences on runs and jobs, as broken protobuf.

Whatever comes: no fault of ours, no hang, no answer that its schema does not allow. Each drawn request is
sent with a few relatives (``mutants.py``): ten thousand in all; ``make fuzz`` sends six times as many
(``FUZZ_FACTOR``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule
from pydantic import BaseModel

from eztinker.api.server import ROUTERS, create_app
from eztinker.models.answers import ErrorAnswer
from eztinker.models.proto.tinker_public import ForwardBackwardRequest
from eztinker.types.records import FINAL_STATUSES

from . import mutants
from .background import Background

FACTOR = int(os.environ.get("FUZZ_FACTOR", "2"))
QUIET = settings(
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ_FACTOR" not in os.environ,
)
OPENAI = ("/v1/chat/", "/v1/completions", "/v1/models/")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eztinker.service.hub._is_offline", lambda: True)
        background = Background(
            tmp_path_factory.mktemp("fuzz") / "state",
            default_wait_s=0.2,
            limits={"max_runs": 100_000, "max_queued_jobs": 100_000},
        )
        yield background
        background.close()


# From the OpenAPI document ------------------------------------------------------------------------

DOCUMENT = create_app(None).openapi()  # type: ignore[arg-type]
# An archive cannot be drawn from a schema; test_bad_input.py has what is wrong with archives.
NOT_JSON = {"POST /v1/runs/import"}
OPERATIONS = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
    if found.ok().label not in NOT_JSON
}
ANSWERS: dict[str, type[BaseModel]] = {
    f"{method} {route.path.replace(':path', '')}": route.response_model
    for router in ROUTERS
    for route in router.routes
    for method in route.methods
    if getattr(route, "response_model", None)
}


def check_schema(label: str, answer: httpx.Response) -> None:
    if answer.status_code >= 400:
        if not any(part in label for part in OPENAI):
            ErrorAnswer.model_validate_json(answer.content)
    elif answer.headers["content-type"] == "application/json":
        ANSWERS[label].model_validate_json(answer.content)


def with_known_ids(value: Any, known: str) -> Any:
    """The same request about a run that exists, as far as it names one."""
    if isinstance(value, dict):
        return {
            key: known if key == "run_id" else with_known_ids(entry, known)
            for key, entry in value.items()
        }
    return [with_known_ids(entry, known) for entry in value] if isinstance(value, list) else value


# Each of them waits for something, or would make every later request unauthorized.
SKIPPED = {"POST /v1/keys"}


@pytest.mark.parametrize("label", sorted(set(OPERATIONS) - SKIPPED))
def test_what_the_document_allows_is_answered_by_its_schema(label: str, server: Background) -> None:
    run_id = server.request("POST", "/v1/runs", json={"base_model": "nano"}).json()["run_id"]

    @settings(QUIET, max_examples=8 * FACTOR)
    @given(case=OPERATIONS[label].as_strategy(), exists=st.booleans(), seed=st.integers(0, 2**32))
    def ask(case: Any, exists: bool, seed: int) -> None:
        arguments = case.as_transport_kwargs(base_url="http://localhost")
        arguments.pop("cookies", None)
        # What no client library can send is not ours to answer.
        assume(all(value.isascii() for value in (arguments.get("headers") or {}).values()))
        if exists and "json" in arguments:
            arguments["json"] = with_known_ids(arguments["json"], run_id)
        if exists and "run_id" in (case.path_parameters or {}) and not label.startswith("DELETE"):
            given_id = quote(str(case.path_parameters["run_id"]), safe="")
            arguments["url"] = arguments["url"].replace(given_id, run_id, 1)
        params = arguments.get("params") or {}
        if "wait" in params:
            params["wait"] = min(0.05, float(params["wait"]))
        relatives = relatives_of(arguments, Random(seed))
        for answer in server.request_all([arguments, *relatives]):
            check_schema(label, answer)

    ask()


def relatives_of(arguments: dict[str, Any], chance: Random) -> list[dict[str, Any]]:
    """The same request with another body, or with another query where it has none."""
    if "json" not in arguments:
        rest = {name: value for name, value in arguments.items() if name != "params"}
        params = arguments.get("params") or {}
        return [{**rest, "params": query} for query in mutants.queries(params, chance, 6)]
    rest = {name: value for name, value in arguments.items() if name not in ("json", "headers")}
    rest["headers"] = {**(arguments.get("headers") or {}), "Content-Type": "application/json"}
    bodies = mutants.bodies(arguments["json"], FIELDS, chance, 20)
    return [{**rest, "content": body} for body in bodies]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = sorted(
    {
        name
        for schema in DOCUMENT["components"]["schemas"].values()
        for name in schema.get("properties", {})
    }
)


@pytest.mark.parametrize("label", sorted(label for label in OPERATIONS if label.startswith("POST")))
def test_junk_under_known_names_is_refused_in_words(label: str, server: Background) -> None:
    path = label.split()[1].replace("{run_id}", "run_fuzz")

    @settings(QUIET, max_examples=10 * FACTOR)
    @given(
        body=st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=4) | JUNK,
        seed=st.integers(0, 2**32),
    )
    def ask(body: Any, seed: int) -> None:
        if label == "POST /v1/keys" and isinstance(body, dict):
            body.pop("name", None)  # a key would lock the rest of the test out
        try:
            content = httpx.Request("POST", "http://x", json=body).content
        except (ValueError, UnicodeEncodeError):
            assume(False)
        request = {"method": "POST", "url": path, "headers": {"Content-Type": "application/json"}}
        contents = [content]
        if label not in SKIPPED:
            contents += mutants.bodies(body, FIELDS, Random(seed), 12)
        for answer in server.request_all([request | {"content": entry} for entry in contents]):
            check_schema(label, answer)

    ask()


# Sequences ----------------------------------------------------------------------------------------


class RunsAndJobs(RuleBasedStateMachine):
    """Any sequence of requests, compared with a model of what a run's counters must say."""

    server: Background
    runs = Bundle("runs")
    jobs = Bundle("jobs")

    @initialize(target=runs)
    def begin(self) -> Any:
        self.steps: dict[str, int] = {}
        self.deleted: set[str] = set()
        return multiple(self.create(), self.create())

    def create(self) -> str:
        answer = self.server.request("POST", "/v1/runs", json={"base_model": "nano"})
        assert answer.status_code == 200, answer.text
        run_id = answer.json()["run_id"]
        self.steps[run_id] = 0
        return run_id

    @rule(target=runs)
    def create_run(self) -> str:
        return self.create()

    def submit(self, run_id: str, kind: str, body: Any, expected: set[int]) -> Any:
        answer = self.server.request("POST", f"/v1/runs/{run_id}/{kind}?wait=5", json=body)
        expected = {404} if run_id in self.deleted else expected
        assert answer.status_code in expected, (answer.status_code, answer.text)
        return answer.json() if answer.status_code == 200 else None

    @rule(target=jobs, run_id=runs, tokens=st.lists(st.integers(0, 99), min_size=2, max_size=6))
    def forward_backward(self, run_id: str, tokens: list[int]) -> Any:
        job = self.submit(run_id, "forward_backward", {"input_ids": tokens}, {200})
        return multiple(*([job["job_id"]] if job else []))

    @rule(target=jobs, run_id=runs)
    def optim_step(self, run_id: str) -> Any:
        job = self.submit(run_id, "optim_step", {}, {200})
        if job is None:
            return multiple()
        assert job["status"] == "completed"
        self.steps[run_id] += 1
        assert job["result"]["step"] == self.steps[run_id]
        return job["job_id"]

    @rule(run_id=runs, name=st.sampled_from(["a", "b"]), overwrite=st.booleans())
    def save(self, run_id: str, name: str, overwrite: bool) -> None:
        self.submit(run_id, "save", {"name": name, "overwrite": overwrite}, {200, 409})

    @rule(run_id=runs, name=st.sampled_from(["a", "b", "never"]))
    def load(self, run_id: str, name: str) -> None:
        job = self.submit(run_id, "load", {"name": name}, {200, 404})
        if job is not None:
            self.steps[run_id] = job["result"]["step"]

    @rule(run_id=runs)
    def sample(self, run_id: str) -> None:
        body = {"prompt": [1, 2], "run_id": run_id, "max_new_tokens": 1}
        answer = self.server.request("POST", "/v1/sample?wait=5", json=body)
        assert answer.status_code == (404 if run_id in self.deleted else 200), answer.text

    @rule(job_id=jobs)
    def cancel_what_has_ended(self, job_id: str) -> None:
        answer = self.server.request("DELETE", f"/v1/jobs/{job_id}")
        assert answer.status_code in (200, 404)
        assert answer.status_code == 404 or answer.json()["status"] in FINAL_STATUSES

    @rule(run_id=consumes(runs))
    def delete(self, run_id: str) -> None:
        answer = self.server.request("DELETE", f"/v1/runs/{run_id}")
        assert answer.status_code == (404 if run_id in self.deleted else 200)
        self.deleted.add(run_id)

    @rule(run_id=runs)
    def look(self, run_id: str) -> None:
        answer = self.server.request("GET", f"/v1/runs/{run_id}")
        if run_id in self.deleted:
            assert answer.status_code == 404
        else:
            assert answer.json()["step"] == self.steps[run_id]


def test_any_sequence_of_requests_leaves_runs_as_the_model_says(server: Background) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("Machine", (RunsAndJobs,), {"server": server})
    run_state_machine_as_test(
        machine, settings=settings(QUIET, max_examples=12 * FACTOR, stateful_step_count=25)
    )


# Protobuf -----------------------------------------------------------------------------------------


def a_request(model_id: str) -> bytes:
    message = ForwardBackwardRequest(model_id=model_id, seq_id=1, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array([1, 2, 3], "<i4").tobytes()
    return message.SerializeToString()


@pytest.fixture(scope="module")
def model_id(server: Background) -> str:
    """A model of the Tinker wire."""
    session = server.request("POST", "/api/v1/create_session", json={"sdk_version": "0"}).json()
    wanted = {"model_seq_id": 0, "base_model": "nano", "lora_config": {"rank": 1}}
    body = {"session_id": session["session_id"], **wanted}
    promise = server.request("POST", "/api/v1/create_model", json=body)
    assert promise.status_code == 200, promise.text
    return f"{session['session_id']}:train:0"


@pytest.mark.parametrize(
    "path", ["forward_backward", "asample", "create_model", "retrieve_future", "load_weights"]
)
@pytest.mark.parametrize("exists", [True, False])
def test_broken_protobuf_and_json_on_the_tinker_wire(
    path: str, exists: bool, server: Background, model_id: str
) -> None:
    whole = a_request(model_id if exists else "00000000-0000-0000-0000-000000000000:train:0")

    @settings(QUIET, max_examples=25 * FACTOR)
    @given(
        cut=st.integers(0, len(whole)),
        junk=st.binary(max_size=40),
        at=st.integers(0, len(whole)),
        encoding=st.sampled_from(["identity", "identity", "zstd", "gzip"]),
        kind=st.sampled_from(["application/x-protobuf", "application/json"]),
    )
    def ask(cut: int, junk: bytes, at: int, encoding: str, kind: str) -> None:
        content = whole[:cut][:at] + junk + whole[:cut][at:]
        headers = {"Content-Type": kind, "Content-Encoding": encoding}
        answer = server.request("POST", f"/api/v1/{path}", content=content, headers=headers)
        if answer.status_code == 200:  # accepted, or refused through its future
            assert exists
            assert path == "forward_backward"
            return
        assert 400 <= answer.status_code < 500
        # A number that was used before is a conflict; after the others the client would try again.
        assert answer.status_code not in (402, 408, 410, 429), answer.text
        assert set(answer.json()) <= {"detail", "code"}

    ask()


def test_enough_was_asked(server: Background, request: pytest.FixtureRequest) -> None:
    """The tests above would pass as well if nothing of theirs ever got through."""
    if request.session.testscollected < len(OPERATIONS):
        pytest.skip("counts what the whole file has sent")
    assert server.statuses.total() > 5000 * FACTOR
    assert server.statuses[200] > 300 * FACTOR
    print(f"{server.statuses.total()} requests: {dict(sorted(server.statuses.items()))}")
