"""Sampling requests of all base models: when they start, whose turn it is, how they end.

A request starts when what came before it has made its model and its run ready; from then on its weights
are pinned. Knows no decoding (``sampler.py``) and no inbox; driven by ``worker.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from eztinker.engine.worker.failures import as_eztinker_error, error_info
from eztinker.engine.worker.outbox import Outbox
from eztinker.engine.worker.residents import Residents
from eztinker.engine.worker.rows import Row, SampleRequest, sample_result
from eztinker.engine.worker.sampler import Sampler
from eztinker.types.codec import encode
from eztinker.types.commands import RunSample
from eztinker.types.events import JobDone, JobFailed, TokensDrawn

FEW_STREAMED = 8
"""So many streamed sequences have each token told of when it is drawn."""


class SamplingWork:
    """Waiting and running sampling requests.

    Args:
        residents: models, runs and samplers.
        outbox: takes the answers.
        is_internal: whether someone in the worker answers for a request.
    """

    def __init__(
        self,
        residents: Residents,
        outbox: Outbox,
        is_internal: Callable[[SampleRequest], bool],
    ) -> None:
        self._residents = residents
        self._outbox = outbox
        self._is_internal = is_internal
        self._unpinned: list[tuple[RunSample, int]] = []
        self._untold: dict[Row, int] = {}

    def add(self, command: RunSample, num_setups: int) -> None:
        """Queue a request that may depend on the first ``num_setups`` set-up commands."""
        self._unpinned.append((command, num_setups))

    def pin(self, num_setups_done: int) -> None:
        """Start requests whose model and run were made ready by what came before them."""
        while self._unpinned and self._unpinned[0][1] <= num_setups_done:
            command, _ = self._unpinned.pop(0)
            try:
                sampler, weights, step = self._residents.weights_for(command)
                sampler.on_drawn = self._note_drawn
                request = sampler.submit(command.job_id, command.operation, weights, step)
                request.streamed = command.streamed
            except Exception as error:
                self._outbox.fail(command.job_id, error)

    def cancel(self, job_id: str) -> bool:
        """Drop a job's requests, without answer; False if it has none here."""
        unpinned = [entry for entry in self._unpinned if entry[0].job_id == job_id]
        for entry in unpinned:
            self._unpinned.remove(entry)
        running = [
            (sampler, request)
            for sampler in self._residents.samplers.values()
            for request in sampler.requests()
            if request.job_id == job_id
        ]
        for sampler, request in running:
            sampler.cancel(request)
        return bool(unpinned or running)

    def unit(self) -> bool:
        """Do one unit of work; False when there is none."""
        busy = [sampler for sampler in self._residents.samplers.values() if sampler.has_work]
        if not busy:
            return False
        # The one that waited longest: samplers move to the end of the table after their turn.
        sampler = busy[0]
        self._residents.put_last(sampler)
        try:
            finished = sampler.step()
        except Exception as error:
            self._fail_step(sampler, error)
            return True
        finally:
            self._tell()
        for request in finished:
            if not self._is_internal(request):
                result = encode(sample_result(request))
                self._outbox.send(
                    JobDone(self._outbox.epoch, request.job_id, result, None, request.compute_s)
                )
        return True

    def _note_drawn(self, rows: list[Row]) -> None:
        """Streamed sequences have one more token each.

        While there are many, the server would take from drawing what it spends on each message and each
        chunk, so the tokens of a unit of work are told of together. A unit that starts sequences draws
        nothing else: first tokens do not wait.
        """
        for row in rows:
            self._untold.setdefault(row, len(row.tokens) - 1)
        if len(rows) <= FEW_STREAMED:
            self._tell()

    def _tell(self) -> None:
        """Send on what streamed requests have drawn."""
        if not self._untold:
            return
        entries, self._untold = list(self._untold.items()), {}
        self._outbox.send(
            TokensDrawn(
                epoch=self._outbox.epoch,
                job_ids=[row.request.job_id for row, _ in entries],
                samples=[row.sample for row, _ in entries],
                places=[place for _, place in entries],
                tokens=[row.tokens[place:] for row, place in entries],
                logprobs=[row.logprobs[place:] for row, place in entries],
                topk_ids=[row.topk_ids[place:] for row, place in entries],
                topk_logprobs=[row.topk_logprobs[place:] for row, place in entries],
            )
        )

    def _fail_step(self, sampler: Sampler, error: Exception) -> None:
        info = error_info(error, "sampling")
        for request in sampler.in_step:
            sampler.cancel(request)
            request.error = as_eztinker_error(error)
            if not self._is_internal(request):
                self._outbox.send(JobFailed(self._outbox.epoch, request.job_id, info))
