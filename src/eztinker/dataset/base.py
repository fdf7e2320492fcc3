"""Data sets: what each of them can be asked, and the registry of their names.

A user adds one in one file: a class with the four methods of :class:`Dataset` under
``@register_dataset("name")``. Files and hubs are the affair of ``source.py`` and ``rows.py``; recipes and the
command line ask the registry.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from eztinker.errors import AlreadyExistsError, InvalidRequestError, NotFoundError


@runtime_checkable
class Dataset(Protocol):
    """Questions with prompts and a way to grade answers to them."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row ``index``; negative indices count from the end."""
        ...

    def get_example_question(self, index: int) -> tuple[str, str, str]:
        """``(question, prompt, ground_truth)``: the question, the text a model continues, the right answer."""
        ...

    def evaluate_answer(
        self, generated_text: str, ground_truth: str, question: str = ""
    ) -> dict[str, Any]:
        """Grade a model output: at least the keys of ``grading.grade.Grade``. Never raises on model output."""
        ...


_Factory = TypeVar("_Factory", bound=Callable[..., Dataset])
_registry: dict[str, Callable[..., Dataset]] = {}


def register_dataset(name: str) -> Callable[[_Factory], _Factory]:
    """Class decorator that makes a data set available under a name.

    Registering the same class again (a notebook cell run twice) replaces it.

    Raises:
        AlreadyExistsError: the name belongs to another class.
    """

    def register(factory: _Factory) -> _Factory:
        taken = _registry.get(name)
        if taken is not None and _qualified_name(taken) != _qualified_name(factory):
            raise AlreadyExistsError(
                f"A data set named {name!r} is registered already ({_qualified_name(taken)}). Choose another name.",
                field="name",
            )
        _registry[name] = factory
        return factory

    return register


def get_dataset(name: str, **kwargs: Any) -> Dataset:
    """Make the data set of a name with its own arguments, for instance ``get_dataset("gsm8k", split="test")``.

    Raises:
        NotFoundError: no data set of this name (``code="dataset_unknown"``); other errors come from the set.
    """
    if name not in _registry:
        _import_built_in()
    if name not in _registry:
        near = difflib.get_close_matches(name, _registry, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if Path(name).suffix or Path(name).exists():
            hint = " A file of your own goes into train_file (sft, dpo, reward_model) or data_path beside the name of its format."
        raise NotFoundError(
            f"No data set named {name!r}. Known: {', '.join(list_datasets())}.{hint}",
            code="dataset_unknown",
            field="name",
        )
    return _registry[name](**kwargs)


def list_datasets() -> list[str]:
    """Names of all data sets, sorted."""
    _import_built_in()
    return sorted(_registry)


def check_max_samples(max_samples: int | None) -> None:
    """Refuse a ``max_samples`` that is neither None nor a whole number from 1 up."""
    if max_samples is None:
        return
    if isinstance(max_samples, bool) or not isinstance(max_samples, int) or max_samples < 1:
        raise InvalidRequestError(
            f"max_samples must be None (all rows) or a whole number from 1 up, got {max_samples!r}.",
            field="max_samples",
        )


def _import_built_in() -> None:
    """Import every module of this package; each registers what it has."""
    package = importlib.import_module("eztinker.dataset")
    for module in pkgutil.iter_modules(package.__path__, "eztinker.dataset."):
        importlib.import_module(module.name)


def _qualified_name(factory: Callable[..., Dataset]) -> str:
    return f"{factory.__module__}.{getattr(factory, '__qualname__', repr(factory))}"
