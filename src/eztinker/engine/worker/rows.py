"""A sampling request on its way, and the sequences that are generated for it.

Knows neither model nor cache. Made by ``sampler.py``; whoever handles requests reads them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from eztinker.engine.worker.kv_cache import PromptKV
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.engine.worker.prompt_scores import PromptScores
from eztinker.errors import EZTinkerError
from eztinker.rendering.stops import StopStringMatcher
from eztinker.types.operations import Sample, SampleResult
from eztinker.types.sampling import SampledSequence


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


def sample_result(request: SampleRequest) -> SampleResult:
    """The answer of a finished request."""
    scores = request.scores
    return SampleResult(
        sequences=[request.sequences[i] for i in range(request.operation.num_samples)],
        step=request.step,
        num_prompt_tokens=len(request.operation.prompt_tokens),
        num_reused_prompt_tokens=request.num_reused,
        prompt_logprobs=scores.logprobs,
        topk_prompt_ids=scores.topk_ids,
        topk_prompt_logprobs=scores.topk_logprobs,
        target_prompt_logprobs=scores.target_logprobs,
        alternative_ids=scores.alternative_ids,
        alternative_logprobs=scores.alternative_logprobs,
    )


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
