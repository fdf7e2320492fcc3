"""Prompts that have been read and whose rows have not started: what is known of them before any row has a place.

First tokens are drawn and scores taken here, in tensors that nobody else has seen, so that memory may run out and
all of it be done again. Knows no cache and no batch. Called by ``sampler.py``.

Axes: P prompts, R rows that start, D hidden size, V vocabulary.
"""

from __future__ import annotations

import torch

from eztinker.engine.worker.admission import Admission
from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.drawing import draw_first
from eztinker.engine.worker.prefill import Prefill
from eztinker.engine.worker.prompt_scores import score_prompt
from eztinker.engine.worker.rows import Row, SampleRequest
from eztinker.rendering.stops import StopStringMatcher


class ReadyPrompts:
    """Those of one base model.

    Attributes:
        prefills: in the order in which they were read.
    """

    def __init__(self, base: BaseModel) -> None:
        self._base, self._decoder = base, base.decoder
        self.prefills: list[Prefill] = []

    @property
    def num_rows(self) -> int:
        """Rows that start with them."""
        return sum(prefill.num_rows for prefill in self.prefills)

    def lengths(self) -> list[int]:
        """Cached positions of each of these rows."""
        return [len(p.tokens_T) for p in self.prefills for _ in range(p.num_rows)]

    def cancel(self, request: SampleRequest) -> None:
        """Forget a request."""
        self.prefills = [p for p in self.prefills if p.request is not request]

    def put_back_half(self, admission: Admission) -> bool:
        """Leave only half of the rows to start, the others wait again; False if that would be none."""
        num_rows = self.num_rows
        if num_rows < 2:
            return False
        num_left = num_rows // 2
        kept: list[Prefill] = []
        for prefill in self.prefills:
            if prefill.num_rows <= num_left:
                kept.append(prefill)
            elif prefill.row is not None:
                admission.rows.append(prefill.row)
            else:
                admission.put_back(prefill.request, prefill.samples[num_left:])
                prefill.samples = prefill.samples[:num_left]
                kept += [prefill] if num_left else []
            num_left -= min(num_left, prefill.num_rows)
        self.prefills = kept
        return True

    def first_rows(self) -> list[list[Row]]:
        """The new rows of each prompt with their first token; none of a row that was put back."""
        new_P: list[list[Row]] = [[] for _ in self.prefills]
        starting = [i for i, p in enumerate(self.prefills) if p.row is None and p.num_rows]
        if not starting:
            return new_P
        prefills = [self.prefills[i] for i in starting]
        last_PD = torch.stack([prefill.hidden[-1][-1] for prefill in prefills])
        segments = [(prefill.request.adapter, i, i + 1) for i, prefill in enumerate(prefills)]
        logits_PV = self._decoder.logits(last_PD, segments)
        prompt_R = [i for i, prefill in enumerate(prefills) for _ in prefill.samples]
        rows = [self._new_row(p.request, sample) for p in prefills for sample in p.samples]
        tokens, logprobs = draw_first(rows, logits_PV[prompt_R])
        for i, row, token, logprob in zip(prompt_R, rows, tokens, logprobs, strict=True):
            row.push(token, logprob)
            new_P[starting[i]].append(row)
        return new_P

    def score(self) -> None:
        """What the model says about prompts of which that was asked."""
        for prefill in self.prefills:
            if prefill.is_scored:
                request = prefill.request
                head = self._decoder.head(request.adapter)
                request.scores = score_prompt(request.operation, torch.cat(prefill.hidden), head)

    def _new_row(self, request: SampleRequest, sample: int) -> Row:
        stop = request.operation.params.stop
        matcher = StopStringMatcher(self._base.tokenizer, stop) if stop else None
        return Row(request, sample, 0, matcher)
