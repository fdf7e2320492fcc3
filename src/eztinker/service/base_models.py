"""Base models by name: ``nano``, an alias, a folder, or an id of the model hub; with ``:nf4`` or ``:int8`` quantised.

Finds where a model lies and what its ``config.json`` says; reads no weights and imports neither torch
nor transformers. The hub is asked only for a name that the user gave and nothing on this machine
answers, and only for ``hub_timeout_s``; being offline is a normal state. Used by the service, the engine
(where are the weights?) and the routes (which tokenizer?).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from eztinker.config import ServerConfig
from eztinker.errors import NotFoundError, UserError
from eztinker.rendering.tokenizer import Tokenizer
from eztinker.service import hub
from eztinker.service.model_folder import find_folder, read_record
from eztinker.service.quantized_names import split_name
from eztinker.service.view import View
from eztinker.types.records import BaseModelRecord

T = TypeVar("T")

NANO = "nano"
NANO_FOLDER = Path(__file__).parents[1] / "assets" / "nano"
MAX_NAME_LENGTH = 4096
_MAX_ALIASES = 8


class BaseModels(View):
    """Resolves names of base models; each name once."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._hub = hub.Hub(config.hub_timeout_s)
        self._records: dict[str, BaseModelRecord] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._remembered: dict[str, str] = {}

    def remember(self, folders: Mapping[str, str]) -> None:
        """Where names that runs were made by were found then: a relative folder means another place
        when the server is started elsewhere."""
        self._remembered = dict(folders)

    async def resolve(self, name: str) -> BaseModelRecord:
        """Where a base model lies and what it can do.

        Order: ``nano``, alias, local folder, hub cache, hub; then the same for what stands before ``:nf4`` or
        ``:int8``. A name from the hub is downloaded here
        (configuration, tokenizer and safetensors files only), which may take long.

        Raises:
            NotFoundError: code ``model_not_found``; says what was tried and how to start offline.
            UnsupportedError: there is such a model, but not as safetensors.
            InvalidRequestError: its ``config.json`` cannot be read.
        """
        return await self._for_principal(name, self._once(self._records, name, self._find))

    async def tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer of a base model; errors as in ``resolve`` and ``Tokenizer.from_folder``."""
        found = self._once(self._tokenizers, name, self._load_tokenizer)
        return await self._for_principal(name, found)

    def known(self) -> list[BaseModelRecord]:
        """Models that can be used without the hub: ``nano``, those of the settings, those used before."""
        for name in (NANO, *self._config.models, *self._config.aliases):
            if name in self._records:
                continue
            # A setting that names no usable model must not take the list away from everyone.
            with contextlib.suppress(UserError):
                record = self._local(name, [])
                if record is not None:
                    self._records[name] = record
        return [record for name, record in self._records.items() if self._may_name(name)]

    def default_model(self, newest_run_base: str | None = None) -> str:
        """Name of the model that answers when a request names none.

        Args:
            newest_run_base: base model of the newest run, if there is a run.
        """
        if self._config.models:
            return self._config.models[0]
        return newest_run_base or NANO

    def _may_name(self, name: str) -> bool:
        """Whether the principal may name a model so.

        Folders of this machine are for those who run the server: for others, asking for one would be a
        way to look around on its disk.
        """
        offered = {NANO, *self._config.models, *self._config.aliases}
        bare, _ = split_name(name)
        if self.principal.sees_all or name in offered or bare in offered:
            return True
        return hub.may_be_id(bare) and not Path(bare).exists()

    async def _for_principal(self, name: str, found: Coroutine[Any, Any, T]) -> T:
        """What was found, or an error that does not tell a tenant what lies where on this machine."""
        if self.principal.sees_all:
            return await found
        if not self._may_name(name):
            found.close()
            raise _not_offered(name)
        try:
            return await found
        except UserError:
            raise _not_offered(name) from None

    async def _once(self, found: dict[str, T], name: str, find: Callable[[str], Awaitable[T]]) -> T:
        if name not in found:
            # Two requests for one new model must not download it twice.
            key = f"{id(found)} {name}"
            lock = self._locks.setdefault(key, asyncio.Lock())
            try:
                async with lock:
                    if name not in found:
                        found[name] = await find(name)
            finally:
                if not lock.locked():
                    self._locks.pop(key, None)
        return found[name]

    async def _load_tokenizer(self, name: str) -> Tokenizer:
        record = await self.resolve(name)
        return await asyncio.to_thread(Tokenizer.from_folder, record.folder)

    async def _find(self, name: str) -> BaseModelRecord:
        tried: list[str] = []
        record = await asyncio.to_thread(self._local, name, tried)
        if record is not None:
            return record
        bare, quantization = split_name(self._target(name))
        target = self._target(bare)
        if not hub.may_be_id(target):
            raise _not_found(name, tried)
        folder = await self._hub.fetch(target, tried=tried)
        if folder is None:
            raise _not_found(name, tried)
        record = await asyncio.to_thread(read_record, name, folder)
        return replace(record, quantization=quantization)

    def _local(self, name: str, tried: list[str]) -> BaseModelRecord | None:
        """The model if it lies on this machine; notes in ``tried`` what was looked at."""
        record = self._in_folder(name, tried)
        bare, quantization = split_name(self._target(name))
        if record is not None or quantization == "none":
            return record
        record = self._in_folder(bare, tried)
        return None if record is None else replace(record, name=name, quantization=quantization)

    def _in_folder(self, name: str, tried: list[str]) -> BaseModelRecord | None:
        target = self._target(name)
        if target == NANO:
            tried.append("the built-in model nano")
            folder = find_folder(NANO_FOLDER, tried)
        else:
            if target != name:
                tried.append(f"alias of {target!r}")
            folder = find_folder(target, tried)
            if folder is None and name in self._remembered:
                folder = find_folder(self._remembered[name], tried)
        return None if folder is None else read_record(name, folder)

    def _target(self, name: str) -> str:
        """What a name stands for, following aliases of aliases."""
        if len(name) > MAX_NAME_LENGTH:
            raise NotFoundError(
                f"base_model: a name of {len(name)} characters; at most {MAX_NAME_LENGTH} are looked up.",
                code="model_not_found",
                field="base_model",
            )
        seen = [name]
        while (target := self._config.aliases.get(seen[-1])) is not None:
            if target in seen or len(seen) > _MAX_ALIASES:
                raise UserError(
                    f"Alias {name[:100]!r} leads in a circle ({' -> '.join([*seen, target])}). Mend "
                    "--alias or the setting aliases.",
                    code="alias_circle",
                    field="base_model",
                )
            seen.append(target)
        return seen[-1]


def _not_offered(name: str) -> NotFoundError:
    return NotFoundError(
        f"base_model: this server offers no model {name[:100]!r}. GET /v1/models lists those it has; whoever "
        "runs it can add one with --model or --alias.",
        code="model_not_found",
        field="base_model",
    )


def _not_found(name: str, tried: list[str]) -> NotFoundError:
    shown = name[:100]
    hint = " Behind a colon stands a quantization, nf4 or int8." if ":" in name else ""
    return NotFoundError(
        f"base_model: no model {shown!r}.{hint} Tried: {'; '.join(tried) or 'nothing'}. Give 'nano', a folder with "
        f"config.json and *.safetensors, or an id of the model hub; without a network, download the "
        f"model elsewhere and start the server with --alias {shown}=FOLDER.",
        code="model_not_found",
        field="base_model",
        details={"tried": tried},
    )
