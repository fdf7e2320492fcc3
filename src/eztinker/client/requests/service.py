"""What the client asks about the server itself: whether it is well, which models it knows."""

from __future__ import annotations

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, segment


def health() -> Request[Json]:
    """``{"status": "ok", "version", "timestamp", …}``."""
    return Request("GET", "/health", answers.same)


def get_models() -> Request[list[Json]]:
    """Base models, runs and checkpoints that can be sampled, in OpenAI's shape with further fields."""
    return Request("GET", "/v1/models", answers.rows("data"))


def get_tokenizer(base_model: str) -> Request[dict[str, str]]:
    """Tokenizer files of a base model, whose name may hold slashes."""
    path = f"/v1/base_models/{segment(base_model, 'base_model')}/tokenizer"
    return Request("GET", path, answers.files)
