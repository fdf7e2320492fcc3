"""Bodies of requests to the native API (``/v1``), field by field.

Strict: a text is no number, ``true`` is no integer, ``1.0`` is no integer, and an unknown field is
refused with the nearest known one. It checks what one field can say about itself; what needs a model,
a run or a limit is ``service/admission.py``'s affair, and no conversion happens here. Read by
``api/convert.py`` and the OpenAPI document; the client library may build its requests from it.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_SEED = 2**63 - 1
MAX_SETTINGS = 64
"""Keys in a free-form object of settings; no loss has so many."""
KIND_PREFIX = "kind:"
"""Marks the parts of an error's location that name a union's branch and not a field."""


def near_name(name: str, known: list[str]) -> str | None:
    """The known name that ``name`` was probably meant to be; None when nothing is near."""
    return next(iter(difflib.get_close_matches(name[:64], known, n=1, cutoff=0.6)), None)


def few_keys(value: Any) -> Any:
    """Refuse an object with more keys than any real one has."""
    if isinstance(value, dict) and len(value) > MAX_SETTINGS:
        expected = f"at most {MAX_SETTINGS} settings"
        raise PydanticCustomError("wrong_kind", "{expected}", {"expected": expected})
    return value


class WireModel(BaseModel):
    """Base of all bodies: strict types, no unknown fields, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        # pydantic would list every unknown field of a hostile body; the first one is enough.
        if isinstance(value, dict) and cls.model_config.get("extra") == "allow":
            return few_keys(value)
        if isinstance(value, dict):
            known = cls.model_fields
            unknown = next((name for name in value if name not in known), None)
            if unknown is not None:
                near = near_name(str(unknown), list(known))
                context = {"name": str(unknown)[:64], "near": near or "", "known": ", ".join(known)}
                raise PydanticCustomError("unknown_field", "unknown field {name}", context)
        return value


# Values that come in several kinds ----------------------------------------------------------------

TokenIds = Annotated[list[int], Field(min_length=1, fail_fast=True)]
Labels = Annotated[list[int], Field(min_length=1, fail_fast=True)]
Floats = Annotated[list[float], Field(min_length=1, fail_fast=True)]


def choice(*kinds: tuple[type | tuple[type, ...], str], expected: str) -> Discriminator:
    """Choose a union's branch by the type of a value, or of a list's first element (``[...]``)."""

    def kind_of(value: Any) -> str | None:
        is_list = isinstance(value, list)
        sample = value[0] if is_list and value else value
        for types, kind in kinds:
            wants_list = kind.endswith("s")
            if is_list and not value and wants_list:
                return KIND_PREFIX + kind
            if wants_list == is_list and isinstance(sample, types) and not isinstance(sample, bool):
                return KIND_PREFIX + kind
        return None

    return Discriminator(
        kind_of,
        custom_error_type="wrong_kind",
        custom_error_message=expected,
    )


class ChatMessage(WireModel):
    """One message of a conversation; keys beyond role and content go to the chat template."""

    role: str = Field(min_length=1)
    content: Any = Field(None, description="Text, or a list of {type: text, text} parts.")
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None


Prompt = Annotated[
    Annotated[str, Field(min_length=1), Tag("kind:text")]
    | Annotated[TokenIds, Tag("kind:ids")]
    | Annotated[list[ChatMessage], Field(fail_fast=True), Tag("kind:messages")],
    choice(
        (str, "text"),
        (int, "ids"),
        ((dict, ChatMessage), "messages"),
        expected="a text, a list of token ids, or a list of {role, content} messages",
    ),
]
Stop = Annotated[
    Annotated[str, Field(min_length=1), Tag("kind:text")]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(fail_fast=True), Tag("kind:texts")]
    | Annotated[list[int], Field(fail_fast=True), Tag("kind:ids")],
    choice(
        (str, "text"),
        (str, "texts"),
        (int, "ids"),
        expected="a text, a list of texts, or a list of token ids",
    ),
]
TargetModules = Annotated[
    Annotated[str, Field(min_length=1), Tag("kind:text")]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, fail_fast=True),
        Tag("kind:texts"),
    ],
    choice((str, "text"), (str, "texts"), expected='"all-linear" or a list of module names'),
]
LossSetting = Annotated[
    Annotated[str, Tag("kind:text")]
    | Annotated[float, Tag("kind:number")]
    | Annotated[None, Tag("kind:none")],
    choice(
        (str, "text"), ((int, float), "number"), (type(None), "none"), expected="a number or a text"
    ),
]

# Bodies -------------------------------------------------------------------------------------------


class LoRAFields(WireModel):
    """The adapter of a run, in PEFT's words."""

    r: int = Field(8, ge=1, description="Rank.")
    lora_alpha: float = Field(16.0, gt=0, description="The update is scaled by alpha/r.")
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: TargetModules = Field(
        "all-linear", description='"all-linear", or the names of the modules to adapt.'
    )
    use_rslora: bool = Field(False, description="Scale by alpha/sqrt(r) instead.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Of the initial weights.")


