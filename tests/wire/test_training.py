"""Training through the official SDK."""

from __future__ import annotations

import time

import numpy as np
import pytest

from eztinker import EZTinkerClient
from tests.wire.conftest import MODEL
from tests.wire.data import crowding, datum, logprobs, policy_datum

CE = "cross_entropy"


def test_a_pass_reports_a_sum_and_the_targets_logprobs(model) -> None:
    result = model.forward_backward([datum(6), datum(3)], CE).result()
    total = -logprobs(result, 0).sum() - logprobs(result, 1).sum()
    assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-5)
    assert [logprobs(result, i).shape for i in range(2)] == [(6,), (3,)]
    assert all(name.count(":") == 1 for name in result.metrics)


def test_steps_lower_the_loss(sdk, model) -> None:
    losses = []
    for _ in range(4):
        passed = model.forward_backward([datum()], CE)
        stepped = model.optim_step(sdk.AdamParams(learning_rate=1e-2))
        losses.append(passed.result().metrics["loss:sum"])
        assert stepped.result().metrics["grad_norm:mean"] > 0
    assert losses[-1] < losses[0]


def test_two_accumulated_passes_equal_one_joined_pass(sdk, service) -> None:
    first, second = (
        service.create_lora_training_client(base_model=MODEL, rank=4, seed=7).result()
        for _ in range(2)
    )
    first.forward_backward([datum(5)], CE)
    first.forward_backward([datum(4, first=50)], CE)
    second.forward_backward([datum(5), datum(4, first=50)], CE)
    step = sdk.AdamParams(learning_rate=1e-2)
    norms = [m.optim_step(step).result().metrics["grad_norm:mean"] for m in (first, second)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    scored = [logprobs(m.forward([datum(5)], CE).result()) for m in (first, second)]
    np.testing.assert_allclose(*scored, atol=1e-5)


def test_many_chunks_arrive_out_of_order_and_add_up(sdk, service, model) -> None:
    data = [datum(2, first=first % 200 + 5) for first in range(1500)]
    result = model.forward_backward(data, CE).result()
    assert len(result.loss_fn_outputs) == 1500
    expected = -sum(logprobs(result, i).sum() for i in range(1500))
    assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-4)
    assert logprobs(result, 1200) == pytest.approx(
        logprobs(model.forward([data[1200]], CE).result()), abs=1e-4
    )


def test_several_targets_per_position(model) -> None:
    targets = np.array([[11, 7], [12, 8], [13, 9]])
    weights = np.array([[1.0, 0.5], [0.0, 2.0], [1.0, 0.0]], np.float32)
    result = model.forward_backward([datum(3, target_tokens=targets, weights=weights)], CE).result()
    assert logprobs(result).shape == (3, 2)
    assert result.metrics["loss:sum"] == pytest.approx(
        float(-(weights * logprobs(result)).sum()), rel=1e-5
    )


def test_sparse_targets_are_zero_where_nothing_is_listed(sdk, model) -> None:
    dense = np.zeros((6, 8), np.int64)
    weights = np.zeros((6, 8), np.float32)
    dense[2, 3], weights[2, 3] = 14, 1.0
    sparse = {
        "target_tokens": sdk.TensorData(
            data=[14], dtype="int64", shape=[6, 8], sparse_crow_indices=[0, 0, 0, 1, 1, 1, 1],
            sparse_col_indices=[3],
        ),
        "weights": sdk.TensorData(
            data=[1.0], dtype="float32", shape=[6, 8], sparse_crow_indices=[0, 0, 0, 1, 1, 1, 1],
            sparse_col_indices=[3],
        ),
    }  # fmt: skip
    listed = model.forward([datum(6, **sparse)], CE).result()
    full = model.forward([datum(6, target_tokens=dense, weights=weights)], CE).result()
    assert listed.metrics["loss:sum"] == full.metrics["loss:sum"]
    np.testing.assert_array_equal(logprobs(listed), logprobs(full))


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo", "dro"])
def test_policy_losses(model, loss: str) -> None:
    config = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1} if loss == "ppo" else None
    result = model.forward_backward([policy_datum()], loss, config).result()
    p, q, a = logprobs(result), np.full(6, -2.0), np.array([1.0, -0.5] * 3)
    r = np.exp(p - q)
    expected = {
        "importance_sampling": -(r * a),
        "ppo": -np.minimum(r * a, np.clip(r, 0.9, 1.1) * a),
        "cispo": -(np.clip(r, 0, 4) * p * a),
        "dro": -(p * a - 0.5 * 0.05 * (p - q) ** 2),
    }[loss].sum()
    assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-4)


