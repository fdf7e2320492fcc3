"""Sampling of one base model, with continuous batching: requests join and leave at any decode step.

A prompt is prefilled once for all its samples. Requests wait, in order, until their samples fit into the
bound on cached tokens; a request may get its samples in several turns. Rows of different adapters share a
step. What a row draws depends on its seed, its number and its logits, not on its neighbours. Knows no
messages; ``sampling_work.py`` calls ``step`` between units of training.

Axes: P prompts of a prefill, R rows, T positions, D hidden size.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.attention import (
    DecodeLayout,
    Layout,
    PackedLayout,
    PaddedLayout,
    PrefillLayout,
)
from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.batch import (
    Batch,
    Row,
    SampleRequest,
    Stopwatch,
    note_top_logprobs,
    penalise_rows,
    row_params,
)
from eztinker.engine.worker.data_checks import check_token_ids
from eztinker.engine.worker.decoder_base import Segments
from eztinker.engine.worker.kv_cache import KVCache
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.engine.worker.prompt_scores import score_prompt
from eztinker.errors import InvalidRequestError
from eztinker.ops.packing import Packing, pack
from eztinker.ops.sampling import draw, uniforms
from eztinker.rendering.stops import StopStringMatcher
from eztinker.types.operations import Sample, SampleResult
from eztinker.types.sampling import SampledSequence

_MAX_ROWS = 256
_PREFILL_TOKENS = 2048
_DECODE_STEPS = 8
_UNIT_S = 0.1


class Sampler:
    """Generates with one base model.

    Args:
        base: the model.
        max_cache_tokens: bound on cached positions over all rows; one row is always admitted.

    Attributes:
        in_step: requests that take part in the present unit of work; when it raises, they are lost.
        on_drawn: called after each step with the rows of streamed requests that have a new token.
    """

    def __init__(self, base: BaseModel, max_cache_tokens: int) -> None:
        self._base, self._decoder = base, base.decoder
        self._max_cache_tokens = max_cache_tokens
        self._cache = KVCache(self._decoder.num_layers, self._decoder.dtype, self._decoder.device)
        self._batch = Batch(self._cache, self._decoder.vocab_size)
        self._waiting: deque[SampleRequest] = deque()
        self.in_step: list[SampleRequest] = []
        self.on_drawn: Callable[[list[Row]], None] = _tell_nobody

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would do something."""
        return bool(self._waiting or self._batch.rows)

    @property
    def num_rows(self) -> int:
        """Sequences being generated."""
        return len(self._batch.rows)

    def submit(
        self, job_id: str, operation: Sample, adapter: AdapterWeights | None, step: int
    ) -> SampleRequest:
        """Queue a request on pinned weights.

        Raises:
            InvalidRequestError: a prompt that is empty, too long, or has ids outside the vocabulary.
        """
        num_prompt = len(operation.prompt_tokens)
        context = self._decoder.context_length
        if not 1 <= num_prompt <= context:
            raise InvalidRequestError(
                f"The prompt has {num_prompt} tokens; expected 1 to {context}, the model's context.",
                field="prompt",
            )
        check_token_ids(operation.prompt_tokens, self._decoder.vocab_size, "prompt:")
        stop_ids = operation.params.stop_token_ids
        request = SampleRequest(
            job_id=job_id,
            operation=operation,
            adapter=adapter,
            step=step,
            stop_token_ids=frozenset(self._base.stop_token_ids if stop_ids is None else stop_ids),
            max_tokens=min(operation.params.max_tokens, context - num_prompt),
        )
        if operation.params.stop:
            StopStringMatcher(self._base.tokenizer, operation.params.stop)
        self._waiting.append(request)
        return request

    def cancel(self, request: SampleRequest) -> None:
        """Forget a request and free its rows."""
        if request in self._waiting:
            self._waiting.remove(request)
        for place in reversed(range(len(self._batch.rows))):
            if self._batch.rows[place].request is request:
                self._remove(place)

    @torch.no_grad()
    def step(self) -> list[SampleRequest]:
        """One unit of work, a prefill or a few decode steps; the requests that it finished."""
        admitted = self._admit()
        self.in_step = [request for request, _ in admitted]
        if admitted:
            return self._prefill(admitted)
        finished: list[SampleRequest] = []
        start_s = time.perf_counter()
        for _ in range(_DECODE_STEPS):
            if not self._batch.rows or time.perf_counter() - start_s > _UNIT_S:
                break
            num_rows = len(self._batch.rows)
            finished += self._decode()
            if self._waiting and len(self._batch.rows) < num_rows:
                break
        return finished

    def requests(self) -> list[SampleRequest]:
        """Everything queued or running."""
        return list(dict.fromkeys([*(row.request for row in self._batch.rows), *self._waiting]))

    # Admission -----------------------------------------------------------------------------------

    def _admit(self) -> list[tuple[SampleRequest, int]]:
        """Requests whose prompts are prefilled now, with the number of samples each may start."""
        admitted: list[tuple[SampleRequest, int]] = []
        num_rows = len(self._batch.rows)
        width = max((row.request.num_cache_tokens for row in self._batch.rows), default=0)
        num_tokens = 0
        while self._waiting:
            request = self._waiting[0]
            num_tokens += len(request.operation.prompt_tokens)
            if admitted and num_tokens > _PREFILL_TOKENS:
                break
            width = max(width, request.num_cache_tokens)
            room = min(self._max_cache_tokens // width, _MAX_ROWS) - num_rows
            count = min(request.num_unstarted, room if num_rows else max(room, 1))
            if request.max_tokens == 0:
                count = request.num_unstarted
            if count <= 0:
                break
            admitted.append((request, count))
            num_rows += count if request.max_tokens else 0
            if count < request.num_unstarted:
                break
            self._waiting.popleft()
        return admitted

    def _prefill(self, admitted: list[tuple[SampleRequest, int]]) -> list[SampleRequest]:
        watch = Stopwatch()
        requests = [request for request, _ in admitted]
        hidden, packing, first_rows = self._prefill_pass(admitted)
        for i, request in enumerate(requests):
            if request.num_started == 0:
                start = packing.starts[i]
                request.scores = score_prompt(
                    request.operation,
                    hidden[start : start + packing.lengths[i]],
                    self._decoder.head(request.adapter),
                )
        last = [s + n - 1 for s, n in zip(packing.starts, packing.lengths, strict=True)]
        self._start_rows(admitted, hidden[last], first_rows)
        finished = self._sweep()
        for request, count in admitted:
            if request.max_tokens == 0:
                self._finish_scoring(request, count)
                finished.append(request)
        watch.share(requests)
        return finished

    def _prefill_pass(
        self, admitted: list[tuple[SampleRequest, int]]
    ) -> tuple[Tensor, Packing, list[int | None]]:
        """Last hidden states [T, D] of all prompts; each prompt's keys lie in its first row then."""
        # One adapter's prompts stand together: each is applied once.
        admitted.sort(key=lambda entry: id(entry[0].adapter))
        prompts = [request.operation.prompt_tokens for request, _ in admitted]
        packing = pack(prompts)
        num_rows = len(self._batch.rows) + sum(n for r, n in admitted if r.max_tokens)
        self._cache.reserve(num_rows, max(map(len, prompts)) + 1)
        first_rows = self._insert_rows(admitted)
        layout: Layout = PackedLayout(packing.lengths) if packing.is_packed else PaddedLayout()
        cached = [i for i, row in enumerate(first_rows) if row is not None]
        places = packing.places()
        rows = [row for row in first_rows if row is not None]
        layout = PrefillLayout(layout, [places[i] for i in cached], self._cache, rows)
        hidden = self._decoder.hidden(
            torch.from_numpy(packing.tokens_BT).to(self._decoder.device),
            torch.from_numpy(packing.positions_BT).to(self._decoder.device),
            layout,
            _prompt_segments(admitted, packing),
        )
        return hidden.reshape(-1, hidden.shape[-1]), packing, first_rows

    def _insert_rows(self, admitted: list[tuple[SampleRequest, int]]) -> list[int | None]:
        for request, count in admitted:
            if request.max_tokens:
                for sample in range(request.num_started, request.num_started + count):
                    self._batch.insert(self._new_row(request, sample))
        first: dict[int, int] = {}
        for place, row in enumerate(self._batch.rows):
            if row.num_cached == 0:
                first.setdefault(id(row.request), place)
        return [first.get(id(request)) for request, _ in admitted]

    def _new_row(self, request: SampleRequest, sample: int) -> Row:
        stop = request.operation.params.stop
        matcher = StopStringMatcher(self._base.tokenizer, stop) if stop else None
        return Row(request, sample, 0, matcher)

    def _start_rows(
        self,
        admitted: list[tuple[SampleRequest, int]],
        last_PD: Tensor,
        first_rows: list[int | None],
    ) -> None:
        """Give each new row its prompt's cache and its first token."""
        for request, count in admitted:
            request.num_started += count
        prompt_of = {id(request): i for i, (request, _) in enumerate(admitted)}
        new = [(place, row) for place, row in enumerate(self._batch.rows) if row.num_cached == 0]
        if not new:
            return
        for place, row in new:
            prompt = prompt_of[id(row.request)]
            row.num_cached = len(row.request.operation.prompt_tokens)
            source = first_rows[prompt]
            if source is not None and place != source:
                self._cache.copy_row(source, place, row.num_cached)
        segments = [(request.adapter, i, i + 1) for i, (request, _) in enumerate(admitted)]
        logits_PV = self._decoder.logits(last_PD, segments)
        logits_RV = logits_PV[[prompt_of[id(row.request)] for _, row in new]]
        rows = [row for _, row in new]
        tokens, logprobs = self._draw(logits_RV, rows)
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.push(token, logprob)
        self._report(rows)

    def _draw(self, logits_RV: Tensor, rows: list[Row]) -> tuple[list[int], list[float]]:
        device = logits_RV.device
        numbers = uniforms(
            np.array([row.request.operation.params.seed % 2**64 for row in rows], np.uint64),
            np.array([row.sample for row in rows], np.uint64),
            np.array([len(row.tokens) for row in rows], np.uint64),
        )
        params = row_params(rows, self._decoder.vocab_size, device)
        penalise_rows(rows, logits_RV)
        tokens, logprobs = draw(logits_RV, params, torch.from_numpy(numbers).to(device))
        note_top_logprobs(rows, logits_RV)
        return tokens.tolist(), logprobs.tolist()

    # Decoding --------------------------------------------------------------------------------------

    def _decode(self) -> list[SampleRequest]:
        watch = Stopwatch()
        rows, device = self._batch.rows, self._decoder.device
        took_part = [row.request for row in rows]
        self.in_step = list(dict.fromkeys(took_part))
        width = max(row.num_cached for row in rows) + 1
        self._cache.reserve(len(rows), width)
        tokens_R1 = torch.tensor([[row.tokens[-1]] for row in rows], device=device)
        positions_R = torch.tensor([row.num_cached for row in rows], device=device)
        segments = self._batch.segments()
        hidden = self._decoder.hidden(
            tokens_R1, positions_R[:, None], DecodeLayout(self._cache, positions_R, width), segments
        )
        logits_RV = self._decoder.logits(hidden[:, 0], segments)
        penalise_rows(rows, logits_RV)
        tokens_R, logprobs_R = draw(
            logits_RV, self._batch.params(device), self._batch.uniforms(device)
        )
        note_top_logprobs(rows, logits_RV)
        for row, token, logprob in zip(rows, tokens_R.tolist(), logprobs_R.tolist(), strict=True):
            row.num_cached += 1
            row.push(token, logprob)
        self._report(rows)
        finished = self._sweep()
        watch.share(took_part)
        return finished

    def _report(self, rows: list[Row]) -> None:
        streamed = [row for row in rows if row.request.streamed]
        if streamed:
            self.on_drawn(streamed)

    def _sweep(self) -> list[SampleRequest]:
        """Remove rows that have ended; the requests that are complete with them."""
        finished: dict[SampleRequest, None] = {}  # in order, each once
        for place in reversed(range(len(self._batch.rows))):
            row = self._batch.rows[place]
            if row.sample in row.request.sequences:
                self._remove(place)
                if row.request.is_finished:
                    finished[row.request] = None
        return list(finished)

    def _remove(self, place: int) -> None:
        self._batch.remove(place)
        if not self._batch.rows and not self._waiting:
            self._cache.release()

    def _finish_scoring(self, request: SampleRequest, count: int) -> None:
        for sample in range(count):
            request.sequences[sample] = SampledSequence([], [], "length")


def _tell_nobody(_rows: list[Row]) -> None:
    """Until someone listens."""


def _prompt_segments(admitted: list[tuple[SampleRequest, int]], packing: Packing) -> Segments:
    """Which flat positions use which adapter; padding goes with its prompt."""
    segments: Segments = []
    num_positions = packing.tokens_BT.size
    ends = [*packing.starts[1:], num_positions]
    for (request, _), start, end in zip(admitted, packing.starts, ends, strict=True):
        if segments and segments[-1][0] is request.adapter:
            segments[-1] = (request.adapter, segments[-1][1], end)
        else:
            segments.append((request.adapter, start, end))
    return segments


def sample_result(request: SampleRequest) -> SampleResult:
    """The answer of a finished request."""
    scores = request.scores
    return SampleResult(
        sequences=[request.sequences[i] for i in range(request.operation.num_samples)],
        step=request.step,
        num_prompt_tokens=len(request.operation.prompt_tokens),
        prompt_logprobs=scores.logprobs,
        topk_prompt_ids=scores.topk_ids,
        topk_prompt_logprobs=scores.topk_logprobs,
        target_prompt_logprobs=scores.target_logprobs,
        alternative_ids=scores.alternative_ids,
        alternative_logprobs=scores.alternative_logprobs,
    )
