"""The models of the pipeline as they are asked: teacher, judge, and the model that is trained, with or without adapter.

Base models stay resident on the server, each once, whoever asks. Knows no stage. Called by the stages that sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eztinker.recipes.experiment.policy import context_length, policy_of
from eztinker.recipes.finance.held_models import held_name
from eztinker.recipes.finance.parts import QuantizationChoice
from eztinker.rl.candidates import Policy


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that can be asked.

    Attributes:
        policy: whose weights answer.
        name: of its base model as the server holds it (``nano:nf4``).
        tokenizer: of the base model.
        context: most tokens of prompt and answer; None when the server does not say.
    """

    policy: Policy
    name: str
    tokenizer: Any
    context: int | None


def base_model(client: Any, name: str, choice: QuantizationChoice) -> ServedModel:
    """A bare base model.

    Raises:
        EZTinkerError: the server cannot find it, or not quantise it so.
    """
    held = held_name(name, choice)
    # One token: it loads the model, so that what is wrong with its name is said before the work begins.
    client.sample([0], base_model=held, max_new_tokens=1, temperature=0.0, num_samples=1)
    return ServedModel(
        Policy(base_model=held), held, client.get_tokenizer(name), context_length(client, name)
    )


def adapter_model(
    client: Any, model_path: str, base: str | None, choice: QuantizationChoice
) -> ServedModel:
    """An adapter folder, a run or checkpoint of the server, or a whole model.

    Args:
        base: base model of an adapter folder; None takes what it names.
        choice: quantization of the base weights under an adapter folder, or of a whole model.
    """
    policy, name = policy_of(client, model_path, None if base is None else held_name(base, choice))
    if policy.base_model is not None:
        return base_model(client, name, choice)
    bare = name.removesuffix(":nf4").removesuffix(":int8")
    return ServedModel(policy, name, client.get_tokenizer(bare), context_length(client, bare))
