"""Sampling of one base model, with continuous batching: requests join and leave at any decode step.

A prompt is read once for all its samples (``prefill.py``), in chunks between which the running rows go
on. Requests wait for room in the cache (``admission.py``); when memory runs out all the same, some rows
give their place back and are read again later. What was read waits in ``ready_prompts.py`` for its rows to
start. Rows of different adapters share a step. What a row draws
depends on its seed, its number and its logits, not on its neighbours. Knows no messages;
``sampling_work.py`` calls ``step`` between units of training.

Axes: P prompts, R rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from eztinker.engine.worker.admission import MAX_ROWS, Admission
from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.batch import Batch
from eztinker.engine.worker.data_checks import check_token_ids
from eztinker.engine.worker.decode_graph import DecodeGraphs, Recorder
from eztinker.engine.worker.decode_step import draw_step
from eztinker.engine.worker.devices import is_out_of_memory, threads_for
from eztinker.engine.worker.drawing import Wishes, draw_next
from eztinker.engine.worker.kv_cache import KVCache
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.engine.worker.prefill import Prefill, Reader
from eztinker.engine.worker.prefix_cache import PrefixCache
from eztinker.engine.worker.ready_prompts import ReadyPrompts
from eztinker.engine.worker.rows import Row, SampleRequest, Stopwatch
from eztinker.errors import InvalidRequestError
from eztinker.rendering.stops import StopStringMatcher
from eztinker.types.operations import Sample

_DECODE_STEPS = 8
_UNIT_S = 0.1
_MAX_STALL_S = 0.25
"""How long rows may wait for prompts being read before it is their turn."""
_FEWEST_SHARING, _SHORTEST_SHARED = 4, 32
"""Samples and prompt tokens from which on a prompt is stored once instead of once for each sample."""
_PREFIX_SHARE = 4
"""One part in so many of the cache's bound, in addition to it, is for prompts read before."""


