"""Native training requests become shifted, aligned data; losses and evaluation items as documented."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.api import convert
from eztinker.api.answers import json_response, result_fields
from eztinker.config import Limits
from eztinker.errors import InvalidRequestError, TooLargeError, UnsupportedError
from eztinker.models import api as wire
from eztinker.service import admission
from eztinker.types.operations import PassResult, TrainingPass
from eztinker.types.records import BaseModelRecord
from eztinker.types.training import LossSpec

BASE = BaseModelRecord("m", "/m", "X", context_length=32, vocab_size=100)
LIMITS = Limits.model_validate({})


def passed(body: dict, default: LossSpec | None = None) -> TrainingPass:
    operation = convert.training_pass(
        wire.TrainingRequest.model_validate(body),
        default_loss=default or LossSpec(),
        base=BASE,
        limits=LIMITS,
        forward_only=False,
    )
    admission.check(operation, base=BASE, limits=LIMITS)
    return operation


def test_what_was_not_computed_is_null() -> None:
    logprobs = [np.array([np.nan, -0.5], np.float32)]
    body = json_response(result_fields(PassResult(0.5, 1, logprobs))).body
    assert json.loads(bytes(body))["logprobs"] == [[None, None, -0.5]]


def test_the_server_shifts() -> None:
    (datum,) = passed({"input_ids": [10, 11, 12, 13]}).data
    assert datum.tokens_T.tolist() == [10, 11, 12]
    assert datum.tokens_T.dtype == np.int32
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [11, 12, 13]
    assert datum.loss_fn_inputs["target_tokens"].dtype == np.int64
    assert set(datum.loss_fn_inputs) == {"target_tokens"}


def test_ignored_labels_have_target_0_and_weight_0() -> None:
    (datum,) = passed({"input_ids": [10, 11, 12], "target_ids": [-100, -100, 12]}).data
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [0, 12]
    assert datum.loss_fn_inputs["weights"].tolist() == [0.0, 1.0]
    assert datum.loss_fn_inputs["weights"].dtype == np.float32


def test_weights_and_further_inputs_are_shifted_like_labels() -> None:
    body = {
        "input_ids": [10, 11, 12],
        "target_ids": [10, -100, 12],
        "weights": [5, 6, 7],
        "logprobs": [0, -1, -2],
        "advantages": [9, 8, 7],
        "loss_fn": "ppo",
    }
    inputs = passed(body).data[0].loss_fn_inputs
    assert inputs["weights"].tolist() == [0.0, 7.0]
    assert inputs["logprobs"].tolist() == [-1.0, -2.0]
    assert inputs["advantages"].tolist() == [8.0, 7.0]


def test_two_tokens_are_enough_and_one_is_not() -> None:
    assert passed({"input_ids": [1, 2]}).data[0].num_tokens == 1
    with pytest.raises(InvalidRequestError, match="at least two") as caught:
        passed({"input_ids": [1]})
    assert caught.value.code == "no_counting_label"


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.booleans(), st.floats(0.25, 4, width=32)),
        min_size=2,
        max_size=32,
    )
)
def test_each_counting_label_keeps_its_token_and_weight(
    rows: list[tuple[int, bool, float]],
) -> None:
    ids = [token for token, _, _ in rows]
    labels = [token if counts else -100 for token, counts, _ in rows]
    body = {"input_ids": ids, "target_ids": labels, "weights": [weight for *_, weight in rows]}
    expected = [(token, weight) for token, counts, weight in rows[1:] if counts]
    if not expected:
        with pytest.raises(InvalidRequestError):
            passed(body)
        return
    inputs = passed(body).data[0].loss_fn_inputs
    pairs = zip(inputs["target_tokens"].tolist(), inputs["weights"].tolist(), strict=True)
    assert [(target, weight) for target, weight in pairs if weight > 0] == expected


def test_positions_in_messages_are_those_of_the_request() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        passed({"data": [{"input_ids": [1, 2]}, {"input_ids": [1, 2, 3, 100]}]})
    assert caught.value.field == "data[1].input_ids[3]"
    assert "0 to 99" in caught.value.message
    with pytest.raises(InvalidRequestError) as caught:
        passed({"input_ids": [1, 2, 3], "weights": [1, 1, 1e39]})
    assert caught.value.field == "weights[2]"


def test_too_long_names_both_numbers() -> None:
    with pytest.raises(InvalidRequestError, match=r"33 tokens .* 32 tokens") as caught:
        passed({"input_ids": [1] * 33})
    assert caught.value.code == "context_length_exceeded"


# Loss ---------------------------------------------------------------------------------------------


def test_the_run_says_the_loss_unless_the_request_does() -> None:
    run = LossSpec("focal_loss", {"focal_gamma": 3.0}, "sum")
    assert convert.request_loss(None, None, run) == run
    overridden = convert.request_loss(None, {"focal_gamma": 1.0, "reduction": "mean"}, run)
    assert overridden == LossSpec("focal_loss", {"focal_gamma": 1.0}, "mean")
    assert convert.request_loss("cross_entropy", None, run) == LossSpec("cross_entropy", {}, "sum")


def test_null_settings_are_not_settings() -> None:
    fields = wire.LossFunctionConfig.model_validate(
        {"loss_type": "dpo", "beta": 0.2, "focal_alpha": None}
    )
    assert convert.run_loss(fields) == LossSpec("dpo", {"beta": 0.2}, "mean")


def test_code_is_refused_with_the_way_out() -> None:
    fields = wire.LossFunctionConfig.model_validate({"custom_code": "def loss(): ..."})
    with pytest.raises(UnsupportedError, match="register_loss_function"):
        convert.run_loss(fields)
    with pytest.raises(UnsupportedError, match="register_loss_function"):
        convert.request_loss(None, {"custom_code": "x"}, LossSpec())


# Evaluation ---------------------------------------------------------------------------------------


def items(*batches: dict) -> list[tuple[list[int], list[int]]]:
    body = wire.EvaluationRequest.model_validate({"batches": list(batches), "max_new_tokens": 5})
    operation = convert.evaluation(body, base=BASE, limits=LIMITS, seed=1)
    admission.check(operation, base=BASE, limits=LIMITS)
    return [(i.prompt_tokens.tolist(), i.response_tokens.tolist()) for i in operation.items]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"prompt_ids": [1, 2], "response_ids": [3]}, ([1, 2], [3])),
        ({"prompt_ids": [1, 2], "response_ids": []}, ([1, 2], [])),
        ({"prompt_ids": [1, 2]}, ([1, 2], [])),
        ({"input_ids": [1, 2]}, ([1, 2], [])),
        ({"input_ids": [1, 2, 3], "target_ids": [-100, 2, 3]}, ([1], [2, 3])),
        ({"input_ids": [1, 2, 3], "target_ids": [1, 2, 3]}, ([1], [2, 3])),
        ({"input_ids": [1, 2, 3], "target_ids": [-100, -100, 3]}, ([1, 2], [3])),
        ({"input_ids": [1, 2, 3], "target_ids": [1, -100, 3]}, ([1, 2], [3])),
    ],
)
def test_both_forms_of_an_item(batch: dict, expected: tuple[list[int], list[int]]) -> None:
    assert items(batch) == [expected]


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": [1, 2, 3], "target_ids": [-100, 2, -100]},
        {"input_ids": [1, 2, 3], "target_ids": [1, -100, -100]},
        {"input_ids": [1], "target_ids": [1]},
        {"input_ids": [1, 2], "prompt_ids": [1], "response_ids": [3]},
        {"target_ids": [1, 2], "prompt_ids": [1], "response_ids": [3]},
        {"target_ids": [1, 2]},
        {},
    ],
)
def test_items_that_do_not_fit_together(batch: dict) -> None:
    with pytest.raises(InvalidRequestError, match=r"batches\[0\]"):
        items(batch)


def test_more_data_than_the_limit() -> None:
    with pytest.raises(TooLargeError, match=r"1025 .* 1024\. .* limits.max_data"):
        passed({"data": [{"input_ids": [1, 2]}] * 1025})
