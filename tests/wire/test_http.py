"""The wire as bytes: what the SDK hides or would never send."""

from __future__ import annotations

import time
import uuid

import httpx
import numpy as np
import pytest
import zstandard

from eztinker.models.proto.tinker_public import (
    DTYPES,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
)
from tests.wire.conftest import MODEL
from tests.wire.data import crowding

PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def session_id(http: httpx.Client) -> str:
    return http.post("/create_session", json={"tags": [], "sdk_version": "0"}).json()["session_id"]


@pytest.fixture
def model_id(http: httpx.Client, session_id: str) -> str:
    body = {"session_id": session_id, "model_seq_id": 0, "base_model": MODEL, "type": "x"}
    promise = http.post("/create_model", json={**body, "lora_config": {"rank": 2}}).json()
    done = retrieve(http, promise["request_id"])
    assert done.json() == {"type": "create_model", "model_id": f"{session_id}:train:0"}
    return f"{session_id}:train:0"


def retrieve(http: httpx.Client, request_id: str) -> httpx.Response:
    for _ in range(5):
        answer = http.post(
            "/retrieve_future",
            json={"request_id": request_id},
            headers={"Accept": PROTOBUF["Content-Type"]},
        )
        if answer.status_code != 408:
            return answer
    raise AssertionError("not ready")


def pass_request(model_id: str, seq_id: int, *, num_tokens: int = 4, loss: str = "cross_entropy"):
    message = ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn=loss)
    tokens = np.arange(10, 10 + num_tokens)
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = tokens.astype("<i4").tobytes()
    for name, values, kind in (
        ("target_tokens", (tokens + 1).astype("<i8"), "int64"),
        ("weights", np.ones(num_tokens, "<f4"), "float32"),
    ):
        tensor = datum.loss_fn_inputs[name]
        tensor.dense, tensor.dtype = values.tobytes(), DTYPES[kind]
        tensor.shape.append(num_tokens)
    return message


def send(http: httpx.Client, message) -> httpx.Response:
    return http.post("/forward_backward", content=message.SerializeToString(), headers=PROTOBUF)


def step(http: httpx.Client, model_id: str, seq_id: int) -> httpx.Response:
    body = {"model_id": model_id, "seq_id": seq_id, "adam_params": {"learning_rate": 1e-3}}
    return http.post("/optim_step", json=body)


def test_a_client_starts(http: httpx.Client) -> None:
    switches = http.post("/client/config", json={"sdk_version": "0.38.0"}).json()
    assert switches["sample_use_retrieve_futures"]
    assert not switches["proto_compress_fwdbwd"]  # this client sits on the server's machine
    assert http.post("/client/dynamic_config", json={}).json() == {"sample_cancel_enabled": True}
    assert http.get("/healthz").json() == {"status": "ok"}
    start_s = time.monotonic()
    telemetry = http.post("/telemetry", json={"events": [{"x": 1}] * 100, "session_id": "x"})
    assert telemetry.json() == {"status": "accepted"}
    assert time.monotonic() - start_s < 0.5 * crowding()


def test_a_session_lives_and_ends(http: httpx.Client, session_id: str) -> None:
    beat = {"session_id": session_id, "type": "session_heartbeat"}
    assert http.post("/session_heartbeat", json=beat).status_code == 200
    assert http.post("/session_heartbeat", json={"session_id": "nobody"}).status_code == 410
    body = {"reason": {"type": "success"}, "detail": ""}
    assert http.post(f"/sessions/{session_id}/finish", json=body).status_code == 204
    assert http.post(f"/sessions/{uuid.uuid4()}/finish", json=body).status_code == 404


def test_unnamed_weights_end_with_their_session(http: httpx.Client, model_id: str) -> None:
    session_id = model_id.partition(":")[0]
    body = {"model_id": model_id, "seq_id": 1, "sampling_session_seq_id": 0, "kind": "snapshot"}
    saved = http.post("/save_weights_for_sampler", json=body).json()["request_id"]
    sampler_id = retrieve(http, saved).json()["sampling_session_id"]
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [5, 6]}]}
    ask = {
        "sampling_session_id": sampler_id,
        "prompt": prompt,
        "sampling_params": {"max_tokens": 1},
    }
    first = http.post("/asample", json={**ask, "seq_id": 0})
    assert len(first.json()["sample_sequence_ids"]) == 1
    assert retrieve(http, first.json()["request_id"]).status_code == 200
    assert http.get(f"/training_runs/{model_id}/checkpoints").json()["checkpoints"] == []
    http.post(f"/sessions/{session_id}/finish", json={"reason": {"type": "success"}})
    late = http.post("/asample", json={**ask, "seq_id": 1})
    assert (late.status_code, "no checkpoint" in late.json()["detail"]) == (404, True)
    again = http.post("/asample", json={**ask, "seq_id": 0})
    assert again.json()["request_id"] == first.json()["request_id"]