class Sampler:
    """Generates with one base model.

    Args:
        base: the model.
        max_cache_tokens: bound on cached positions over all rows.
        deterministic: equal requests on equal weights give equal bits: every request runs alone, and
            nothing is reused of prompts read before.
        recorder: of decode steps on its device; None launches them one by one, as ``deterministic`` does.

    Attributes:
        in_step: requests that take part in the present unit of work; when it raises, they are lost.
        on_drawn: called in each step with the rows of streamed requests, each of which has a new token.
    """

    def __init__(
        self,
        base: BaseModel,
        max_cache_tokens: int,
        *,
        deterministic: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self._base, self._decoder = base, base.decoder
        self._cache = KVCache(self._decoder.num_layers, self._decoder.dtype, self._decoder.device)
        self._batch = Batch(self._cache, self._decoder.vocab_size)
        self._admission = Admission(max_cache_tokens, one_by_one=deterministic)
        self._prefixes = PrefixCache(0 if deterministic else max_cache_tokens // _PREFIX_SHARE)
        self._reader = Reader(self._decoder, self._prefixes)
        self._graphs: DecodeGraphs | None = None
        if recorder is not None and self._decoder.can_be_recorded and not deterministic:
            self._graphs = DecodeGraphs(self._decoder, self._cache, recorder)
        self._flops_per_token = 2 * self._decoder.num_parameters
        self._ready = ReadyPrompts(base)
        self._owed_s = 0.0
        self.in_step: list[SampleRequest] = []
        self.on_drawn: Callable[[list[Row]], None] = _tell_nobody

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would do something."""
        return bool(self.requests())

    @property
    def num_rows(self) -> int:
        """Sequences being generated."""
        return len(self._batch.rows)

    def requests(self) -> list[SampleRequest]:
        """Everything queued or running."""
        reading = (prefill.request for prefill in (*self._reader.queue, *self._ready.prefills))
        rows = (row.request for row in (*self._batch.rows, *self._admission.rows))
        return list(dict.fromkeys([*rows, *reading, *self._admission.requests]))

    def submit(
        self, job_id: str, operation: Sample, adapter: AdapterWeights | None, step: int
    ) -> SampleRequest:
        """Queue a request on pinned weights.

        Raises:
            InvalidRequestError: a prompt that is empty, too long, or has ids outside the vocabulary.
            TooLargeError: one that the cache can never hold.
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
        self._admission.add(request)
        return request

    def cancel(self, request: SampleRequest) -> None:
        """Forget a request and free its rows."""
        self._admission.cancel(request)
        self._reader.queue = [p for p in self._reader.queue if p.request is not request]
        self._ready.cancel(request)
        with self._decoder.without_gradients():
            for place in reversed(range(len(self._batch.rows))):
                if self._batch.rows[place].request is request:
                    self._batch.remove(place)
        self._release()

    def step(self) -> list[SampleRequest]:
        """One unit of work, a part of a prefill or a few decode steps; the requests that it finished."""
        with self._decoder.without_gradients():
            return self._step()

    def _step(self) -> list[SampleRequest]:
        self._admit()
        try:
            if self._ready.prefills:
                return self._start()
            is_due = self._owed_s < _MAX_STALL_S or not self._batch.rows
            if self._reader.queue and is_due:
                return self._read()
            return self._decode_unit()
        except Exception as error:
            if is_out_of_memory(error) and self._give_way():
                return []
            raise

    # Admission -----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin to read the prompts of rows and requests that there is room for."""
        waiting, rows = self._admission, self._batch.rows
        prefills = (*self._reader.queue, *self._ready.prefills)
        reading = [prefill.request for prefill in prefills for _ in range(prefill.num_rows)]
        while (row := waiting.next_row(rows, reading)) is not None:
            self._reader.resume(row)
            reading.append(row.request)
        for request in list(waiting.requests):
            if self._reader.shares_most(request):
                continue
            count = waiting.count_for(request, rows, reading)
            if count == 0:
                break
            self._reader.begin(request, count)
            reading += [request] * (count if request.max_tokens else 0)
            if not request.unstarted:
                waiting.requests.remove(request)

    def _give_way(self) -> bool:
        """After memory ran out: free some, so that the rest can go on; False if there is nothing to free."""
        had_recordings = self._graphs is not None and self._graphs.give_way()
        if self._decoder.device.type == "cuda":
            torch.cuda.empty_cache()
        if had_recordings:
            return True
        if self._prefixes.num_tokens:
            self._prefixes.clear()
            return True
        if len(self._batch.rows) > 1:
            self._put_back(len(self._batch.rows) // 2)
            self._admission.max_rows = len(self._batch.rows)
            return True
        if not self._ready.prefills:
            return self._reader.halve_chunk()
        gave_way = self._ready.put_back_half(self._admission)
        self._admission.max_rows = max(1, self._ready.num_rows)
        return gave_way

    def _put_back(self, num_rows: int) -> None:
        """Take out the rows that have generated least; they are read again when there is room."""
        for _ in range(num_rows):
            lengths = [len(row.tokens) for row in self._batch.rows]
            place = max(range(len(lengths)), key=lambda i: (-lengths[i], i))
            self._admission.rows.appendleft(self._batch.rows[place])
            self._batch.remove(place)

    # Prompts -------------------------------------------------------------------------------------

    def _read(self) -> list[SampleRequest]:
        watch, chunk = Stopwatch(), self._reader.next_chunk()
        self.in_step = list(dict.fromkeys(prefill.request for prefill, _ in chunk))
        with threads_for(self._flops_per_token * sum(num_tokens for _, num_tokens in chunk)):
            done = self._reader.read(chunk)
        if self._batch.rows:
            self._owed_s += watch.elapsed_s
        watch.share(self.in_step)
        self._ready.prefills += done
        return self._start() if done else []

    def _start(self) -> list[SampleRequest]:
        """Give each new row its prompt's cache and its first token."""
        watch = Stopwatch()
        while self._admission.overflows(self._lengths()) and self._ready.put_back_half(
            self._admission
        ):
            pass
        while self._admission.overflows(self._lengths()):
            self._put_back(1)
        ready = self._ready.prefills
        self.in_step = list(dict.fromkeys(prefill.request for prefill in ready))
        new_P = self._ready.first_rows()
        self._ready.score()
        self._make_room()
        self._ready.prefills = []
        for prefill, new in zip(ready, new_P, strict=True):
            self._begin(prefill, new if prefill.row is None else [prefill.row])
        self._report([row for new in new_P for row in new])
        finished = self._sweep()
        for prefill in ready:
            if prefill.request.max_tokens == 0:
                prefill.end_without_tokens()
                finished.append(prefill.request)
        watch.share(self.in_step)
        self._release()
        return finished

    def _begin(self, prefill: Prefill, rows: list[Row]) -> None:
        """Remember what was read, and let its rows join the batch."""
        self._prefixes.add(prefill.request.adapter, prefill.tokens_T, prefill.kv)
        prefill.request.num_reused = max(prefill.request.num_reused, prefill.num_reused)
        for row in rows:
            row.num_cached = len(prefill.tokens_T)
            row.prompt = prefill.kv if self._is_shared(prefill) else None
            place = self._batch.insert(row)
            if row.prompt is None:
                self._cache.store_prompt(place, prefill.kv)

    def _lengths(self) -> list[int]:
        """Cached positions of the running rows and of those that start now."""
        return [row.num_cached for row in self._batch.rows] + self._ready.lengths()

    def _is_shared(self, prefill: Prefill) -> bool:
        """Whether its rows leave the prompt where it is instead of copying it."""
        return (
            self._decoder.can_share_prompts
            and self._graphs is None
            and prefill.num_rows >= _FEWEST_SHARING
            and len(prefill.tokens_T) >= _SHORTEST_SHARED
        )

    def _make_room(self) -> None:
        """Everything that takes memory, before anything is changed."""
        lengths = [row.num_in_row for row in self._batch.rows]
        for prefill in self._ready.prefills:
            length = 0 if self._is_shared(prefill) else len(prefill.tokens_T)
            lengths += [length] * prefill.num_rows
        if lengths:
            self._cache.reserve(len(lengths), max(lengths) + 1, self._admission.max_tokens)
            self._cache.allocate(self._ready.prefills[0].kv)

    # Decoding --------------------------------------------------------------------------------------

    def _decode_unit(self) -> list[SampleRequest]:
        finished: list[SampleRequest] = []
        watch = Stopwatch()
        for _ in range(_DECODE_STEPS):
            if not self._batch.rows or watch.elapsed_s > _UNIT_S:
                break
            num_rows = len(self._batch.rows)
            with threads_for(self._flops_per_token * num_rows):
                finished += self._decode()
            if self._admission.requests and len(self._batch.rows) < num_rows:
                break
        self._owed_s = max(0.0, self._owed_s - watch.elapsed_s)
        self._admission.max_rows = min(MAX_ROWS, self._admission.max_rows + 1)
        self._release()
        return finished

    def _decode(self) -> list[SampleRequest]:
        watch = Stopwatch()
        while self._admission.overflows(self._lengths()):
            self._put_back(1)
        rows = self._batch.rows
        took_part = [row.request for row in rows]
        self.in_step = list(dict.fromkeys(took_part))
        drawn = self._draw(rows)
        for row, token, logprob in zip(rows, *drawn, strict=True):
            row.num_cached += 1
            row.push(token, logprob)
        self._report(rows)
        finished = self._sweep()
        watch.share(took_part)
        return finished

    def _draw(self, rows: list[Row]) -> tuple[list[int], list[float]]:
        """Feed every row its newest token; the next ones and their log-probabilities."""
        places, most = [row.num_in_row for row in rows], self._admission.max_tokens
        if self._graphs is None:
            self._cache.reserve(len(rows), max(places) + 1, most)
            return draw_step(self._decoder, self._cache, self._batch)
        device, segments = self._decoder.device, self._batch.segments()
        (stretch,) = self._batch.stretches(1, device)
        wishes = Wishes.of(rows, stretch.params, self._batch.uniforms(device))
        tokens = [row.tokens[-1] for row in rows]
        positions = [row.num_cached for row in rows]
        logits_RV = self._graphs.logits(tokens, positions, places, segments, most)
        return draw_next(rows, logits_RV, wishes)

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
                self._remember(place, row)
                self._batch.remove(place)
                if row.request.is_finished:
                    finished[row.request] = None
        return list(finished)

    def _remember(self, place: int, row: Row) -> None:
        """A single answer may become the beginning of the next prompt: the next turn of a dialogue."""
        if row.request.operation.num_samples == 1 and self._prefixes.is_on:
            text_T = np.concatenate([row.request.operation.prompt_tokens, row.tokens])
            known = self._cache.prompt_of(place, row.num_cached)
            self._prefixes.add(row.request.adapter, text_T[: row.num_cached], known)

    def _release(self) -> None:
        if not self.has_work:
            if self._graphs is not None:
                self._graphs.release()
            self._cache.release()
            self.in_step = []  # with a request its weights would stay


def _tell_nobody(_rows: list[Row]) -> None:
    """Until someone listens."""
