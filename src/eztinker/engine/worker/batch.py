"""The rows a base model is generating for, and where each lies in the key-value cache.

Row i of the batch is row i of the cache. Rows of the same adapter lie side by side, so that a decode
step applies each adapter once, and among them those that share a prompt; a row that joins or leaves moves
at most one row of every other such group.
Knows no waiting requests; ``sampler.py`` fills it.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.attention import SharedPrompt
from eztinker.engine.worker.decoder_base import Segments
from eztinker.engine.worker.kv_cache import KVCache, PromptKV
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.engine.worker.prompt_scores import PromptScores
from eztinker.errors import EZTinkerError
from eztinker.ops.sampling import RowParams, penalise, uniforms
from eztinker.rendering.stops import StopStringMatcher
from eztinker.types.operations import Sample
from eztinker.types.sampling import SampledSequence

_STEPS_AHEAD = 16
"""Steps whose random numbers are computed at once: one call costs as much as forty."""


@dataclass(slots=True, eq=False)
class SampleRequest:
    """One sampling job on its way.

    Attributes:
        job_id: whose result this becomes.
        operation: as asked.
        adapter: weights pinned when it started; None for the bare base model.
        step: optimizer steps behind them.
        stop_token_ids: ids that end a sequence.
        max_tokens: bound, with the model's context taken into account.
        unstarted: numbers of the samples whose prompt is not being read yet.
        sequences: finished ones by sample number.
        scores: what was asked about the prompt.
        error: why it failed, for whoever waits for it inside the worker.
        num_reused: tokens of the prompt that were known from earlier ones.
        streamed: its tokens are reported while they are drawn.
    """

    job_id: str
    operation: Sample
    adapter: AdapterWeights | None
    step: int
    stop_token_ids: frozenset[int]
    max_tokens: int
    unstarted: list[int] = dataclass_field(default_factory=list)
    sequences: dict[int, SampledSequence] = dataclass_field(default_factory=dict)
    scores: PromptScores = dataclass_field(default_factory=PromptScores)
    compute_s: float = 0.0
    error: EZTinkerError | None = None
    streamed: bool = False
    num_reused: int = 0

    def __post_init__(self) -> None:
        self.unstarted = list(range(self.operation.num_samples))

    @property
    def wants_scores(self) -> bool:
        """Whether something is asked about the prompt itself."""
        asked = self.operation
        return (
            asked.prompt_logprobs
            or asked.topk_prompt_logprobs > 0
            or asked.target_prompt_ids is not None
            or asked.num_prompt_alternatives > 0
        )

    @property
    def num_cache_tokens(self) -> int:
        """Cached positions one sample may need."""
        return len(self.operation.prompt_tokens) + self.max_tokens

    @property
    def is_finished(self) -> bool:
        """Whether every sample has ended."""
        return len(self.sequences) == self.operation.num_samples


@dataclass(slots=True, eq=False)
class Row:
    """One sequence being generated.

    Attributes:
        request: it belongs to.
        sample: its number in the request.
        num_cached: positions of prompt and answer whose keys and values are known.
        prompt: keeps the prompt's for all rows that share it; None where they lie in the row's own cache.
        tokens, logprobs: generated so far.
        matcher: of its stop strings; None without any.
        topk_ids, topk_logprobs: likeliest tokens per generated one, if asked for.
    """

    request: SampleRequest
    sample: int
    num_cached: int
    matcher: StopStringMatcher | None = None
    prompt: PromptKV | None = None
    tokens: list[int] = dataclass_field(default_factory=list)
    logprobs: list[float] = dataclass_field(default_factory=list)
    topk_ids: list[list[int]] = dataclass_field(default_factory=list)
    topk_logprobs: list[list[float]] = dataclass_field(default_factory=list)

    @property
    def num_in_row(self) -> int:
        """Positions of its cache row that are filled."""
        return self.num_cached - (0 if self.prompt is None else self.prompt.num_positions)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.request.operation.prompt_tokens) + len(self.tokens)

    def push(self, token: int, logprob: float) -> bool:
        """Add a token; True when the sequence has ended."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        stopped = token in self.request.stop_token_ids
        if self.matcher is not None:
            stopped = self.matcher.push(token) or stopped
        if stopped or len(self.tokens) >= self.request.max_tokens:
            reason = "stop" if stopped else "length"
            self.request.sequences[self.sample] = SampledSequence(
                self.tokens, self.logprobs, reason, self.topk_ids, self.topk_logprobs
            )
            return True
        return False


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Random numbers [S, R] of the rows' next steps, by the number of the first row's token."""

    steps: range
    table_SR: Tensor


class Batch:
    """Running rows of one base model."""

    def __init__(self, cache: KVCache, vocab_size: int) -> None:
        self.rows: list[Row] = []
        self._cache = cache
        self._vocab_size = vocab_size
        self._segments: Segments | None = None
        self._params: RowParams | None = None
        self._numbers: _Numbers | None = None

    def insert(self, row: Row) -> int:
        """Put a row beside the others of its adapter; its place. The cache must have room for it."""
        self._changed()
        like = [i for i, other in enumerate(self.rows) if _are_together(row, other)]
        if not like:
            like = [i for i, r in enumerate(self.rows) if r.request.adapter is row.request.adapter]
        place = like[-1] + 1 if like else len(self.rows)
        self.rows.append(row)
        hole = len(self.rows) - 1
        while hole > place:
            first = self._run_start(hole - 1)
            self._move(first, hole)
            hole = first
        self.rows[place] = row
        return place

    def remove(self, place: int) -> None:
        """Take a row out and close the gap."""
        self._changed()
        hole = place
        while True:
            last = self._run_end(hole)
            if last != hole:
                self._move(last, hole)
            if last == len(self.rows) - 1:
                break
            end_of_next = self._run_end(last + 1)
            self._move(end_of_next, last)
            hole = end_of_next
        self.rows.pop()

    def segments(self) -> Segments:
        """(adapter, first row, end) of every stretch of equal adapters."""
        if self._segments is None:
            self._segments = []
            for i, row in enumerate(self.rows):
                adapter = row.request.adapter
                start = i
                if self._segments and self._segments[-1][0] is adapter:
                    start = self._segments.pop()[1]
                self._segments.append((adapter, start, i + 1))
        return self._segments

    def shared_prompts(self) -> list[SharedPrompt]:
        """Rows that share a prompt, and the prompt."""
        shared: list[SharedPrompt] = []
        start = 0
        while start < len(self.rows):
            end = self._run_end(start) + 1
            prompt = self.rows[start].prompt
            if prompt is not None:
                shared.append(SharedPrompt(start, end, prompt))
            start = end
        return shared

    def params(self, device: torch.device) -> RowParams:
        """How each row is drawn."""
        if self._params is None:
            self._params = row_params(self.rows, self._vocab_size, device)
        return self._params

    def uniforms(self, device: torch.device) -> Tensor:
        """The random numbers of the rows' next tokens."""
        # Between two changes of the batch every row grows by one token a step.
        index = len(self.rows[0].tokens)
        if self._numbers is None or index not in self._numbers.steps:
            self._numbers = _Numbers(
                range(index, index + _STEPS_AHEAD),
                torch.from_numpy(row_uniforms(self.rows, _STEPS_AHEAD)).to(device),
            )
        return self._numbers.table_SR[index - self._numbers.steps.start]

    def _changed(self) -> None:
        self._segments = self._params = self._numbers = None

    def _move(self, source: int, target: int) -> None:
        self._cache.copy_row(source, target, self.rows[source].num_in_row)
        self.rows[target] = self.rows[source]

    def _run_start(self, place: int) -> int:
        row = self.rows[place]
        while place > 0 and _are_together(self.rows[place - 1], row):
            place -= 1
        return place

    def _run_end(self, place: int) -> int:
        row = self.rows[place]
        while place + 1 < len(self.rows) and _are_together(self.rows[place + 1], row):
            place += 1
        return place


