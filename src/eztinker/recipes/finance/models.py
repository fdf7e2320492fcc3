"""The three models of the pipeline as policies of the service: teacher, judge, and the model that is trained.

Base models are named, quantised or not, and stay resident on the server, each once, whoever asks. Knows no stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eztinker.errors import UnsupportedError
from eztinker.recipes.experiment.policy import Quantization, context_length, policy_of
from eztinker.recipes.finance.parts import QuantizationChoice
from eztinker.rl.candidates import Policy


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked.

    Attributes:
        policy: whose weights answer.
        name: of its base model, without quantization.
        quantization: of the base weights.
        tokenizer: of the base model.
        context: most tokens of prompt and answer; None when the server does not say.
    """

    policy: Policy
    name: str
    quantization: Quantization
    tokenizer: Any
    context: int | None


def base_model(client: Any, name: str, choice: QuantizationChoice) -> ServedModel:
    """A bare base model; loaded by this, if it was not."""
    quantization = quantization_of(client, name, choice)
    served = quantized_name(name, quantization)
    tokenizer, context = client.get_tokenizer(name), context_length(client, name)
    return ServedModel(Policy(base_model=served), name, quantization, tokenizer, context)


def adapter_model(
    client: Any, model_path: str, base: str | None, choice: QuantizationChoice
) -> ServedModel:
    """An adapter folder, a run or a checkpoint of the server, or a whole model's folder.

    Args:
        base: base model of an adapter folder; None takes what it names.
        choice: quantization of the base weights under an adapter folder, or of a whole model.
    """
    policy, name = policy_of(
        client, model_path, base, choose=lambda n: quantization_of(client, n, choice)
    )
    if policy.base_model is not None:
        return base_model(client, name, choice)
    tokenizer, context = client.get_tokenizer(name), context_length(client, name)
    return ServedModel(policy, name, quantization_of(client, name, choice), tokenizer, context)


def quantized_name(name: str, quantization: Quantization) -> str:
    """What the server calls a base model that is so quantised."""
    return name if quantization == "none" else f"{name}:{quantization}"


def quantization_of(client: Any, name: str, choice: QuantizationChoice) -> Quantization:
    """What a choice comes to on this server: ``auto`` is nf4 where it has bitsandbytes, else none.

    Asks for one token, which also loads the model.

    Raises:
        EZTinkerError: the model cannot be had; or, for nf4 and int8, the server lacks bitsandbytes.
    """
    if choice != "auto":
        _touch(client, quantized_name(name, choice))
        return choice
    try:
        _touch(client, quantized_name(name, "nf4"))
    except UnsupportedError as error:
        if error.code != "missing_extra":
            raise
        _touch(client, name)
        return "none"
    return "nf4"


def _touch(client: Any, name: str) -> None:
    client.sample([0], base_model=name, max_new_tokens=1, temperature=0.0, num_samples=1)
