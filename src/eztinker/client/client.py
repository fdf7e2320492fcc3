"""``EZTinkerClient``: the service as Python methods.

Most methods are made from the functions of ``requests/``, whose signature and docstring they take over;
all run flows (``flows.py``) in the calling thread. ``async_client.py`` has the same methods for asyncio, and
a test holds the two together.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from eztinker.client import answers, downloads, flows, uploads
from eztinker.client.answers import Json
from eztinker.client.flows import (
    DEFAULT_TIMEOUT_S,
    HEALTH_TIMEOUT_S,
    RECONNECT_WINDOW_S,
    Context,
)
from eztinker.client.jobs import JobHandle
from eztinker.client.methods import dress
from eztinker.client.request import Request
from eztinker.client.requests import checkpoints, jobs, keys, runs, sampling, service, training
from eztinker.client.requests.sampling import Prompt, Stop
from eztinker.client.transport import Transport, resolve_api_key, resolve_base_url

if TYPE_CHECKING:
    from types import TracebackType

    import httpx

    from eztinker.client.embedded import EmbeddedServer

P = ParamSpec("P")
T = TypeVar("T")


def _asks(build: Callable[P, Request[T]]) -> Callable[Concatenate[EZTinkerClient, P], T]:
    def method(self: EZTinkerClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flows.ask(self._context, build(*args, **kwargs)))

    return dress(method, build)


def _works(build: Callable[P, Request[T]]) -> Callable[Concatenate[EZTinkerClient, P], T]:
    def method(self: EZTinkerClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(flows.run_job(self._context, build(*args, **kwargs)))

    return dress(method, build)


def _submits(
    build: Callable[P, Request[T]],
) -> Callable[Concatenate[EZTinkerClient, P], JobHandle[T]]:
    def method(self: EZTinkerClient, *args: P.args, **kwargs: P.kwargs) -> JobHandle[T]:
        request = build(*args, **kwargs)
        job_id = self._run(flows.submit_job(self._context, request))
        return JobHandle(self._context, self._transport, job_id, request.parse)

    return dress(method, build, is_submit=True)


class EZTinkerClient:
    """A connection to an EZTinker server; one instance serves any number of threads.

    Every request that changes something carries an idempotency key and may therefore be repeated: a lost
    connection, a busy server or a restart shows as a longer wait, and nothing is applied twice.

    Args:
        base_url: the server; default ``EZTINKER_BASE_URL``, else ``http://localhost:8000``.
        api_key: sent as ``X-API-Key``; default ``EZTINKER_API_KEY``, else none.
        timeout: seconds that one call may take, with the work of the server and all repeats.
        reconnect_window: seconds that a server which answered before may be away before a call fails.
            A server that this client never reached is given up after half a second.
        transport: an httpx transport instead of the network, for tests.

    Raises:
        ServerUnreachableError: (from any method) no server answers.
        EZTinkerError: (from any method) what the server refused, as a class of ``eztinker.errors``.
        JobFailedError: (from methods that make a job) the job failed or was cancelled.
        TimeoutError: (from any method) the time is up; a job made by the call goes on.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        reconnect_window: float = RECONNECT_WINDOW_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._context = Context(resolve_base_url(base_url), timeout, reconnect_window)
        self._transport = Transport(self._context.base_url, resolve_api_key(api_key), transport)
        self._server: EmbeddedServer | None = None

    @classmethod
    def embedded(
        cls,
        model: str | Sequence[str] = (),
        *,
        state_dir: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        **settings: Any,
    ) -> EZTinkerClient:
        """A client with a server of its own: a child process that ends with it.

        Args:
            model: base model (or several) to load at start; the first is the default model.
            state_dir: folder to keep and continue; None keeps nothing.
            timeout: as for the class.
            settings: further settings of ``eztinker.config.ServerConfig``, such as ``num_threads=2``.

        Raises:
            InvalidRequestError: the server refused a setting.
            ServerUnreachableError: the server did not start; the message shows its last words.
        """
        from eztinker.client.embedded import EmbeddedServer

        models = [model] if isinstance(model, str) else list(model)
        server = EmbeddedServer(models, state_dir=state_dir, settings=settings)
        client = cls(server.base_url, server.api_key, timeout)
        client._server = server
        return client

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._context.base_url

    def close(self) -> None:
        """Close the connections, and the embedded server if there is one."""
        self._transport.close()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> EZTinkerClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, flow: flows.Flow[T]) -> T:
        return self._transport.run(flow)

    # Service and runs -----------------------------------------------------------------------------

    def health(self) -> Json:
        """``{"status": "ok", "version", "timestamp", …}``, or an error within ten seconds."""
        timeout_s = min(HEALTH_TIMEOUT_S, self._context.timeout_s)
        return self._run(flows.ask(self._context, service.health(), timeout_s))

    def get_tokenizer(self, base_model: str | None = None) -> Any:
        """The transformers tokenizer of a base model, fetched from the server (None: of its default model)."""
        from eztinker.client.tokenizer import load_tokenizer

        return load_tokenizer(self._run(flows.tokenizer_files(self._context, base_model)))

    def get_runs(self, *, base_model: str | None = None) -> list[Json]:
        """All runs, newest first: ``run_id``, ``base_model``, ``device``, ``step`` and more."""
        return self._run(flows.all_runs(self._context, base_model))

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
    def sample(
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
    def sample(
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
    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Written out for its overloads only."""
        return self._run(flows.run_job(self._context, sampling.sample(*args, **kwargs)))

    dress(sample, sampling.sample)

    # Checkpoints ----------------------------------------------------------------------------------

    save_checkpoint = _works(checkpoints.save_checkpoint)
    load_checkpoint = _works(checkpoints.load_checkpoint)
    get_checkpoints = _asks(checkpoints.get_checkpoints)
    get_checkpoint_files = _asks(checkpoints.get_checkpoint_files)
    keep_checkpoint = _asks(checkpoints.keep_checkpoint)
    prune_checkpoints = _asks(checkpoints.prune_checkpoints)
    delete_checkpoint = _asks(checkpoints.delete_checkpoint)

    def import_adapter(
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
            uploads.adapter_archive(folder),
            base_model,
            run_id=run_id,
            quantization=quantization,
        )
        return self._run(flows.ask(self._context, request))

    def download_checkpoint(
        self, run_id: str, name: str, folder: str | os.PathLike[str]
    ) -> pathlib.Path:
        """Fetch a checkpoint as a folder that PEFT loads; it must not exist yet.

        Raises:
            AlreadyExistsError: the folder exists.
            NotFoundError: there is no such checkpoint.
        """
        target = downloads.check_free(folder)
        files = {
            file["name"]: self._run(
                flows.checkpoint_file(self._context, run_id, name, file["name"])
            )
            for file in self.get_checkpoint_files(run_id, name)
        }
        return downloads.store_checkpoint(files, target)

    # Jobs -----------------------------------------------------------------------------------------

    def wait_for_job(
        self, job_id: str, timeout: float = 60.0, polling_interval: float = 0.5
    ) -> Json:
        """Wait for a job's end: ``{"job_id", "status", "result", "error"}``.

        A server that restarts meanwhile only makes the wait longer.

        Args:
            job_id: the job.
            timeout: seconds to wait.
            polling_interval: seconds between two questions when the server does not hold its answer.

        Raises:
            TimeoutError: it has not ended in time; it goes on.
            JobFailedError: it failed or was cancelled.
        """
        return self._run(
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