def _are_together(a: Row, b: Row) -> bool:
    return a.request.adapter is b.request.adapter and a.prompt is b.prompt


def penalise_rows(rows: list[Row], logits_RV: Tensor) -> None:
    """Take the penalties of rows that ask for any from the logits of what they hold, in place."""
    penalised = [i for i, row in enumerate(rows) if row.request.operation.params.is_penalised]
    if not penalised:
        return
    held = [Counter(rows[i].tokens) for i in penalised]
    params = [rows[i].request.operation.params for i in penalised]
    penalise(
        logits_RV,
        [i for i, counts in zip(penalised, held, strict=True) for _ in counts],
        [token for counts in held for token in counts],
        [
            p.presence_penalty + p.frequency_penalty * number
            for p, counts in zip(params, held, strict=True)
            for number in counts.values()
        ],
    )


def note_top_logprobs(rows: list[Row], scaled_RV: Tensor) -> None:
    """Remember, for rows that want it, the likeliest next tokens.

    Args:
        scaled_RV: logits after the temperature, as ``draw`` leaves them.
    """
    wanting = [i for i, row in enumerate(rows) if row.request.operation.topk_sample_logprobs]
    if not wanting:
        return
    logits = scaled_RV[wanting]
    most = max(rows[i].request.operation.topk_sample_logprobs for i in wanting)
    top = logits.topk(min(most, logits.shape[1]), dim=-1)
    values = (top.values - logits.logsumexp(-1, keepdim=True)).tolist()
    for i, ids, logprobs in zip(wanting, top.indices.tolist(), values, strict=True):
        k = rows[i].request.operation.topk_sample_logprobs
        rows[i].topk_ids.append(ids[:k])
        rows[i].topk_logprobs.append(logprobs[:k])


def row_params(rows: list[Row], vocab_size: int, device: torch.device) -> RowParams:
    """Drawing parameters of rows."""
    wanted = [row.request.operation.params for row in rows]
    return RowParams.build(
        [p.temperature for p in wanted],
        [p.top_k for p in wanted],
        [p.top_p for p in wanted],
        vocab_size,
        device,
    )


def row_uniforms(rows: list[Row], num_steps: int = 1) -> np.ndarray:
    """The random numbers [S, R] of the rows' next tokens."""
    seeds_R = np.array([row.request.operation.params.seed % 2**64 for row in rows], np.uint64)
    samples_R = np.array([row.sample for row in rows], np.uint64)
    indices_R = np.array([len(row.tokens) for row in rows], np.uint64)
    steps_S1 = np.arange(num_steps, dtype=np.uint64)[:, None]
    return uniforms(seeds_R, samples_R, indices_R + steps_S1)


class Stopwatch:
    """Shares the time of a unit of work among the requests that took part."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start_s

    def share(self, requests: list[SampleRequest]) -> None:
        """Add the elapsed time in equal parts (a request counts once per entry)."""
        if requests:
            part_s = self.elapsed_s / len(requests)
            for request in requests:
                request.compute_s += part_s
