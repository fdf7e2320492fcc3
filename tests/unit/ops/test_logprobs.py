from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eztinker.ops import logprobs
from eztinker.ops.logprobs import Head, target_logprobs, top_logprobs

N, D, V, K = 37, 8, 50, 3


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator)
    bias = torch.randn(V, generator=generator)
    a = (torch.randn(2, D, generator=generator)).requires_grad_()
    b = (torch.randn(V, 2, generator=generator) * 0.1).requires_grad_()
    return hidden, weight, bias, a, b


HEADS = {
    "plain": lambda w, b, lora: Head(w),
    "bias": lambda w, b, lora: Head(w, b),
    "softcap": lambda w, b, lora: Head(w, softcap=5.0),
    "scale": lambda w, b, lora: Head(w, scale=0.25),
    "temperature": lambda w, b, lora: Head(w, b, softcap=4.0, temperature=0.7),
    "lora": lambda w, b, lora: Head(w, lora=lora),
}


def full_logits(hidden, head: Head):
    logits = hidden @ head.weight_VD.t()
    if head.bias_V is not None:
        logits = logits + head.bias_V
    if head.lora is not None:
        a, b, scaling = head.lora
        logits = logits + scaling * (hidden @ a.t() @ b.t())
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits / head.temperature


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, "_CHUNK_ELEMENTS", 16 * V)


@pytest.mark.parametrize("kind", sorted(HEADS))
@pytest.mark.parametrize("shape", [(N,), (N, K)])
def test_values_and_gradients_equal_full_log_softmax(kind, shape):
    hidden, weight, bias, a, b = tensors()
    head = HEADS[kind](weight, bias, (a, b, 0.5))
    targets = torch.randint(0, V, shape, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    inputs = [hidden, a, b] if kind == "lora" else [hidden]

    p = target_logprobs(hidden, targets, head)
    gradients = torch.autograd.grad((p * upstream).sum(), inputs)
    index = targets if len(shape) == 2 else targets[:, None]
    expected = torch.log_softmax(full_logits(hidden, head), -1).gather(1, index).view(shape)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), inputs)

    torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_no_positions_give_no_values():
    hidden, weight, *_ = tensors()
    p = target_logprobs(hidden[:0], torch.zeros(0, dtype=torch.int64), Head(weight))
    assert p.shape == (0,)


def test_without_gradient_nothing_is_remembered():
    hidden, weight, *_ = tensors()
    with torch.no_grad():
        p = target_logprobs(hidden, torch.zeros(N, dtype=torch.int64), Head(weight))
    assert not p.requires_grad


def test_top_logprobs_are_the_largest_in_order():
    hidden, weight, bias, *_ = tensors()
    head = replace(Head(weight, bias), temperature=1.0)
    ids, values = top_logprobs(hidden.detach(), head, 4)
    expected = torch.log_softmax(full_logits(hidden.detach(), head), -1).topk(4, -1)
    torch.testing.assert_close(values, expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(ids, expected.indices)