class LossFunctionConfig(WireModel):
    """The loss of a run: its name and its settings; a loss's further settings are keys beside these."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LossSetting]  # pyright: ignore[reportIncompatibleVariableOverride]

    loss_type: str = Field("cross_entropy", min_length=1)
    reduction: Literal["mean", "sum"] | None = None
    focal_alpha: float | None = None
    focal_gamma: float | None = None
    custom_code: Any = Field(None, description="Always refused: code never arrives over the wire.")


class CreateTrainingRunRequest(WireModel):
    """``POST /v1/runs``."""

    base_model: str = Field(min_length=1, max_length=4096)
    lora_config: LoRAFields | None = None
    loss_config: LossFunctionConfig | None = None
    run_id: str | None = Field(None, description="A name of your own; refused if it exists.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    quantization: Literal["none", "nf4", "int8"] = "none"


class _LossInputs(WireModel):
    target_ids: Labels | None = Field(
        None,
        description="Labels aligned with input_ids: the server shifts, -100 is ignored. Omitted: input_ids.",
    )
    weights: Floats | None = Field(None, description="One per label; omitted: 1 each.")
    logprobs: Floats | None = Field(
        None, description="Log-probabilities of the labels, for RL losses and dpo."
    )
    advantages: Floats | None = Field(None, description="One per label, for RL losses.")
    sequence_ratio_mask: Floats | None = Field(None, description="One per label, for gspo.")


class TrainingDatum(_LossInputs):
    """One training example: all lists are as long as ``input_ids``; their first entry has no predecessor
    and takes no part."""

    input_ids: TokenIds


class TrainingRequest(_LossInputs):
    """``POST …/forward_backward`` and ``…/forward``: the fields of one datum, or a list under ``data``."""

    input_ids: TokenIds | None = None
    data: Annotated[list[TrainingDatum], Field(min_length=1, fail_fast=True)] | None = None
    loss_fn: str | None = Field(None, min_length=1, description="Omitted: the loss of the run.")
    loss_fn_config: Annotated[dict[str, LossSetting], BeforeValidator(few_keys)] | None = Field(
        None, description='Settings of the loss, and "reduction": "mean" (default) or "sum".'
    )


class RunTrainingRequest(TrainingRequest):
    """``POST /v1/forward_backward``: the run in the body."""

    run_id: str


class OptimStepRequest(WireModel):
    """``POST …/optim_step``: one AdamW step."""

    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)
    ] = [0.9, 0.999]
    eps: float = Field(1e-8, gt=0)
    grad_clip_norm: float | None = Field(None, gt=0)


class RunOptimStepRequest(OptimStepRequest):
    """``POST /v1/optim_step``: the run in the body."""

    run_id: str


class SampleRequest(WireModel):
    """``POST /v1/sample``: what to continue, how, and with whose weights."""

    prompt: Prompt | None = Field(None, description="Text, token ids, or messages.")
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="A conversation, instead of prompt; needs a chat template."
    )
    max_new_tokens: int = Field(100, ge=1)
    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(50, ge=-1, description="0 or -1: off.")
    do_sample: bool = Field(True, description="false: temperature 0.")
    num_samples: int = Field(1, ge=1)
    stop: Stop | None = Field(
        None,
        description="Texts that end the answer, beside the model's end tokens; or token ids, instead of them.",
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Omitted: chosen, and named in the result."
    )
    topk_prompt_logprobs: int = Field(
        0, ge=0, le=20, description="Also report so many likeliest tokens of every prompt position."
    )
    run_id: str | None = Field(
        None, description="The run's weights as of its last finished optim_step."
    )
    checkpoint: str | None = Field(
        None, description="A checkpoint of run_id instead of its current weights."
    )
    base_model: str | None = Field(None, min_length=1, max_length=4096)


class SaveRequest(WireModel):
    """``POST …/save``; the name may stand in the query (``?name=``) instead."""

    name: str | None = None
    with_optimizer: bool = Field(True, description="false: weights only, for sampling.")
    overwrite: bool = Field(False, description="Replace a checkpoint of this name.")


class KeepRequest(WireModel):
    """``PATCH …/checkpoints/{name}``: what is omitted stays as it is."""

    pinned: bool | None = Field(None, description="true: no rule and no budget deletes it.")
    score: float | None = Field(
        None, allow_inf_nan=False, description="How good it is, for keep_best; more is better."
    )


class PruneRequest(WireModel):
    """``POST /v1/checkpoints/prune``: rules that are omitted are those of the server's settings."""

    run_id: str | None = Field(None, description="Of this run only. Omitted: of all your runs.")
    keep_last: int | None = Field(None, ge=0, le=1_000_000, description="Newest ones that stay.")
    keep_best: int | None = Field(None, ge=0, le=1_000_000, description="Best ones that stay.")
    dry_run: bool = Field(False, description="true: only say what would be deleted.")


class LoadRequest(WireModel):
    """``POST …/load``."""

    name: str
    with_optimizer: bool = Field(True, description="false: start with a fresh optimizer.")
    source_run_id: str | None = Field(
        None, description="The run that the checkpoint belongs to. Omitted: this one."
    )


class EvaluationBatch(WireModel):
    """One response to score: ``prompt_ids`` and ``response_ids``; or ``input_ids`` with ``target_ids``.

    ``target_ids`` are labels aligned with ``input_ids``, -100 on the prompt. Without a response
    (``response_ids`` empty or omitted, or ``input_ids`` alone) the run answers the prompt first.
    """

    input_ids: TokenIds | None = None
    target_ids: Labels | None = None
    prompt_ids: TokenIds | None = None
    response_ids: Annotated[list[int], Field(fail_fast=True)] | None = None


class EvaluationRequest(WireModel):
    """``POST …/evaluate``."""

    batches: Annotated[list[EvaluationBatch], Field(min_length=1, fail_fast=True)]
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(50, ge=1)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)


# Keys ---------------------------------------------------------------------------------------------


class CreateKeyRequest(WireModel):
    """``POST /v1/keys``."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """What the key is for."""
    owner: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Whose things it reaches; by default the name."""
    scopes: Annotated[list[Literal["read", "sample", "train", "admin"]], Field(min_length=1)] = [
        "train",
        "sample",
    ]
    expires_in_s: Annotated[float, Field(gt=0, le=100 * 365 * 86400)] | None = None
    """How long it works; by default for ever."""
