"""``AsyncEZTinkerClient``: the same methods as ``EZTinkerClient``, to be awaited.

Differs in the transport only: signatures, docstrings, requests, retries and waiting are the shared ones of
``requests/`` and ``flows.py``. Serves one event loop.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from eztinker.client import answers, downloads, flows, uploads
from eztinker.client.answers import Json
from eztinker.client.flows import (
    DEFAULT_TIMEOUT_S,
    HEALTH_TIMEOUT_S,
    RECONNECT_WINDOW_S,
    Context,
)
from eztinker.client.jobs import AsyncJobHandle
from eztinker.client.methods import dress
from eztinker.client.request import Request
from eztinker.client.requests import checkpoints, jobs, keys, runs, sampling, service, training
from eztinker.client.requests.sampling import Prompt, Stop
from eztinker.client.transport import AsyncTransport, resolve_api_key, resolve_base_url

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from eztinker.client.embedded import EmbeddedServer

P = ParamSpec("P")
T = TypeVar("T")


def _asks(
    build: Callable[P, Request[T]],
) -> Callable[Concatenate[AsyncEZTinkerClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncEZTinkerClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flows.ask(self._context, build(*args, **kwargs)))

    return dress(method, build)


def _works(
    build: Callable[P, Request[T]],
) -> Callable[Concatenate[AsyncEZTinkerClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncEZTinkerClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(flows.run_job(self._context, build(*args, **kwargs)))

    return dress(method, build)


def _submits(
    build: Callable[P, Request[T]],
) -> Callable[Concatenate[AsyncEZTinkerClient, P], Coroutine[Any, Any, AsyncJobHandle[T]]]:
    async def method(
        self: AsyncEZTinkerClient, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncJobHandle[T]:
        request = build(*args, **kwargs)
        job_id = await self._run(flows.submit_job(self._context, request))
        return AsyncJobHandle(self._context, self._transport, job_id, request.parse)

    return dress(method, build, is_submit=True)


class AsyncEZTinkerClient:
    """A connection to an EZTinker server for asyncio; any number of tasks may use it at once.

    Arguments, errors and methods are those of ``EZTinkerClient``; ``transport`` is an asynchronous one.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        reconnect_window: float = RECONNECT_WINDOW_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._context = Context(resolve_base_url(base_url), timeout, reconnect_window)
        self._transport = AsyncTransport(
            self._context.base_url, resolve_api_key(api_key), transport
        )
        self._server: EmbeddedServer | None = None

    @classmethod
    async def embedded(
        cls,
        model: str | Sequence[str] = (),
        *,
        state_dir: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - the sync client's word
        **settings: Any,
    ) -> AsyncEZTinkerClient:
        """As ``EZTinkerClient.embedded``: ``client = await AsyncEZTinkerClient.embedded("nano")``."""
        from eztinker.client.embedded import EmbeddedServer

        models = [model] if isinstance(model, str) else list(model)
        server = await asyncio.to_thread(
            EmbeddedServer, models, state_dir=state_dir, settings=settings
        )
        client = cls(server.base_url, server.api_key, timeout)
        client._server = server
        return client

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._context.base_url

    async def close(self) -> None:
        """Close the connections, and the embedded server if there is one."""
        await self._transport.close()
        if self._server is not None:
            await asyncio.to_thread(self._server.close)

    async def __aenter__(self) -> AsyncEZTinkerClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, flow: flows.Flow[T]) -> T:
        return await self._transport.run(flow)

    # Service and runs -----------------------------------------------------------------------------

    async def health(self) -> Json:
        """``{"status": "ok", "version", "timestamp", …}``, or an error within ten seconds."""
        timeout_s = min(HEALTH_TIMEOUT_S, self._context.timeout_s)
        return await self._run(flows.ask(self._context, service.health(), timeout_s))

    async def get_tokenizer(self, base_model: str | None = None) -> Any:
        """The transformers tokenizer of a base model, fetched from the server (None: of its default model)."""
        from eztinker.client.tokenizer import load_tokenizer

        files = await self._run(flows.tokenizer_files(self._context, base_model))
        return await asyncio.to_thread(load_tokenizer, files)

    async def get_runs(self, *, base_model: str | None = None) -> list[Json]:
        """All runs, newest first: ``run_id``, ``base_model``, ``device``, ``step`` and more."""
        return await self._run(flows.all_runs(self._context, base_model))

    get_models = _asks(service.get_models)
    get_logprobs = _asks(sampling.get_logprobs)
    create_run = _asks(runs.create_run)
    get_log = _asks(runs.get_log)
    delete_run = _asks(runs.delete_run)

    # Training and sampling ------------------------------------------------------------------------

    forward_backward = _works(training.forward_backward)
    forward = _works(training.forward)
    optim_step = _works(training.optim_step)
    evaluate = _works(training.evaluate)

    @overload
    async def sample(
        self,
        prompt: Prompt,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        top_k: int = ...,
        do_sample: bool = ...,
        *,
        run_id: str | None = ...,
        checkpoint: str | None = ...,
        base_model: str | None = ...,
        num_samples: None = ...,
        stop: Stop | None = ...,
        seed: int | None = ...,
        topk_prompt_logprobs: int | None = ...,
    ) -> str: ...
    @overload
    async def sample(
        self,
        prompt: Prompt,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        top_k: int = ...,
        do_sample: bool = ...,
        *,
        run_id: str | None = ...,
        checkpoint: str | None = ...,
        base_model: str | None = ...,
        num_samples: int,
        stop: Stop | None = ...,
        seed: int | None = ...,
        topk_prompt_logprobs: int | None = ...,
    ) -> list[str]: ...
    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Written out for its overloads only."""
        return await self._run(flows.run_job(self._context, sampling.sample(*args, **kwargs)))

    dress(sample, sampling.sample)

    # Checkpoints ----------------------------------------------------------------------------------

    save_checkpoint = _works(checkpoints.save_checkpoint)
    load_checkpoint = _works(checkpoints.load_checkpoint)
    get_checkpoints = _asks(checkpoints.get_checkpoints)
    get_checkpoint_files = _asks(checkpoints.get_checkpoint_files)
    keep_checkpoint = _asks(checkpoints.keep_checkpoint)
    prune_checkpoints = _asks(checkpoints.prune_checkpoints)
    delete_checkpoint = _asks(checkpoints.delete_checkpoint)

    async def import_adapter(
        self,
        folder: str | os.PathLike[str],
        base_model: str | None = None,
        *,
        run_id: str | None = None,
        quantization: Literal["none", "nf4", "int8"] | None = None,
    ) -> str:
        """Make a run of a LoRA adapter in PEFT's layout, to be trained on and sampled; its id.

        Args:
            folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
            base_model: as the server knows it; default: what the adapter names.
            run_id: a name of your own; one that exists is refused.
            quantization: of the base weights.

        Raises:
            NotFoundError: a file is missing, or the server has no such base model.
            UnsupportedError: the adapter is no plain LoRA.
            InvalidRequestError: it is damaged, or belongs to another model.
        """
        request = runs.import_run(
            await asyncio.to_thread(uploads.adapter_archive, folder),
            base_model,
            run_id=run_id,
            quantization=quantization,
        )
        return await self._run(flows.ask(self._context, request))

    async def download_checkpoint(
        self, run_id: str, name: str, folder: str | os.PathLike[str]
    ) -> pathlib.Path:
        """Fetch a checkpoint as a folder that PEFT loads; it must not exist yet.

        Raises:
            AlreadyExistsError: the folder exists.
            NotFoundError: there is no such checkpoint.
        """
        target = downloads.check_free(folder)
        files = {
            file["name"]: await self._run(
                flows.checkpoint_file(self._context, run_id, name, file["name"])
            )
            for file in await self.get_checkpoint_files(run_id, name)
        }
        return await asyncio.to_thread(downloads.store_checkpoint, files, target)

    # Jobs -----------------------------------------------------------------------------------------

    async def wait_for_job(
        self,
        job_id: str,
        timeout: float = 60.0,  # noqa: ASYNC109 - the sync client's word
        polling_interval: float = 0.5,
    ) -> Json:
        """As ``EZTinkerClient.wait_for_job``."""
        return await self._run(
            flows.wait_for_job(self._context, job_id, answers.outcome, timeout, polling_interval)
        )

    get_job = _asks(jobs.get_job)
    get_jobs = _asks(jobs.get_jobs)
    cancel_job = _asks(jobs.cancel_job)

    # Keys -----------------------------------------------------------------------------------------

    create_key = _asks(keys.create_key)
    get_keys = _asks(keys.get_keys)
    revoke_key = _asks(keys.revoke_key)

    # Pipelining: the same operations, answered at once by a handle ---------------------------------

    submit_forward_backward = _submits(training.forward_backward)
    submit_forward = _submits(training.forward)
    submit_optim_step = _submits(training.optim_step)
    submit_evaluate = _submits(training.evaluate)
    submit_sample = _submits(sampling.sample)
    submit_save_checkpoint = _submits(checkpoints.save_checkpoint)
    submit_load_checkpoint = _submits(checkpoints.load_checkpoint)
