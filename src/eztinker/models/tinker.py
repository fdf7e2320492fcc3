"""Bodies of the Tinker wire's JSON requests, field by field.

The official client changes quickly and sends fields that mean nothing yet: one that we do not know is
accepted while it says nothing (null, false, 0, "", [] or {}) and refused by name otherwise, so that
nothing asked for is silently ignored. What only describes the client (telemetry, start-up) is not
read. No conversion happens here. Parsed by ``api/tinker/endpoint.py``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from eztinker.models.api import KIND_PREFIX, MAX_SEED, near_name

MIN_TTL_S = 3600
MAX_TTL_S = 10 * 366 * 24 * 3600

Number = Annotated[int, Field(ge=0, lt=2**63)]
"""A client's number for a request; clones of a sampling client begin at k * 10^9."""
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Ttl = Annotated[int | None, Field(ge=MIN_TTL_S, le=MAX_TTL_S)]


class TinkerModel(BaseModel):
    """Base of all bodies: strict types, finite numbers, no unknown field that says something."""

    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if not isinstance(value, dict) or cls.model_config.get("extra") != "ignore":
            return value
        known = [*cls.model_fields, "type"]
        unknown = next((name for name, said in value.items() if said and name not in known), None)
        if unknown is not None:
            near = near_name(str(unknown), known) or ""
            context = {"name": str(unknown)[:64], "near": near, "known": ", ".join(known)}
            raise PydanticCustomError("unknown_field", "unknown field", context)
        # The client leaves out what is null; others may write it.
        return {name: said for name, said in value.items() if said is not None}


class Described(TinkerModel):
    """A body about the client itself; what we do not know in it is not our affair."""

    model_config = ConfigDict(extra="allow")


# Tokens and tensors -------------------------------------------------------------------------------


class Chunk(Described):
    """A part of a prompt; only ``encoded_text`` has tokens that a text model reads."""

    type: str = "encoded_text"
    tokens: list[int] = []


class ModelInput(TinkerModel):
    """A prompt."""

    chunks: list[Chunk]


class TensorData(TinkerModel):
    """A tensor in JSON; with ``sparse_*`` in compressed rows."""

    data: list[float]
    dtype: Literal["float32", "int64"]
    shape: list[int] | None = None
    sparse_crow_indices: list[int] | None = None
    sparse_col_indices: list[int] | None = None


# Session ------------------------------------------------------------------------------------------


class CreateSession(Described):
    """``create_session``."""

    tags: list[str] = []
    user_metadata: dict[str, Any] = {}
    project_id: str | None = None
    display_name: str | None = None


class Heartbeat(Described):
    """``session_heartbeat``."""

    session_id: Text


class FinishReason(Described):
    """Why a session ended: ``type`` is ``success``, ``errored`` or ``interrupted``."""

    type: Text


class FinishSession(Described):
    """``sessions/{id}/finish``."""

    reason: FinishReason


# Models -------------------------------------------------------------------------------------------


class LoraConfig(TinkerModel):
    """The adapter, as far as the client's own fields go."""

    rank: int = 32
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class OptimizerConfig(Described):
    """Which optimizer; ``adamw`` is the only one here."""

    type: str = "adamw"


class CreateModel(TinkerModel):
    """``create_model``."""

    session_id: Text
    model_seq_id: Number
    base_model: Text
    user_metadata: dict[str, Any] = {}
    lora_config: LoraConfig = LoraConfig()
    optimizer_config: OptimizerConfig = OptimizerConfig()


class LoadWeights(TinkerModel):
    """``load_weights``: into an existing model, or as the birth of a new one."""

    path: Text
    optimizer: bool
    model_id: Text | None = None
    seq_id: Number | None = None
    session_id: Text | None = None
    model_seq_id: Number | None = None
    base_model: Text | None = None
    user_metadata: dict[str, Any] = {}
    optimizer_config: OptimizerConfig = OptimizerConfig()


class LoadPlace(Described):
    """Whether ``load_weights`` is about a model that exists."""

    model_id: Text | None = None


class ModelReference(TinkerModel):
    """``get_info``."""

    model_id: Text


# Training -----------------------------------------------------------------------------------------


class AdamParams(TinkerModel):
    """One AdamW step."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


class OptimizerParams(Described):
    """Settings of an optimizer that is not AdamW."""

    type: str


class Numbered(TinkerModel):
    """An operation of a model's order."""

    model_id: Text
    seq_id: Number | None = None


class Place(Described):
    """Whose operation it is and which number it has, whatever else the body says."""

    model_id: Text
    seq_id: Number | None = None


