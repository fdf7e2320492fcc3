"""Our declaration of the Tinker wire's messages is that of the official SDK."""

from __future__ import annotations

import pytest

from eztinker.models.proto import tinker_public
from eztinker.models.proto.schema import build_classes


def described(message) -> dict:
    """Number, type and oneof of each field; a oneof of one field is how proto3 marks presence."""
    return {
        field.name: (
            field.number,
            field.type,
            field.containing_oneof.name
            if field.containing_oneof and not field.containing_oneof.name.startswith("_")
            else None,
        )
        for field in message.DESCRIPTOR.fields
    }


@pytest.mark.parametrize("name", sorted(tinker_public._CLASSES))
def test_a_message_is_the_sdks(name: str) -> None:
    theirs = pytest.importorskip("tinker.proto.tinker_public_pb2", reason="needs the official SDK")
    assert described(tinker_public._CLASSES[name]) == described(getattr(theirs, name))


def test_bytes_of_one_are_read_by_the_other() -> None:
    theirs = pytest.importorskip("tinker.proto.tinker_public_pb2", reason="needs the official SDK")
    ours = tinker_public.ForwardBackwardRequest(model_id="m", seq_id=3, loss_fn="ppo")
    ours.loss_fn_config["a"] = 0.5
    ours.loss_fn_config_v2["b"].text = "x"
    ours.data.add().model_input.add().encoded_text.tokens = b"\x01\x00\x00\x00"
    read = theirs.ForwardBackwardRequest.FromString(ours.SerializeToString())
    assert (read.seq_id, read.loss_fn_config["a"], read.loss_fn_config_v2["b"].text) == (
        3,
        0.5,
        "x",
    )
    assert read.data[0].model_input[0].WhichOneof("chunk") == "encoded_text"


def test_a_line_that_is_no_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no field"):
        build_classes("p", {}, {"M": "one two three four five"})
