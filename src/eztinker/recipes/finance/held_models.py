"""How the server holds the three models: the name of each with its quantization.

``nano`` is held as its files have it, ``nano:nf4`` with its linear layers in NF4; the same name is loaded once, whichever
stage asks for it. Called by every stage that asks a model.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from eztinker.recipes.finance.parts import QuantizationChoice

Held = Literal["none", "nf4", "int8"]


def held_as(choice: QuantizationChoice) -> Held:
    """The quantization that a choice means: ``auto`` is nf4 where bitsandbytes is installed."""
    if choice != "auto":
        return choice
    return "nf4" if importlib.util.find_spec("bitsandbytes") else "none"


def held_name(name: str, choice: QuantizationChoice) -> str:
    """A base model's name as the server is asked for it."""
    held = held_as(choice)
    return name if held == "none" else f"{name}:{held}"


def training_settings(choice: QuantizationChoice) -> dict[str, Any]:
    """The keys of a training recipe's settings that say how its base is held."""
    held = held_as(choice)
    return {"load_in_4bit": held == "nf4", "load_in_8bit": held == "int8"}