def test_gspo_takes_its_mask(model) -> None:
    data = [policy_datum(sequence_ratio_mask=[0.0, 0.0, 1.0, 1.0, 1.0, 1.0])]
    config = {"clip_low_threshold": 0.5, "clip_high_threshold": 2.0}
    assert "loss:sum" in model.forward_backward(data, "gspo", config).result().metrics


def test_a_custom_loss_is_differentiated_on_the_client(sdk, service) -> None:
    import torch

    def square(data, logprobs):
        loss = sum(((p + 1.0) ** 2).sum() for p in logprobs)
        return loss, {"square:sum": float(loss.detach())}

    def nothing(data, logprobs):
        loss = sum((p * 0.0).sum() for p in logprobs)
        return loss, {}

    model = service.create_lora_training_client(base_model=MODEL, rank=4, seed=1).result()
    result = model.forward_backward_custom([datum()], square).result()
    p = torch.from_numpy(logprobs(model.forward([datum()], CE).result()))
    assert result.metrics["square:sum"] == pytest.approx(float(((p + 1.0) ** 2).sum()), rel=1e-4)
    before = result.metrics["square:sum"]
    model.optim_step(sdk.AdamParams(learning_rate=1e-2)).result()
    after = model.forward_backward_custom([datum()], square).result().metrics["square:sum"]
    assert after < before
    model.forward_backward_custom([datum()], nothing).result()


def test_state_with_optimizer_continues_bit_equal(sdk, service, model) -> None:
    step = sdk.AdamParams(learning_rate=3e-3, weight_decay=0.1, grad_clip_norm=1.0)

    def train(client):
        client.forward_backward([datum()], CE)
        client.optim_step(step)
        return logprobs(client.forward([datum()], CE).result())

    train(model)
    path = model.save_state("here").result().path
    assert path == f"tinker://{model.model_id}/weights/here"
    expected = train(model)
    twin = service.create_training_client_from_state_with_optimizer(path).result()
    assert twin.model_id != model.model_id
    np.testing.assert_array_equal(train(twin), expected)
    fresh = service.create_training_client_from_state(path).result()
    assert not np.array_equal(train(fresh), expected)
    with pytest.warns(FutureWarning, match="DEPRECATED"):
        model.load_state_with_optimizer(path).result()
    np.testing.assert_array_equal(train(model), expected)


def test_parts_of_the_adapter_and_metadata(service, rest) -> None:
    client = service.create_lora_training_client(
        base_model=MODEL,
        rank=2,
        train_mlp=False,
        train_unembed=False,
        user_metadata={"eztinker.lora_alpha": "64", "renderer_name": "plain"},
    ).result()
    path = client.save_state("x").result().path
    info = rest.get_weights_info_by_tinker_path(path).result()
    assert (info.lora_rank, info.train_mlp, info.train_attn) == (2, False, True)
    run = rest.get_training_run_by_tinker_path(path).result()
    assert run.user_metadata == {"eztinker.lora_alpha": "64", "renderer_name": "plain"}


def test_info_and_tokenizer(model) -> None:
    info = model.get_info()
    assert (info.model_name, info.lora_rank, info.is_lora) == (MODEL, 4, True)
    tokenizer = model.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"


def test_two_clients_do_not_disturb_each_other(sdk, service) -> None:
    one, other = (
        service.create_lora_training_client(base_model=MODEL, rank=4, seed=3).result()
        for _ in range(2)
    )
    alone = logprobs(one.forward([datum()], CE).result())
    other.forward_backward([datum()], CE)
    other.optim_step(sdk.AdamParams(learning_rate=1e-2)).result()
    np.testing.assert_array_equal(logprobs(one.forward([datum()], CE).result()), alone)


# Mistakes -----------------------------------------------------------------------------------------

