"""Sessions through the official SDK: searched, and drawn as a timeline."""

from __future__ import annotations

import time
import uuid

import httpx
import pytest

from tests.wire.conftest import MODEL
from tests.wire.data import datum, prompt


@pytest.fixture
def search(sdk, rest):
    from tinker.types import SessionSearchRequest

    def search(**filters):
        with pytest.warns(match="experimental"):
            return rest.search_sessions(SessionSearchRequest(**filters)).result()

    return search


@pytest.fixture
def named(http: httpx.Client):
    """Makes a session of a display name that nobody else has."""
    mark = uuid.uuid4().hex

    def make(name: str, **fields) -> str:
        body = {"sdk_version": "0", "display_name": f"{name} {mark}", **fields}
        return http.post("/create_session", json=body).json()["session_id"]

    make.mark = mark
    return make


def test_sessions_are_found_by_what_is_said_of_them(search, named, http) -> None:
    first = named("Nightly run", user_metadata={"team": "a"}, project_id="p1")
    second = named("nightly test", user_metadata={"team": "b"})
    http.post(f"/sessions/{second}/finish", json={"reason": {"type": "errored"}})

    def found(**filters) -> list[str]:
        filters.setdefault("display_name", named.mark)
        return [s.session_id for s in search(**filters).sessions]

    assert found() == [second, first]
    assert found(display_name=f"NIGHT run {named.mark}") == [first]
    assert found(user_metadata={"team": "b"}) == [second]
    assert found(project_ids=["p1"]) == [first]
    assert found(statuses=[{"type": "client_finished", "reasons": ["errored"]}]) == [second]
    assert found(statuses=[{"type": "active"}]) == []
    http.post("/session_heartbeat", json={"session_id": first})
    assert found(statuses=[{"type": "active"}, {"type": "failed"}]) == [first]
    assert found(display_name="nobody's", session_id=first) == [first]
    assert found(owner={"type": "user", "owner_urns": ["tml:user:x"]}) == []


def test_a_search_has_pages_and_counts(search, named, service, model) -> None:
    ids = [named("page") for _ in range(3)]
    page = search(display_name=named.mark, limit=2)
    assert [s.session_id for s in page.sessions] == ids[:0:-1]
    rest = search(display_name=named.mark, limit=2, cursor=page.next_cursor)
    assert ([s.session_id for s in rest.sessions], rest.next_cursor) == (ids[:1], None)
    model.save_state("kept").result()
    summary = search(session_id=model.model_id.partition(":")[0]).sessions[0]
    assert summary.checkpoints_count == 1
    assert summary.checkpoint_storage_bytes > 0


def test_a_session_is_drawn_as_a_timeline(sdk, rest, service, model) -> None:
    model.forward_backward([datum()], "cross_entropy").result()
    sampler = service.create_sampling_client(base_model=MODEL).result()
    sampler.sample(prompt(5, 6), 1, sdk.SamplingParams(max_tokens=2)).result()
    url = rest.export_session_trace(model.model_id.partition(":")[0]).result()
    events = httpx.get(url).json()["traceEvents"]
    lanes = {e["args"]["name"]: e["tid"] for e in events if e["ph"] == "M"}
    spans = {(e["name"], e["tid"]): e for e in events if e["ph"] == "X"}
    passed = spans["forward_backward", lanes[model.model_id]]
    assert passed["dur"] > 0
    assert abs(passed["ts"] / 1e6 - time.time()) < 60
    assert any(name == "sample" for name, _ in spans)
    with pytest.raises(sdk.NotFoundError, match="no session"):
        rest.export_session_trace("nobody").result()


def test_a_run_says_when_it_was_last_asked(rest, model) -> None:
    before = rest.get_training_run(model.model_id).result().last_request_time
    time.sleep(0.01)
    model.forward([datum()], "cross_entropy").result()
    after = rest.get_training_run(model.model_id).result().last_request_time
    assert after > before