def test_a_number_waits_for_those_before_it_and_its_poll_is_held(
    http: httpx.Client, model_id: str
) -> None:
    request_id = step(http, model_id, 2).json()["request_id"]
    with pytest.raises(httpx.ReadTimeout):
        http.post("/retrieve_future", json={"request_id": request_id}, timeout=0.5)
    first = send(http, pass_request(model_id, 1)).json()["request_id"]
    done = retrieve(http, request_id)
    assert done.json()["metrics"]["grad_norm:mean"] > 0
    output = ForwardBackwardOutput.FromString(retrieve(http, first).content)
    assert output.metrics["loss:sum"] > 0
    assert output.loss_fn_outputs[0].num_datums == 1


def test_a_repeated_request_is_the_first_one(http: httpx.Client, model_id: str) -> None:
    message = pass_request(model_id, 1)
    ids = {send(http, message).json()["request_id"] for _ in range(3)}
    ids |= {send(http, pass_request(model_id, 1)).json()["request_id"]}
    assert len(ids) == 1
    steps = {step(http, model_id, 2).json()["request_id"] for _ in range(3)}
    assert len(steps) == 1
    assert retrieve(http, steps.pop()).json()["metrics"]["step:max"] == 1.0
    other = send(http, pass_request(model_id, 1, num_tokens=3))
    assert other.status_code == 400
    assert "used before" in other.json()["detail"]


def test_a_refused_number_is_used_up(http: httpx.Client, model_id: str) -> None:
    later = step(http, model_id, 3).json()["request_id"]
    bad = send(http, pass_request(model_id, 1, loss="nonesuch"))
    assert bad.status_code == 200
    failed = retrieve(http, bad.json()["request_id"])
    assert failed.json()["category"] == "user"
    assert "nonesuch" in failed.json()["error"]
    again = send(http, pass_request(model_id, 1, loss="nonesuch"))
    assert again.json()["request_id"] == bad.json()["request_id"]
    good = send(http, pass_request(model_id, 2)).json()["request_id"]
    assert retrieve(http, good).headers["content-type"] == PROTOBUF["Content-Type"]
    assert retrieve(http, later).json()["metrics"]["step:max"] == 1.0


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"\xff\xff\xff", PROTOBUF, 400, "no ForwardBackwardRequest"),
        (b"", PROTOBUF, 400, "model_id: missing"),
        (b"{}", {"Content-Type": "application/json"}, 400, "missing"),
        (b"x", {**PROTOBUF, "Content-Encoding": "br"}, 415, "'br' is not read"),
        (b"x", {**PROTOBUF, "Content-Encoding": "zstd"}, 400, "cannot be unpacked"),
        (
            zstandard.compress(bytes(2**27)),
            {**PROTOBUF, "Content-Encoding": "zstd"},
            413,
            "unfolds",
        ),
    ],
)
def test_a_body_that_is_no_message(http: httpx.Client, content, headers, status, words) -> None:
    answer = http.post("/forward_backward", content=content, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_a_compressed_body_is_the_same_request(http: httpx.Client, model_id: str) -> None:
    plain = pass_request(model_id, 1).SerializeToString()
    packed = {**PROTOBUF, "Content-Encoding": "zstd"}
    first = http.post("/forward_backward", content=zstandard.compress(plain), headers=packed)
    again = http.post("/forward_backward", content=plain, headers=PROTOBUF)
    assert first.json()["request_id"] == again.json()["request_id"]
    broken = http.post("/forward_backward", content=zstandard.compress(plain)[:-3], headers=packed)
    assert broken.status_code == 400


def _cut(message) -> None:
    message.data[0].model_input[0].encoded_text.tokens = b"\x01\x02\x03"


def _untyped(message) -> None:
    message.data[0].loss_fn_inputs["weights"].dtype = 0


def _misshapen(message) -> None:
    message.data[0].loss_fn_inputs["weights"].shape.append(7)


def _wild_sparse(message) -> None:
    tensor = message.data[0].loss_fn_inputs["weights"]
    tensor.sparse_csr.values = np.ones(1, "<f4").tobytes()
    tensor.sparse_csr.crow_indices = np.array([0, 5], "<i8").tobytes()
    tensor.sparse_csr.col_indices = np.array([9], "<i8").tobytes()
    tensor.shape[:] = [1, 4]


def _huge_sparse(message) -> None:
    tensor = message.data[0].loss_fn_inputs["weights"]
    tensor.sparse_csr.values = b""
    tensor.shape[:] = [2**40, 2**40]


def _empty(message) -> None:
    message.data.clear()


def _audio(message) -> None:
    message.data[0].model_input[0].dmel.dmel = b"x"


@pytest.mark.parametrize(
    "break_it", [_cut, _untyped, _misshapen, _wild_sparse, _huge_sparse, _empty, _audio]
)
def test_a_message_with_broken_tensors(http: httpx.Client, model_id: str, break_it) -> None:
    message = pass_request(model_id, 1)
    break_it(message)
    answer = send(http, message)
    assert answer.status_code == 200
    failed = retrieve(http, answer.json()["request_id"]).json()
    assert failed["category"] == "user"
    assert (
        retrieve(http, send(http, pass_request(model_id, 2)).json()["request_id"]).status_code
        == 200
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/optim_step", {"model_id": "nobody", "seq_id": 1, "adam_params": {}}, 404, "no run"),
        ("/optim_step", {"seq_id": 1, "adam_params": {}}, 400, "model_id: missing"),
        ("/optim_step", b"{", 400, "not strict JSON"),
        ("/create_model", {"session_id": "x", "model_seq_id": 0, "base_model": MODEL}, 404, "session"),
        ("/retrieve_future", {"request_id": "job_none"}, 404, "no job"),
        ("/get_info", {"model_id": "nobody"}, 404, "no run"),
        ("/asample", {"sampling_session_id": "x", "seq_id": 0, "prompt": {"chunks": []}}, 404, "no sampling"),
        ("/asample", {"sampling_session_id": "x", "seq_id": 0, "prompt": {"chunks": []}, "beams": 4}, 400, "beams"),
        ("/nowhere", {}, 404, "not implemented here"),
    ],
)  # fmt: skip
def test_a_mistake_is_no_reason_to_try_again(http: httpx.Client, path, body, status, words) -> None:
    arguments = {"content": body} if isinstance(body, bytes) else {"json": body}
    headers = {"Content-Type": "application/json"}
    answer = http.post(path, headers=headers, **arguments)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_an_unknown_field_matters_only_when_it_says_something(http, model_id: str) -> None:
    body = {
        "model_id": model_id,
        "seq_id": 1,
        "adam_params": {"learning_rate": 0.1, "nesterov": True},
    }
    refused = retrieve(http, http.post("/optim_step", json=body).json()["request_id"]).json()
    assert (refused["category"], "nesterov" in refused["error"]) == ("user", True)
    quiet = {**body, "adam_params": {"learning_rate": 0.1, "nesterov": False}, "new": None}
    later = http.post("/optim_step", json={**quiet, "seq_id": 2}).json()["request_id"]
    assert "no gradient" in retrieve(http, later).json()["error"]


