"""Bodies of the OpenAI-compatible API, field by field.

Strict like the native wire, except that null means a field was left out, as clients of this API send it. A
field that is known but not implemented is declared here with the values that ask for nothing; anything else in
it is refused by name. Read by ``api/openai/``. Answers are built there as plain dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, Tag

from eztinker.models.answers import Answer
from eztinker.models.api import MAX_SEED, TokenIds, WireModel, choice, few_keys

MAX_METADATA = 512
_REFUSED = "Refused unless it asks for nothing."


class OpenAIMessage(WireModel):
    """One message; what an answer of this API carries may be sent back as it came."""

    role: str = Field(min_length=1, description="developer counts as system.")
    content: Any = Field(None, description="Text, or a list of {type: text, text} parts.")
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class StreamOptions(WireModel):
    """Of a stream."""

    include_usage: bool | None = Field(None, description="End with a chunk that counts the tokens.")
    include_obfuscation: bool | None = Field(None, description=_REFUSED)


Stop = Annotated[
    Annotated[str, Field(min_length=1), Tag("kind:text")]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(fail_fast=True), Tag("kind:texts")
    ],
    choice((str, "text"), (str, "texts"), expected="a text or a list of texts"),
]
Text = Annotated[str, Field(max_length=MAX_METADATA)]


class _Generation(WireModel):
    """What both endpoints take."""

    model: str = Field(
        min_length=1,
        max_length=4096,
        description="A base model, a run, RUN@CHECKPOINT, tinker://RUN/KIND/NAME, or BASE;tinker://….",
    )
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, description=_REFUSED)
    n: int | None = Field(None, ge=1, description="Answers to each prompt.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="Beyond OpenAI: 0 or -1 is off.")
    user: Text | None = Field(None, description="A label; it changes nothing.")

    NOTHING_ASKED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """For fields that are not implemented: the values that are accepted, because they ask for nothing."""


class ChatCompletionRequest(_Generation):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[OpenAIMessage], Field(min_length=1, fail_fast=True)]
    max_tokens: int | None = Field(
        None, ge=1, description="Omitted: what the context has room for."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="The newer name of max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20, description="Needs logprobs.")
    chat_template_kwargs: Annotated[dict[str, Any], BeforeValidator(few_keys)] | None = Field(
        None, description="Beyond OpenAI: variables of the chat template, such as enable_thinking."
    )
    metadata: Annotated[dict[str, Text], BeforeValidator(few_keys)] | None = Field(
        None, description="Labels; they change nothing."
    )
    prompt_cache_key: Text | None = Field(None, description="A label; it changes nothing.")
    safety_identifier: Text | None = Field(None, description="A label; it changes nothing.")
    audio: Any = Field(None, description=_REFUSED)
    function_call: Any = Field(None, description=_REFUSED)
    functions: Any = Field(None, description=_REFUSED)
    modalities: Any = Field(None, description=_REFUSED)
    moderation: Any = Field(None, description=_REFUSED)
    parallel_tool_calls: Any = Field(None, description=_REFUSED)
    prediction: Any = Field(None, description=_REFUSED)
    prompt_cache_options: Any = Field(None, description=_REFUSED)
    prompt_cache_retention: Any = Field(None, description=_REFUSED)
    reasoning_effort: Any = Field(None, description=_REFUSED)
    response_format: Any = Field(None, description=_REFUSED)
    service_tier: Any = Field(None, description=_REFUSED)
    store: Any = Field(None, description=_REFUSED)
    tool_choice: Any = Field(None, description=_REFUSED)
    tools: Any = Field(None, description=_REFUSED)
    verbosity: Any = Field(None, description=_REFUSED)
    web_search_options: Any = Field(None, description=_REFUSED)

    NOTHING_ASKED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "logit_bias": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "parallel_tool_calls": (),
        "prediction": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "verbosity": (),
        "web_search_options": (),
    }


Prompts = Annotated[
    Annotated[str, Field(min_length=1), Tag("kind:text")]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, fail_fast=True),
        Tag("kind:texts"),
    ]
    | Annotated[TokenIds, Tag("kind:ids")]
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("kind:lists")],
    choice(
        (str, "text"),
        (str, "texts"),
        (int, "ids"),
        (list, "lists"),
        expected="a text, a list of texts, a list of token ids, or a list of such lists",
    ),
]


class CompletionRequest(_Generation):
    """``POST /v1/completions``."""

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, description="Omitted: 16. 0 needs echo.")
    echo: bool | None = Field(None, description="Begin the answer with the prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Also the likeliest tokens at each place."
    )
    best_of: int | None = Field(None, description="Refused unless it equals n.")
    suffix: Any = Field(None, description=_REFUSED)

    NOTHING_ASKED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"logit_bias": ({},), "suffix": ("",)}


# Answers ------------------------------------------------------------------------------------------


class Usage(Answer):
    """Tokens read and drawn; a prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(Answer):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    """One answer of a chat."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class TextChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class _Completion(Answer):
    """What both endpoints answer."""

    id: str = Field(description="The job's id after a prefix; the first one's with many prompts.")
    created: int
    model: str
    system_fingerprint: str | None = Field(description="Optimizer steps behind the weights.")
    usage: Usage


class ChatCompletionAnswer(_Completion):
    """``POST /v1/chat/completions``; streams send chunks of the same fields."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionAnswer(_Completion):
    """``POST /v1/completions``; streams send chunks of the same fields."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
