"""What sampling is about: whose weights, how to draw, what came out.

Knows nothing of text beyond stop strings; tokens are ids. Made by ``api/convert.py``, executed by
``engine/worker/sampler.py``.
"""

from dataclasses import dataclass, field
from typing import Literal

StopReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to draw the next tokens.

    Attributes:
        max_tokens: most tokens to generate, at least 1 (0 only to score a prompt).
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1].
        top_k: number of most likely tokens to keep; -1 keeps all.
        seed: two equal requests on equal weights give equal answers; the samples of one request
            differ from one another. Always set by the service before the request is logged.
        stop: strings; generation ends with the token whose text completes one of them.
        stop_token_ids: ids that end generation; None means the model's own end-of-sequence ids,
            an empty tuple means never.
        presence_penalty: taken from the logit of every token the sequence holds already, from -2 to 2.
        frequency_penalty: taken from it once for each time it occurs, from -2 to 2.
    """

    max_tokens: int = 100
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def is_penalised(self) -> bool:
        """Whether tokens that were drawn before are drawn less, or more, readily."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(frozen=True, slots=True)
class WeightsRef:
    """Whose weights answer: a base model, a run as it is now, or a saved checkpoint.

    Attributes:
        base_model: the base model's name (always set).
        run_id: the run whose adapter is used; None for the bare base model.
        checkpoint: name of a checkpoint of that run; None for the run's current weights.
    """

    base_model: str
    run_id: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class SampledSequence:
    """One answer: without the prompt, with the stop token.

    Attributes:
        tokens: generated ids.
        logprobs: one per token, of the temperature-scaled distribution before top-k and top-p
            (of the plain distribution when greedy), after penalties if there are any.
        stop_reason: ``stop`` or ``length``.
        topk_ids, topk_logprobs: per token the likeliest ones, best first, of the same distribution;
            empty unless asked for.
    """

    tokens: list[int]
    logprobs: list[float]
    stop_reason: StopReason
    topk_ids: list[list[int]] = field(default_factory=list)
    topk_logprobs: list[list[float]] = field(default_factory=list)