class OptimStep(Numbered):
    """``optim_step``."""

    adam_params: AdamParams | None = None
    optimizer_params: OptimizerParams | None = None


class SaveWeights(Numbered):
    """``save_weights``."""

    path: Text
    ttl_seconds: Ttl = None
    overwrite: bool = False
    user_metadata: dict[str, str] = {}


class SaveWeightsForSampler(Numbered):
    """``save_weights_for_sampler``: with a name, or as a sampling session of its own."""

    path: Text | None = None
    sampling_session_seq_id: Number | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"
    ttl_seconds: Ttl = None
    user_metadata: dict[str, str] = {}


class SaveWeightsExternal(Numbered):
    """``save_weights_external``."""

    path: Text
    ttl_seconds: Ttl = None


class JsonDatum(TinkerModel):
    """A datum as clients before protobuf send it."""

    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]


class PassInput(TinkerModel):
    """Data and loss of a pass in JSON."""

    data: list[JsonDatum]
    loss_fn: Text
    loss_fn_config: dict[str, float] = {}


class ForwardBackward(Numbered):
    """``forward_backward`` of clients before protobuf."""

    forward_backward_input: PassInput


class Forward(Numbered):
    """``forward`` of clients before protobuf."""

    forward_input: PassInput


# Sampling -----------------------------------------------------------------------------------------


class CreateSamplingSession(TinkerModel):
    """``create_sampling_session``."""

    session_id: Text
    sampling_session_seq_id: Number
    base_model: Text | None = None
    model_path: Text | None = None


def _kind_of_stop(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    numbers = isinstance(value, list) and bool(value) and isinstance(value[0], int)
    return "ids" if numbers else "texts"


Stop = Annotated[
    Annotated[str, Tag(f"{KIND_PREFIX}text")]
    | Annotated[list[int], Tag(f"{KIND_PREFIX}ids")]
    | Annotated[list[str], Tag(f"{KIND_PREFIX}texts")],
    Discriminator(lambda value: KIND_PREFIX + _kind_of_stop(value)),
]


class SamplingParams(TinkerModel):
    """How to draw. Ranges are checked by admission, against model and limits."""

    max_tokens: int | None = None
    seed: int | None = None
    stop: Stop | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0

    @field_validator("seed")
    @classmethod
    def _fold_seed(cls, seed: int | None) -> int | None:
        # Any integer is a seed for the client; ours have 63 bits.
        return None if seed is None else seed % (MAX_SEED + 1)


class AskSample(TinkerModel):
    """``asample``."""

    sampling_session_id: Text
    seq_id: Number
    prompt: ModelInput
    sampling_params: SamplingParams = SamplingParams()
    num_samples: int = 1
    prompt_logprobs: bool = False
    prompt_logprobs_last_n: int | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens_k: int = 0
    record_stability_info: bool = False


# Futures and REST ---------------------------------------------------------------------------------


class RetrieveFuture(TinkerModel):
    """``retrieve_future``. We never answer with metadata only, so asking for it changes nothing."""

    request_id: Text
    allow_metadata_only: bool = False


class FuturesTarget(TinkerModel):
    """Whose futures ``retrieve_futures`` is about: one client of a sampling session."""

    type: Literal["sampling_session"] = "sampling_session"
    sampling_session_id: Text
    cloned_sampler_id: Number = 0


class RetrieveFutures(TinkerModel):
    """``retrieve_futures``: all that has ended since ``prev_cursor``."""

    target: FuturesTarget
    prev_cursor: Number = 0
    timeout: Annotated[float | None, Field(ge=0)] = None
    retrieved_request_ids: list[str] = []


class CancelFuture(TinkerModel):
    """``cancel_future``."""

    request_id: Text


class SetTtl(TinkerModel):
    """``.../ttl``; null keeps the checkpoint for ever."""

    ttl_seconds: Ttl = None


class WeightsInfo(TinkerModel):
    """``weights_info``."""

    tinker_path: Text


class UnloadModel(TinkerModel):
    """``unload_model`` of clients before protobuf."""

    model_id: Text


class JoinSamplingSession(TinkerModel):
    """``join_sampling_session``: a number for one more client of a sampling session."""

    sampling_session_id: Text


class CopyWeights(TinkerModel):
    """``copy_weights``: into a slot of a session, or into a project."""

    source_path: Text
    session_id: Text | None = None
    model_seq_id: Number | None = None
    destination_project_id: Text | None = None
    ttl_seconds: Ttl = None
