"""Settings of a recipe: from a YAML file and ``key=value`` words to one typed, checked object.

Knows how settings are read, checked and explained; which ones there are is said by each recipe in a subclass
of ``RecipeConfig``. A key that is unknown, given twice or without effect is an error. Called by the command
line, the doors and the recipes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from eztinker.errors import InvalidRequestError, NotFoundError


class RecipeConfig(BaseModel):
    """Base of all recipe settings: immutable, no unknown keys.

    A subclass lists its keys as fields with ``Field(default, description=…)`` and says in ``check_effect`` which
    combinations would leave a given key without effect.

    Attributes:
        may_change: keys that may differ when an experiment is continued.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    may_change: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        self.check_effect()
        return self

    @classmethod
    def read_file(cls, path: Path) -> dict[str, Any]:
        """Values by name from a settings file: one YAML mapping."""
        return read_yaml(path)

    def check_effect(self) -> None:
        """Refuse combinations; raise with ``self.refuse`` or ``self.needs``."""

    def is_given(self, key: str) -> bool:
        """Whether the caller set ``key`` (rather than its default)."""
        return key in self.model_fields_set

    def needs(self, key: str, is_effective: bool, because: str) -> None:
        """Refuse ``key`` if the caller gave it where it has no effect."""
        if self.is_given(key) and not is_effective:
            self.refuse(key, f"{key} has no effect {because}. Leave it out.")

    def refuse(self, key: str, message: str) -> None:
        """Raise for ``key``."""
        raise InvalidRequestError(message, field=key, code="ineffective_setting")

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, in JSON types, as ``config.yaml`` holds it."""
        return self.model_dump(mode="json")


Config = TypeVar("Config", bound=RecipeConfig)


def load_settings(
    config_class: type[Config],
    file: str | Path | None = None,
    overrides: Iterable[str] = (),
    **given: Any,
) -> Config:
    """Read settings; later sources win: defaults, ``file``, ``given``, ``overrides``.

    Args:
        config_class: which keys there are.
        file: one YAML mapping, or what else the recipe reads.
        overrides: words ``key=value``; the value is read as YAML (``stop=["\\n"]``, ``max_steps=null``).
        given: values by name, for code.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: broken YAML, a key that is unknown (with the nearest known one), given twice or
            without effect, or a value of the wrong kind.
    """
    values = {} if file is None else config_class.read_file(Path(file))
    return make_settings(config_class, _merged(values | given, parse_overrides(overrides)))


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``overrides``; a mapping in both is merged key by key."""
    merged = dict(values)
    for key, value in overrides.items():
        held = merged.get(key)
        if isinstance(held, Mapping) and isinstance(value, Mapping):
            merged[key] = {**held, **value}
        else:
            merged[key] = value
    return merged


def make_settings(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Check values by name; errors as in ``load_settings``."""
    refuse_unknown(values, config_class.model_fields)
    try:
        return config_class.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InvalidRequestError(
            f"{key}: {first['msg']}, got {first['input']!r}.", field=key
        ) from error


def refuse_unknown(values: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse the first key that is not among ``known``, with the nearest one that is."""
    names = list(known)
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(names))}."
            raise InvalidRequestError(
                f"Unknown key {key!r}.{hint}", field=str(key), code="unknown_key"
            )


def parse_overrides(words: Iterable[str]) -> dict[str, Any]:
    """``key=value`` words as a dictionary; ``part.key=value`` goes into the mapping ``part``.

    Raises:
        InvalidRequestError: no ``=``, a value that is no YAML, a key given twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InvalidRequestError(f"Expected key=value, got {word!r}.", field=word[:60])
        part, _, name = key.rpartition(".")
        target = values.setdefault(part, {}) if part else values
        if name in target:
            raise InvalidRequestError(f"{key} is given twice. Give it once.", field=key)
        try:
            target[name] = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise InvalidRequestError(
                f"{key}: {text!r} cannot be read as a value ({_first_line(error)}). Quote it: "
                f"'{key}=\"…\"'.",
                field=key,
            ) from error
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML mapping from a file; a key given twice is an error.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: broken YAML or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFoundError(f"No settings file at {path}.", field="config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}.", field="config") from error
    try:
        values = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506  a safe loader, stricter
    except yaml.YAMLError as error:
        raise InvalidRequestError(f"{path}: broken YAML. {error}", field="config") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidRequestError(
            f"{path}: expected a mapping of keys to values, got {type(values).__name__}.",
            field="config",
        )
    return values


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key of a mapping stands twice."""


def _mapping_of(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_of)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def explain(config_class: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """Key, default and description of every setting, for ``--keys``; those of a part as ``part.key``."""
    rows: list[tuple[str, str, str]] = []
    for name, field in config_class.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += explain(kind, f"{prefix}{name}.")
        else:
            default = _shown(field.get_default(call_default_factory=True))
            rows.append((prefix + name, default, field.description or ""))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Sequence):
        return str(list(value))
    return "-" if value is None else f"{value}"
