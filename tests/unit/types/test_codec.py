"""What is encoded comes back equal, and damaged bytes are an error and never a surprise."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eztinker.errors import StorageError
from eztinker.types import codec, commands, events
from eztinker.types.commands import COMMAND_TYPES
from eztinker.types.error_info import ErrorInfo
from eztinker.types.events import EVENT_TYPES, JobDone
from eztinker.types.operations import (
    OPERATION_TYPES,
    RESULT_TYPES,
    STATE_KINDS,
    CreateRun,
    Evaluate,
    EvaluationItem,
    LoadCheckpoint,
    OptimStep,
    PassResult,
    Sample,
    SampleResult,
    SaveCheckpoint,
    TrainingPass,
    kind_of,
)
from eztinker.types.plans import PassPlan
from eztinker.types.sampling import SampledSequence, SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec

TOKENS = np.array([3, 1, 2], np.int32)
DATUM = Datum(
    TOKENS, {"target_tokens": np.array([[1, 2], [3, 4], [5, 6]]), "weights": np.ones((3, 2), "f4")}
)
EXAMPLES: list[Any] = [
    CreateRun("nano", LoRAConfig(target_modules=("q", "v"), seed=None), seed=2**31 - 1),
    TrainingPass([DATUM, DATUM], LossSpec("dpo", {"beta": 0.1})),
    TrainingPass([], LossSpec(), forward_only=True),
    OptimStep(AdamParams(grad_clip_norm=None)),
    SaveCheckpoint("名", overwrite=True),
    LoadCheckpoint("run_1", "a", with_optimizer=False),
    Sample(WeightsRef("nano", "run_1"), TOKENS, SamplingParams(stop=("\n",), stop_token_ids=())),
    Evaluate([EvaluationItem(TOKENS, np.zeros(0, np.int32))]),
    PassResult(float("inf"), 3, [np.array([-0.5, np.nan], np.float32)], {"loss:sum": -0.0}),
    SampleResult([SampledSequence([1], [-0.5], "stop")], 3, 1, None, np.zeros((2, 3), np.int64)),
    JobDone(7, "job_1", b"\x00\xff", PassPlan([[1, 0], [2]], 2, "float32"), 0.25),
    events.JobFailed(1, "job_1", ErrorInfo("x", "y", field=None, details={"a": [1, None]})),
]


def same(left: Any, right: Any) -> bool:
    """Equality that looks into arrays, dtypes included."""
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    if dataclasses.is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, field.name), getattr(right, field.name))
            for field in dataclasses.fields(left)
        )
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_values_come_back_equal(value: Any) -> None:
    assert same(codec.decode(codec.encode(value), type(value)), value)


@given(
    dtype=st.sampled_from(["int8", "uint8", "int32", "int64", "float16", "float32", "bool"]),
    shape=st.lists(st.integers(0, 3), max_size=3),
    seed=st.integers(0, 99),
)
def test_arrays_of_every_kind_come_back_equal_and_read_only(
    dtype: str, shape: list[int], seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 2, shape).astype(dtype)
    back = codec.decode(codec.encode(EvaluationItem(array, array.T)), EvaluationItem)
    assert same(back.prompt_tokens, array)
    # A view with other strides is stored as what it shows.
    assert same(back.response_tokens, np.array(array.T, order="C"))
    assert not back.prompt_tokens.flags.writeable


def test_byte_order_is_that_of_the_format_not_of_the_machine() -> None:
    foreign = TOKENS.astype(TOKENS.dtype.newbyteorder("S"))
    little, swapped = (codec.encode(EvaluationItem(item, TOKENS)) for item in (TOKENS, foreign))
    assert little == swapped
    assert b"\x03\x00\x00\x00\x01\x00\x00\x00" in little
    assert sys.byteorder in {"little", "big"}


def test_numpy_scalars_are_stored_as_numbers() -> None:
    plan = PassPlan([[np.int64(1)]])  # type: ignore[list-item]
    assert codec.decode(codec.encode(plan), PassPlan).micro_batches == [[1]]


@pytest.mark.parametrize(
    "array", [np.array([object()]), np.array(["text"]), np.zeros(1, [("a", "i4")])]
)
def test_arrays_that_are_not_numbers_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="encode"):
        codec.encode(EvaluationItem(array, array))


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_no_flipped_bit_or_missing_tail_is_a_surprise(value: Any) -> None:
    """Damage is a ``StorageError`` or an instance of the right class; nothing else escapes."""
    data = codec.encode(value)
    damaged = [data[:length] for length in range(len(data))]
    damaged += [
        data[:index] + bytes([data[index] ^ (1 << bit)]) + data[index + 1 :]
        for index in range(len(data))
        for bit in range(8)
    ]
    for item in damaged[: len(data)]:
        with pytest.raises(StorageError):
            codec.decode(item, type(value))
    codes = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for item in damaged[len(data) :]:
            try:
                assert isinstance(codec.decode(item, type(value)), type(value))
            except StorageError as error:
                codes.append(error.code)
    assert set(codes) == {"damaged_payload"}


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["f4,", "(", "O", "object", "M8[", "a", "i4,(", "void"]),
            st.text(max_size=4),
            st.integers(-(2**63), 2**64 - 1),
            st.lists(st.integers(-(2**63), 2**64 - 1), max_size=3),
            st.binary(max_size=8),
            st.none(),
        ),
        max_size=4,
    )
)
@example(["int32", [2**63], b"\x00" * 4])
@example(["int32", [-1], b"\x00" * 4])
@example(["int32", [1], "four"])
@example([["int32"], [1], b"\x00" * 4])
def test_an_array_of_nonsense_is_refused(nonsense: list[Any]) -> None:
    data = msgspec.msgpack.encode({"prompt_tokens": nonsense, "response_tokens": nonsense})
    with pytest.raises(StorageError):
        codec.decode(data, EvaluationItem)


def test_the_wrong_class_and_trailing_bytes_are_refused() -> None:
    data = codec.encode(LoadCheckpoint("run_1", "a"))
    with pytest.raises(StorageError, match="OptimStep"):
        codec.decode(data, OptimStep)
    with pytest.raises(StorageError):
        codec.decode(data + b"\x00", LoadCheckpoint)


def test_every_kind_has_an_operation_and_a_result() -> None:
    assert OPERATION_TYPES.keys() == RESULT_TYPES.keys()
    assert OPERATION_TYPES.keys() >= STATE_KINDS
    for value in EXAMPLES:
        if type(value) in OPERATION_TYPES.values():
            assert OPERATION_TYPES[kind_of(value)] is type(value)
    assert kind_of(TrainingPass([], LossSpec(), forward_only=True)) == "forward"
    assert kind_of(TrainingPass([], LossSpec())) == "forward_backward"


def test_every_message_can_be_sent_and_every_event_carries_its_epoch() -> None:
    """The tables hold all classes of the two unions, each of which msgspec can decode."""
    sent = {cls.__name__ for cls in commands.Command.__args__}
    assert sent | {"WorkerSettings"} == COMMAND_TYPES.keys()
    assert {cls.__name__ for cls in events.Event.__args__} == EVENT_TYPES.keys()
    for name, cls in EVENT_TYPES.items():
        assert next(iter(dataclasses.fields(cls))).name == "epoch", name
    for cls in (*COMMAND_TYPES.values(), *EVENT_TYPES.values()):
        with pytest.raises(StorageError):
            codec.decode(b"\xc1", cls)
