"""Futures as bytes: many at once, given up, and of clients that were copied."""

from __future__ import annotations

import pickle
import time

import httpx
import pytest

from tests.wire.conftest import MODEL
from tests.wire.data import prompt


@pytest.fixture
def sampler_id(http: httpx.Client) -> str:
    session_id = http.post("/create_session", json={"sdk_version": "0"}).json()["session_id"]
    body = {"session_id": session_id, "sampling_session_seq_id": 0, "base_model": MODEL}
    return http.post("/create_sampling_session", json=body).json()["sampling_session_id"]


def ask(http: httpx.Client, sampler_id: str, seq_id: int, *, max_tokens: int = 2) -> str:
    body = {
        "sampling_session_id": sampler_id,
        "seq_id": seq_id,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
        "sampling_params": {"max_tokens": max_tokens, "stop": []},
    }
    return http.post("/asample", json=body).json()["request_id"]


def poll(http: httpx.Client, sampler_id: str, cursor: int = 0, *, clone: int = 0, **more) -> dict:
    target = {"sampling_session_id": sampler_id, "cloned_sampler_id": clone}
    body = {"target": {**target, "type": "sampling_session"}, "prev_cursor": cursor, **more}
    answer = http.post("/retrieve_futures", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def collect(http: httpx.Client, sampler_id: str, wanted: set[str], cursor: int = 0) -> int:
    """Poll until all of ``wanted`` have ended."""
    while wanted:
        told = poll(http, sampler_id, cursor)
        assert told["cursor"] >= cursor
        cursor = told["cursor"]
        wanted = wanted - {c["request_id"] for c in told["completions"]}
    return cursor


def test_one_poll_tells_of_many(http: httpx.Client, sampler_id: str) -> None:
    before = {ask(http, sampler_id, seq) for seq in range(3)}
    cursor = collect(http, sampler_id, before)
    after = {ask(http, sampler_id, seq) for seq in range(3, 23)}
    cursor = collect(http, sampler_id, after, cursor)
    assert poll(http, sampler_id, cursor, timeout=0) == {"completions": [], "cursor": cursor}
    one = ask(http, sampler_id, 40)
    told = poll(http, sampler_id, cursor)
    assert told["completions"] == [{"state": "finished", "request_id": one}]
    # Its answer was lost: the same cursor hears the same again.
    assert poll(http, sampler_id, cursor)["completions"] == told["completions"]
    assert (
        poll(http, sampler_id, cursor, timeout=0, retrieved_request_ids=[one])["completions"] == []
    )


def test_a_client_hears_only_of_its_own(http: httpx.Client, sampler_id: str) -> None:
    own, others = ask(http, sampler_id, 0), ask(http, sampler_id, 2 * 10**9)
    collect(http, sampler_id, {own})
    told = poll(http, sampler_id, clone=2)["completions"]
    assert [c["request_id"] for c in told] == [others]
    # A cursor of the future is one of a server with another clock.
    assert poll(http, sampler_id, 2**62)["completions"][0]["request_id"] == own


def test_a_poll_without_news_is_held(http: httpx.Client, sampler_id: str) -> None:
    body = {"target": {"sampling_session_id": sampler_id}}
    with pytest.raises(httpx.ReadTimeout):
        http.post("/retrieve_futures", json=body, timeout=0.5)
    body["target"]["sampling_session_id"] = "x"
    assert http.post("/retrieve_futures", json=body).status_code == 404


def test_a_cancelled_sample_is_told_as_failed(http: httpx.Client, sampler_id: str) -> None:
    request_id = ask(http, sampler_id, 0, max_tokens=90)
    assert http.post("/cancel_future", json={"request_id": request_id}).status_code == 204
    states = {c["request_id"]: c["state"] for c in poll(http, sampler_id)["completions"]}
    error = http.post("/retrieve_future", json={"request_id": request_id}).json().get("error", "")
    # It may have been faster than its cancellation; both ways say the same.
    assert states[request_id] == ("failed" if "cancelled" in error else "finished")


def test_each_joining_client_gets_a_number(http: httpx.Client, sampler_id: str) -> None:
    join = {"sampling_session_id": sampler_id, "type": "join_sampling_session"}
    counters = [
        http.post("/join_sampling_session", json=join).json()["client_counter"] for _ in "ab"
    ]
    assert counters == [1, 2]
    assert http.post("/join_sampling_session", json={"sampling_session_id": "x"}).status_code == 404


def test_the_sdk_copies_a_client(sdk, service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-local")
    client = service.create_sampling_client(base_model=MODEL).result()
    twin = pickle.loads(pickle.dumps(client))
    params = sdk.SamplingParams(max_tokens=2, temperature=0, stop=[])
    answers = [c.sample(prompt(5, 6), 1, params).result() for c in (client, twin)]
    assert answers[0].sequences[0].tokens == answers[1].sequences[0].tokens
    assert (client._cloned_sampler_id, twin._cloned_sampler_id) == (0, 1)
    twin.holder.close()


def test_an_sdk_future_that_is_given_up_is_cancelled(sdk, service, http: httpx.Client) -> None:
    client = service.create_sampling_client(base_model=MODEL).result()
    params = sdk.SamplingParams(max_tokens=90, stop=[])
    futures = [client.sample(prompt(5, 6), 8, params) for _ in range(40)]
    given_up = futures.pop().future()
    given_up.cancel()
    native = str(http.base_url).removesuffix("/api/v1/")
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        listed = http.get(f"{native}/v1/jobs", params={"status": "cancelled"}).json()["jobs"]
        if given_up.cancelled() and any(job["kind"] == "sample" for job in listed):
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the server never heard of it")
    assert all(len(f.result().sequences) == 8 for f in futures)


def test_a_model_is_unloaded_and_comes_back(http: httpx.Client) -> None:
    from tests.wire.test_http import pass_request, retrieve, send

    session_id = http.post("/create_session", json={"sdk_version": "0"}).json()["session_id"]
    body = {"session_id": session_id, "model_seq_id": 0, "base_model": MODEL}
    made = http.post("/create_model", json={**body, "lora_config": {"rank": 2}}).json()
    model_id = retrieve(http, made["request_id"]).json()["model_id"]
    before = retrieve(http, send(http, pass_request(model_id, 1)).json()["request_id"]).content
    promise = http.post("/unload_model", json={"model_id": model_id, "type": "unload_model"}).json()
    assert retrieve(http, promise["request_id"]).json() == {
        "type": "unload_model",
        "model_id": model_id,
    }
    again = retrieve(http, send(http, pass_request(model_id, 2)).json()["request_id"]).content
    assert again == before
    assert http.post("/unload_model", json={"model_id": "nobody"}).status_code == 404