BAD_DATA = {
    "token beyond the vocabulary": (lambda: datum(3, target_tokens=[11, 12, 9999]), "9999"),
    "lengths differ": (lambda: datum(3, weights=[1.0, 1.0]), "expected 3"),
    "no targets": (lambda: datum(3, target_tokens=None), "target_tokens: missing"),
    "no weights": (lambda: datum(3, weights=None), "weights: missing"),
    "not finite": (lambda: datum(3, weights=[1.0, float("nan"), 1.0]), "finite"),
    "unknown input": (lambda: datum(3, mask=np.ones(3, np.float32)), "mask"),
    "beyond the context": (lambda: datum(97), "context"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_a_mistake_surfaces_within_a_second_and_the_client_goes_on(sdk, model, name: str) -> None:
    make, words = BAD_DATA[name]
    model.forward_backward([datum()], CE).result()
    start_s = time.monotonic()
    with pytest.raises(sdk.RequestFailedError, match=words) as caught:
        model.forward_backward([datum(), make()], CE).result()
    assert time.monotonic() - start_s < 1 * crowding()
    assert caught.value.category.value == "user"
    good = model.forward_backward([datum()], CE)
    assert good.result().metrics["loss:sum"] > 0


@pytest.mark.parametrize(
    ("loss", "words"),
    [("nonesuch", "is no loss"), ("stable_reinforce", "loss_fn=importance_sampling")],
)
def test_an_unknown_loss_is_refused_by_name(sdk, model, loss: str, words: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(sdk.RequestFailedError, match=words):
        model.forward_backward([policy_datum()], loss).result()
    assert time.monotonic() - start_s < 1 * crowding()


def test_saving_twice_and_names_with_a_slash(sdk, model) -> None:
    model.save_state("twice").result()
    with pytest.raises(sdk.RequestFailedError, match="has a checkpoint named 'twice'"):
        model.save_state("twice").result()
    model.save_state("twice", overwrite=True).result()
    start_s = time.monotonic()
    with pytest.raises(sdk.RequestFailedError, match="not a valid name"):
        model.save_state("a/b").result()
    assert time.monotonic() - start_s < 1 * crowding()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tinker://nobody/weights/x", "no checkpoint named 'x'"),
        ("tinker://nobody/x", "expected tinker://RUN/KIND/NAME"),
    ],
)
def test_an_unknown_path_is_refused(sdk, service, path: str, words: str) -> None:
    start_s = time.monotonic()
    with pytest.raises((sdk.NotFoundError, sdk.BadRequestError, ValueError), match=words):
        service.create_training_client_from_state(path).result()
    assert time.monotonic() - start_s < 2 * crowding()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_model": "nobody/nothing"}, "no model 'nobody/nothing'"),
        ({"base_model": MODEL, "rank": 100000}, "lora_config.r"),
        ({"base_model": MODEL, "user_metadata": {"eztinker.lora_alfa": "1"}}, "Did you mean"),
        ({"base_model": MODEL, "user_metadata": {"eztinker.lora_alpha": "x"}}, "expected a number"),
        (
            {"base_model": MODEL, "user_metadata": {"eztinker.quantization": "q5"}},
            "none, nf4 or int8",
        ),
    ],
)
def test_a_model_that_cannot_be(sdk, service, settings: dict, words: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(sdk.APIStatusError, match=words):
        service.create_lora_training_client(**settings).result()
    assert time.monotonic() - start_s < 1 * crowding()


def test_an_image_is_refused(sdk, model) -> None:
    image = sdk.types.ImageChunk(data=b"x", format="png", expected_tokens=3)
    text = sdk.EncodedTextChunk(tokens=[4, 5, 6])
    bad = sdk.Datum(
        model_input=sdk.ModelInput(chunks=[image, text]),
        loss_fn_inputs={"target_tokens": [1] * 6, "weights": [1.0] * 6},
    )
    with pytest.raises(sdk.RequestFailedError, match="text only"):
        model.forward_backward([bad], CE).result()


def test_a_quantised_base_is_reached_by_a_key_with_the_sdks_own_defaults(
    service, running_server
) -> None:
    training = service.create_lora_training_client(
        base_model=MODEL, rank=4, user_metadata={"eztinker.quantization": "int8"}
    ).result()
    path = training.save_state("s").result().path
    copy = service.create_training_client_from_state(path).result()
    ids = {client.get_info().model_id for client in (training, copy)}
    with EZTinkerClient(running_server.base_url) as client:
        runs = {run["run_id"]: run for run in client.get_runs()}
    assert [runs[run_id]["quantization"] for run_id in ids] == ["int8", "int8"]
