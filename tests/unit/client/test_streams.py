"""A streamed chat answer: its pieces, and how it may fail on the way."""

from __future__ import annotations

import httpx
import pytest

from eztinker.client.streams import ChatStream
from eztinker.errors import EZTinkerError, ServerError, ServerUnreachableError
from tests.unit.client import fake_service

FIRST = 'data: {"choices": [{"index": 0, "delta": {"content": "ab"}}]}\n\n'
CRASHED = 'data: {"error": {"message": "The worker died.", "type": "server_error", "code": "engine_crash"}}\n\n'


def stream_of(step: fake_service.Step) -> ChatStream:
    transport = fake_service.FakeService(script=[step]).transport()
    return ChatStream("http://fake", None, 5, transport=transport)


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        (
            fake_service.refused(),
            ServerUnreachableError,
            "No EZTinker server answers at http://fake",
        ),
        (
            fake_service.error(404, "model_not_found", "No such model."),
            EZTinkerError,
            "No such model",
        ),
        (httpx.Response(200, text=FIRST), ServerError, "broke off"),
        (httpx.Response(200, text=FIRST + CRASHED), EZTinkerError, "The worker died"),
    ],
)
def test_what_fails_is_told(step: fake_service.Step, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(stream_of(step).pieces("nano", [{"role": "user", "content": "x"}], seed=None))


def test_pieces_and_the_default_model() -> None:
    service = fake_service.FakeService()
    stream = ChatStream("http://fake", None, 5, transport=service.transport())
    assert stream.default_model() == "nano"
    pieces = stream.pieces("nano", [{"role": "user", "content": "x"}], max_tokens=3, seed=None)
    assert "".join(pieces) == " answer 0"
    assert service.bodies[0]["max_tokens"] == 3
    assert "seed" not in service.bodies[0]