def test_clients_before_protobuf_speak_json(http: httpx.Client, model_id: str) -> None:
    data = [
        {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": [10, 11, 12, 13]}]},
            "loss_fn_inputs": {
                "target_tokens": {"data": [11, 12, 13, 14], "dtype": "int64", "shape": [4]},
                "weights": {"data": [1, 1, 1, 1], "dtype": "float32", "shape": [4]},
            },
        }
    ]
    given = {"data": data, "loss_fn": "cross_entropy"}
    place = {"model_id": model_id, "type": "x"}
    passed = http.post(
        "/forward_backward", json={**place, "seq_id": 1, "forward_backward_input": given}
    ).json()
    scored = http.post("/forward", json={**place, "seq_id": 2, "forward_input": given}).json()
    answers = [
        http.post("/retrieve_future", json={"request_id": promise["request_id"]}).json()
        for promise in (passed, scored)
    ]
    output = ForwardBackwardOutput.FromString(
        retrieve(http, send(http, pass_request(model_id, 3)).json()["request_id"]).content
    )
    for answer in answers:
        assert answer["metrics"] == dict(output.metrics)
        logprobs = answer["loss_fn_outputs"][0]["logprobs"]
        assert (logprobs["dtype"], logprobs["shape"]) == ("float32", [4])
        np.testing.assert_array_equal(
            np.array(logprobs["data"], np.float32),
            np.frombuffer(output.loss_fn_outputs[0].fields["logprobs"].data, "<f4"),
        )


def test_another_optimizer_fails_by_name(http: httpx.Client, model_id: str) -> None:
    body = {
        "model_id": model_id,
        "seq_id": 1,
        "optimizer_params": {"type": "dimuon", "learning_rate": 1.0},
    }
    failed = retrieve(http, http.post("/optim_step", json=body).json()["request_id"]).json()
    assert failed["category"] == "user"
    assert "dimuon" in failed["error"]


def test_a_promise_is_cancelled(http: httpx.Client, model_id: str) -> None:
    body = {"model_id": model_id, "seq_id": 5, "adam_params": {"learning_rate": 0.1}}
    request_id = http.post("/optim_step", json=body).json()["request_id"]  # waits for 1 to 4
    assert http.post("/cancel_future", json={"request_id": request_id}).status_code == 204
    assert "cancelled" in retrieve(http, request_id).json()["error"]
    assert http.post("/cancel_future", json={"request_id": "job_none"}).status_code == 404


def test_the_native_api_knows_what_this_wire_made(http: httpx.Client, model_id: str) -> None:
    native = str(http.base_url).removesuffix("/api/v1/")
    run = http.get(f"{native}/v1/runs/{model_id}").json()
    assert (run["run_id"], run["lora_config"]["r"]) == (model_id, 2)
    sampled = http.post(
        f"{native}/v1/sample?wait=20",
        json={"run_id": model_id, "prompt": [5, 6], "max_new_tokens": 2},
    )
    assert sampled.json()["status"] == "completed"
