from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eztinker.ops.sampling import RowParams, draw, uniforms

CPU = torch.device("cpu")


def params(rows, vocab_size):
    temperatures, top_ks, top_ps = zip(*rows, strict=True)
    return RowParams.build(list(temperatures), list(top_ks), list(top_ps), vocab_size, CPU)


def draw_many(logits_V, row, num_draws, seed=0):
    """Tokens of ``num_draws`` draws from one distribution."""
    logits = logits_V.expand(num_draws, -1).clone()
    u = uniforms(np.full(num_draws, seed), np.arange(num_draws), np.zeros(num_draws))
    tokens, logprobs = draw(logits, params([row] * num_draws, len(logits_V)), torch.from_numpy(u))
    return tokens, logprobs


@given(st.integers(0, 2**63), st.integers(0, 300), st.integers(0, 5000))
def test_uniforms_lie_inside_and_repeat(seed, sample, index):
    args = [np.array([x], np.uint64) for x in (seed, sample, index)]
    (first,), (second,) = uniforms(*args), uniforms(*args)
    assert 0 < first < 1
    assert first == second


def test_uniforms_look_uniform_along_every_counter():
    grid = np.arange(4096, dtype=np.uint64)
    zero = np.zeros(4096, np.uint64)
    for args in ((grid, zero, zero), (zero, grid, zero), (zero, zero, grid)):
        counts, _ = np.histogram(uniforms(*args), bins=16, range=(0, 1))
        assert ((counts - 256) ** 2 / 256).sum() < 40  # chi-square, 15 degrees: p < 0.0005 beyond
    assert uniforms(grid, zero, zero)[1] != uniforms(zero, grid, zero)[1]


@pytest.mark.parametrize("vocab_size", [7, 512, 1300])
def test_unfiltered_draws_follow_the_distribution(vocab_size):
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(0)) * 2
    tokens, logprobs = draw_many(logits, (0.8, -1, 1.0), 20_000)
    p = torch.softmax(logits / 0.8, -1)
    frequency = torch.bincount(tokens, minlength=vocab_size) / 20_000
    assert (frequency - p).abs().sum() < 0.02 + 0.6 * (vocab_size / 20_000) ** 0.5
    torch.testing.assert_close(logprobs, torch.log(p)[tokens], rtol=1e-4, atol=1e-4)


def reference_support(p, top_k, top_p):
    """Token ids that survive: top-k, then the nucleus of what is left."""
    order = torch.argsort(p, descending=True)
    if top_k > 0:
        order = order[:top_k]
    mass = p[order] / (p[order].sum() if top_k > 0 else 1)
    before = torch.cumsum(mass, 0) - mass
    return set(order[before < top_p].tolist())


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(5, 1.0), (-1, 0.6), (20, 0.5), (1, 1.0), (-1, 0.999)]
)
def test_filtered_draws_stay_in_the_support_and_fill_it(top_k, top_p):
    logits = torch.randn(400, generator=torch.Generator().manual_seed(4)) * 2
    tokens, logprobs = draw_many(logits, (1.0, top_k, top_p), 4000)
    p = torch.softmax(logits, -1)
    support = reference_support(p, top_k, top_p)
    drawn = set(tokens.tolist())
    assert drawn <= support
    likely = {t for t in support if p[t] / p[list(support)].sum() > 0.005}
    assert likely <= drawn
    # Reported before filtering.
    torch.testing.assert_close(logprobs, torch.log(p)[tokens], rtol=1e-4, atol=1e-4)


def test_greedy_takes_the_best_at_temperature_one():
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = draw(
        logits.clone(), params([(0.0, 50, 0.9)] * 3, 40), torch.rand(3).double()
    )
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).amax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-7, 1e-40, 1e-320])
@pytest.mark.parametrize(("top_k", "top_p"), [(-1, 1.0), (50, 0.9), (-1, 0.5)])
def test_a_temperature_near_zero_takes_the_best(temperature, top_k, top_p):
    logits = torch.randn(300, generator=torch.Generator().manual_seed(1)) * 9
    tokens, logprobs = draw_many(logits, (temperature, top_k, top_p), 20)
    assert set(tokens.tolist()) == {logits.argmax().item()}
    torch.testing.assert_close(logprobs, torch.zeros(20))


@pytest.mark.parametrize("top_k", [-1, 5])
def test_the_smallest_nucleus_is_the_best_token(top_k):
    logits = torch.randn(400, generator=torch.Generator().manual_seed(4)) * 2
    tokens, _ = draw_many(logits, (1.0, top_k, 1e-300), 50)
    assert set(tokens.tolist()) == {logits.argmax().item()}


def test_a_row_does_not_depend_on_its_neighbours():
    logits = torch.randn(6, 600, generator=torch.Generator().manual_seed(2))
    rows = [
        (1.0, -1, 1.0),
        (0.0, -1, 1.0),
        (0.7, 5, 1.0),
        (1.3, -1, 0.4),
        (1.0, 30, 0.7),
        (1.0, -1, 1.0),
    ]
    u = torch.from_numpy(uniforms(np.full(6, 9), np.arange(6), np.arange(6)))
    together, together_p = draw(logits.clone(), params(rows, 600), u)
    for i, row in enumerate(rows):
        alone, alone_p = draw(logits[i : i + 1].clone(), params([row], 600), u[i : i + 1])
        assert alone.item() == together[i].item()
        assert alone_p.item() == pytest.approx(together_p[i].item(), abs=1e-6)


@settings(max_examples=60)
@given(
    st.integers(1, 1500), st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(0, 99)
)
def test_no_draw_gives_an_impossible_token(vocab_size, u, seed):
    rng = np.random.default_rng(seed)
    p = rng.random(vocab_size) * (rng.random(vocab_size) < 0.2)
    p[rng.integers(vocab_size)] = 1.0
    logits = torch.tensor(p, dtype=torch.float32).log()[None]
    tokens, _ = draw(logits, params([(1.0, -1, 1.0)], vocab_size), torch.tensor([u]).double())
    assert 0 <= tokens.item() < vocab_size
    assert p[tokens.item()] > 0
