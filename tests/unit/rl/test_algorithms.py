"""Each algorithm's data, through the service's losses, against a few lines of plain PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from eztinker.ops.losses import BUILT_IN, LossInputs, resolve_config
from eztinker.recipes.dpo import margin_figures, pair_margins
from eztinker.rl.reward_token import reward_datum
from eztinker.rl.teacher import topk_data
from eztinker.rl.training import Step, pass_arguments

VOCAB = 7


def logits_of(data: list[dict[str, Any]], seed: int = 0) -> Tensor:
    """A model without a context: each token has its own next-token logits [V, V]."""
    torch.manual_seed(seed)
    return torch.randn(VOCAB, VOCAB, dtype=torch.float64, requires_grad=True)


def service_loss(
    name: str, config: dict[str, Any], data: list[dict[str, Any]], table: Tensor
) -> Tensor:
    """What a request adds to the gradient: labels shifted, weights and reduction as the native API has them."""
    config = dict(config)
    is_sum = config.pop("reduction", "mean") == "sum"
    parts = {key: [] for key in ("p", "weights", "logprobs")}
    lengths = []
    for datum in data:
        reads = torch.tensor(datum["input_ids"][:-1])
        labels = torch.tensor(datum["target_ids"][1:])
        counts = labels != -100
        log = torch.log_softmax(table[reads], -1)
        parts["p"].append(log.gather(1, labels.clamp_min(0)[:, None])[:, 0])
        weights = torch.tensor(
            datum.get("weights", [1.0] * len(datum["input_ids"]))[1:], dtype=torch.float64
        )
        parts["weights"].append(torch.where(counts, weights, 0))
        parts["logprobs"].append(
            torch.tensor(
                datum.get("logprobs", [0.0] * len(datum["input_ids"]))[1:], dtype=torch.float64
            )
        )
        lengths.append(len(labels))
    joined = {key: torch.cat(value) for key, value in parts.items()}
    inputs = LossInputs(joined["weights"], lengths, joined["logprobs"])
    total = BUILT_IN[name](joined["p"], inputs, resolve_config(name, config))
    if is_sum:
        return total
    return total / (len(data) / 2 if name == "dpo" else joined["weights"].sum())


def answer_logprob(table: Tensor, prompt: list[int], answer: list[int]) -> Tensor:
    ids = [*prompt, *answer]
    log = torch.log_softmax(table, -1)
    return torch.stack(
        [log[a, b] for a, b in zip(ids[len(prompt) - 1 :], answer, strict=False)]
    ).sum()


def supervised(prompt: list[int], answer: list[int]) -> dict[str, Any]:
    before = len(prompt)
    return {
        "input_ids": [*prompt, *answer],
        "target_ids": [-100] * before + answer,
        "weights": [0.0] * before + [1.0] * len(answer),
    }


PROMPT, GOOD, BAD = [1, 2], [3, 4, 0], [5, 0]


def test_a_supervised_step_split_over_requests_has_the_gradient_of_the_one_mean(
    monkeypatch: pytest.MonkeyPatch,
):
    from eztinker.rl import training

    data = [supervised(PROMPT, GOOD), supervised([6], BAD), supervised([2, 2], [1])]
    table = logits_of(data)
    tokens = sum(len(a) for a in (GOOD, BAD, [1]))
    expected = (
        -sum(answer_logprob(table, p, a) for p, a in ((PROMPT, GOOD), ([6], BAD), ([2, 2], [1])))
        / tokens
    )
    (wanted,) = torch.autograd.grad(expected, table, retain_graph=True)
    for limit in (512, 2, 1):
        monkeypatch.setattr(training, "MAX_DATA_PER_REQUEST", limit)
        calls = pass_arguments(Step(data, 1e-3, "cross_entropy"))
        assert len(calls) == math.ceil(3 / limit)
        losses = [
            service_loss(c["loss_fn"], c.get("loss_fn_config", {}), c["data"], table) for c in calls
        ]
        (found,) = torch.autograd.grad(torch.stack(losses).sum(), table, retain_graph=True)
        assert torch.allclose(found, wanted)


def test_dpo_is_its_papers_loss():
    policy, reference = logits_of([]), logits_of([], seed=1).detach()
    beta = 0.3

    def side(answer: list[int]) -> dict[str, Any]:
        datum = supervised(PROMPT, answer)
        log = torch.log_softmax(reference, -1)
        ids = datum["input_ids"]
        values = [float(log[a, b]) for a, b in zip(ids[1:], answer, strict=False)]
        return datum | {"logprobs": [0.0] * len(PROMPT) + values}

    sides = [side(GOOD), side(BAD)]
    gains = [
        answer_logprob(policy, PROMPT, a) - answer_logprob(reference, PROMPT, a)
        for a in (GOOD, BAD)
    ]
    margin = beta * (gains[0] - gains[1])
    expected = -torch.nn.functional.logsigmoid(margin)
    found = service_loss("dpo", {"beta": beta}, sides, policy)
    (ours,), (theirs,) = (
        torch.autograd.grad(x, policy, retain_graph=True) for x in (found, expected)
    )
    assert torch.allclose(ours, theirs)
    # the figures of the recipe, from log-probabilities as the service returns them
    log = torch.log_softmax(policy, -1).detach()
    rows = [
        [
            None,
            *(
                float(log[a, b])
                for a, b in zip(s["input_ids"][:-1], s["input_ids"][1:], strict=True)
            ),
        ]
        for s in sides
    ]
    (ours_margin,) = pair_margins(rows, sides, beta)
    assert ours_margin == pytest.approx(margin.item())
    figures = margin_figures([ours_margin])
    assert figures["pair_loss"] == pytest.approx(expected.item())
    assert figures["accuracy"] == float(margin.item() > 0)


def test_the_reward_model_has_the_loss_of_bradley_and_terry():
    table, token = logits_of([]), 6
    data = [reward_datum([*PROMPT, *answer], token) for answer in (GOOD, BAD)]
    log = torch.log_softmax(table, -1)
    scores = [log[answer[-1], token] for answer in (GOOD[:2], [5])]
    data = [reward_datum([*PROMPT, *answer], token) for answer in (GOOD[:2], [5])]
    expected = -torch.nn.functional.logsigmoid(scores[0] - scores[1])
    found = service_loss("dpo", {"beta": 1.0}, data, table)
    (ours,), (theirs,) = (
        torch.autograd.grad(x, table, retain_graph=True) for x in (found, expected)
    )
    assert found.item() == pytest.approx(expected.item())
    assert torch.allclose(ours, theirs)


def test_learning_the_teachers_top_tokens_is_cross_entropy_with_its_shares():
    student, teacher = logits_of([]), torch.log_softmax(logits_of([], seed=2).detach(), -1)
    k = 3
    tops, expected = [], torch.zeros((), dtype=torch.float64)
    ids = [*PROMPT, *GOOD]
    for read in ids[len(PROMPT) - 1 : -1]:
        values, tokens = teacher[read].topk(k)
        tops.append(list(zip(tokens.tolist(), values.tolist(), strict=True)))
        shares = values.exp() / values.exp().sum()
        expected = expected - 0.5 * (shares * torch.log_softmax(student[read], -1)[tokens]).sum()
    data = topk_data([PROMPT], [GOOD], [tops], 0.5)
    assert len(data) == k
    found = service_loss("cross_entropy", {"reduction": "sum"}, data, student)
    (ours,), (theirs,) = (
        torch.autograd.grad(x, student, retain_graph=True) for x in (found, expected)
    )
    assert found.item() == pytest.approx(expected.item())
    assert torch.allclose(ours, theirs)


def test_positions_may_have_fewer_alternatives():
    data = topk_data([[1]], [[2, 3]], [[[(4, -0.1), (5, -3.0)], [(6, 0.0)]]], 1.0)
    assert [d["target_ids"] for d in data] == [[-100, 4, 6], [-100, 5, -100]]
    assert sum(sum(d["weights"]) for d in data) == pytest.approx(2.0)
