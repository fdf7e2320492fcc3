"""The server under test, as a client of the protocol sees it: sessions, models, promises, samples.

Every method sends what the official client would send, and raises ``Mismatch`` where the answer is none
that this client could read. Used by the checks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from eztinker.conformance.expectations import Mismatch, expect
from eztinker.models.proto.tinker_public import (
    DTYPES,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    SampleResponse,
)

PROTOBUF = "application/x-protobuf"
RESULT_TIMEOUT_S = 300.0
"""How long an operation may take, model loading included."""
POLL_TIMEOUT_S = 45.0
REFUSALS = frozenset({400, 401, 403, 404, 405, 413, 415, 422})
"""Statuses that tell a client that trying again is no use."""

Inputs = Mapping[str, np.ndarray]
Data = Sequence[tuple[Sequence[int], Inputs]]


class Refused(Exception):  # noqa: N818
    """A promise that ended in an error.

    Attributes:
        category: ``user``, ``server`` or ``unknown``.
    """

    def __init__(self, message: str, category: str) -> None:
        super().__init__(message)
        self.category = category


class Model:
    """A training client: its id and the counter of its requests."""

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self._numbers = itertools.count(1)

    def next_seq(self) -> int:
        """The number of its next request."""
        return next(self._numbers)


class Target:
    """One server.

    Attributes:
        base_model: what models are made of.
        config: the switches that the server told the client.
    """

    def __init__(self, http: httpx.Client, base_model: str | None) -> None:
        self.http = http
        self.config: dict[str, Any] = {}
        self.base_model = base_model or ""
        self._session_id = ""
        self._model_seqs = itertools.count()
        self._sampler_seqs = itertools.count()
        self._sample_seqs = itertools.count()

    # Plain requests -------------------------------------------------------------------------------

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """POST of a JSON body, below ``/api/v1``."""
        return self.http.post(path, json=dict(body))

    def asked(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON answer to a POST that must succeed."""
        return read(self.post(path, body))

    def got(self, path: str, **query: Any) -> dict[str, Any]:
        """The JSON answer to a GET that must succeed."""
        return read(self.http.get(path, params=query))

    # Sessions and models --------------------------------------------------------------------------

    @property
    def session_id(self) -> str:
        """A session, made when it is first needed."""
        if not self._session_id:
            body = {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"}
            answer = self.asked("/create_session", {**body, "type": "create_session"})
            self._session_id = answer["session_id"]
        return self._session_id

    def create_model(self, **fields: Any) -> Model:
        """A fresh model of rank 4 and seed 7."""
        seq_id = next(self._model_seqs)
        lora = {"rank": 4, "seed": 7, "train_unembed": True, "train_mlp": True, "train_attn": True}
        body = {
            "session_id": self.session_id,
            "model_seq_id": seq_id,
            "base_model": self.base_model,
            "lora_config": lora,
            "type": "create_model",
            **fields,
        }
        result = self.result(self.promise("/create_model", body))
        wanted = f"{self.session_id}:train:{seq_id}"
        expect(result.get("model_id") == wanted, f"model_id {wanted}", result)
        return Model(wanted)

    def create_from(self, path: str, *, optimizer: bool) -> Model:
        """A model that begins with a saved state."""
        seq_id = next(self._model_seqs)
        body = {"session_id": self.session_id, "model_seq_id": seq_id, "path": path}
        self.result(self.promise("/load_weights", {**body, "optimizer": optimizer}))
        return Model(f"{self.session_id}:train:{seq_id}")

    # Promises -------------------------------------------------------------------------------------

    def promise(self, path: str, body: Mapping[str, Any]) -> str:
        """Submit an operation and return the id of its promise."""
        return request_id(self.post(path, body))

    def poll(self, promise: str, *, timeout_s: float = POLL_TIMEOUT_S) -> httpx.Response:
        """Ask once for a result."""
        body = {"request_id": promise, "allow_metadata_only": False}
        headers = {"Accept": f"{PROTOBUF}, application/json"}
        return self.http.post("/retrieve_future", json=body, headers=headers, timeout=timeout_s)

    def response(self, promise: str) -> httpx.Response:
        """The answer that holds a promise's result.

        Raises:
            Refused: the operation failed.
        """
        deadline_s = time.monotonic() + RESULT_TIMEOUT_S
        while time.monotonic() < deadline_s:
            answer = self.poll(promise)
            if answer.status_code == 408 or answer.status_code >= 500:
                continue
            expect(answer.status_code == 200, "a result, or 408 for not yet", _shown(answer))
            content = {} if _is_protobuf(answer) else answer.json()
            if content.get("type") == "try_again":
                continue
            if "error" in content:
                raise Refused(content["error"], content.get("category", "unknown"))
            return answer
        raise Mismatch(f"no result of {promise} within {RESULT_TIMEOUT_S:.0f} s")

    def result(self, promise: str) -> dict[str, Any]:
        """The JSON result of a promise."""
        return read(self.response(promise))

    # Training -------------------------------------------------------------------------------------

    def send_pass(
        self, model: Model, data: Data, loss: str = "cross_entropy", *, seq_id: int | None = None,
        forward_only: bool = False, config: Mapping[str, float] | None = None,
    ) -> str:  # fmt: skip
        """Submit a pass; the id of its promise."""
        message = pass_message(model, data, loss, seq_id or model.next_seq(), config or {})
        message.forward_only = forward_only
        return request_id(self.send_bytes(message.SerializeToString()))

    def send_bytes(self, body: bytes) -> httpx.Response:
        """POST of a body that is called a protobuf pass."""
        return self.http.post("/forward_backward", content=body, headers={"Content-Type": PROTOBUF})

    def run_pass(self, model: Model, data: Data) -> Any:
        """``ForwardBackwardOutput`` of a pass with ``cross_entropy``."""
        return self.output(self.send_pass(model, data))

    def output(self, promise: str) -> Any:
        """The result of a pass, which must be protobuf."""
        answer = self.response(promise)
        expect(_is_protobuf(answer), f"Content-Type {PROTOBUF}", answer.headers.get("content-type"))
        return ForwardBackwardOutput.FromString(answer.content)

    def step(self, model: Model, *, seq_id: int | None = None, **adam: float) -> str:
        """Submit an optimizer step; the id of its promise."""
        adam = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, **adam}
        body = {"model_id": model.model_id, "seq_id": seq_id or model.next_seq()}
        return self.promise("/optim_step", {**body, "adam_params": adam, "type": "optim_step"})

    def save(self, route: str, model: Model, **fields: Any) -> dict[str, Any]:
        """The result of a save."""
        body = {"model_id": model.model_id, "seq_id": model.next_seq(), **fields}
        return self.result(self.promise(route, body))

    # Sampling -------------------------------------------------------------------------------------

    def sampler(self, **weights: str) -> str:
        """A sampling session of the base model, or of ``model_path``."""
        body = {
            "session_id": self.session_id,
            "sampling_session_seq_id": next(self._sampler_seqs),
            **(weights or {"base_model": self.base_model}),
        }
        return self.asked("/create_sampling_session", body)["sampling_session_id"]

    def frozen_sampler(self, model: Model) -> str:
        """A sampling session of a model's weights as they are now."""
        number = next(self._sampler_seqs)
        saved = self.save(
            "/save_weights_for_sampler", model, sampling_session_seq_id=number, kind="snapshot"
        )
        return saved["sampling_session_id"]

    def ask_sample(
        self, sampler_id: str, prompt: Sequence[int], *, num_samples: int = 1,
        params: Mapping[str, Any] | None = None, **options: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Submit a sampling request; its promise as JSON."""
        body = {
            "sampling_session_id": sampler_id,
            "seq_id": next(self._sample_seqs),
            "num_samples": num_samples,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": list(prompt)}]},
            "sampling_params": {"max_tokens": 4, "stop": [], **(params or {})},
            "type": "sample",
            **options,
        }
        return self.asked("/asample", body)

    def sample(self, sampler_id: str, prompt: Sequence[int], **options: Any) -> Any:
        """``SampleResponse`` of a request."""
        return self.sampled(self.ask_sample(sampler_id, prompt, **options)["request_id"])

    def sampled(self, promise: str) -> Any:
        """The result of a sampling request, which must be protobuf."""
        answer = self.response(promise)
        expect(_is_protobuf(answer), f"Content-Type {PROTOBUF}", answer.headers.get("content-type"))
        return SampleResponse.FromString(answer.content)


# Bytes --------------------------------------------------------------------------------------------


def read(answer: httpx.Response) -> dict[str, Any]:
    """A JSON object from an answer that must be a success."""
    expect(answer.status_code == 200, "status 200", _shown(answer))
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/json"), "Content-Type application/json", kind)
    return answer.json()


def request_id(answer: httpx.Response) -> str:
    """The id in a promise."""
    content = read(answer)
    expect(isinstance(content.get("request_id"), str), "a promise with request_id", content)
    return content["request_id"]


def datum(num_tokens: int = 6, first: int = 10, **inputs: Any) -> tuple[list[int], Inputs]:
    """Tokens that count up, each with the next one as its target; ``inputs`` add or replace."""
    tokens = list(range(first, first + num_tokens))
    given = {"target_tokens": [t + 1 for t in tokens], "weights": [1.0] * num_tokens, **inputs}
    arrays = {name: np.asarray(values) for name, values in given.items() if values is not None}
    return tokens, arrays


def pass_message(
    model: Model, data: Data, loss: str, seq_id: int, config: Mapping[str, float]
) -> Any:
    """A ``ForwardBackwardRequest``."""
    message = ForwardBackwardRequest(model_id=model.model_id, seq_id=seq_id, loss_fn=loss)
    for name, value in config.items():
        message.loss_fn_config[name] = value
        message.loss_fn_config_v2[name].number = value
    for tokens, inputs in data:
        entry = message.data.add()
        entry.model_input.add().encoded_text.tokens = np.asarray(tokens, "<i4").tobytes()
        for name, values in inputs.items():
            tensor = entry.loss_fn_inputs[name]
            is_int = values.dtype.kind == "i"
            tensor.dense = values.astype("<i8" if is_int else "<f4").tobytes()
            tensor.dtype = DTYPES["int64" if is_int else "float32"]
            tensor.shape.extend(values.shape)
    return message


def logprobs(output: Any) -> list[np.ndarray]:
    """Log-probabilities of each datum, in order, from a ``ForwardBackwardOutput``."""
    found = []
    for record in output.loss_fn_outputs:
        field = record.fields["logprobs"]
        offsets = np.frombuffer(field.offsets, "<i8")
        expect(len(offsets) == record.num_datums + 1, "n + 1 offsets", len(offsets))
        for start, end in itertools.pairwise(offsets):
            values = np.frombuffer(field.data[start:end], "<f4")
            found.append(values.reshape(-1, *field.trailing_shape))
    return found


def _is_protobuf(answer: httpx.Response) -> bool:
    return answer.headers.get("content-type", "").startswith(PROTOBUF)


def _shown(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:200]}"
