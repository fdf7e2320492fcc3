"""EZTinker: a private training service for language models; this is what scripts import.

Nothing is imported before it is used (PEP 562), so ``import eztinker`` costs milliseconds and never loads
torch. ``_ORIGIN`` names every export and where it lives; the imports above it say the same to type checkers,
and a test holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eztinker.client.async_client import AsyncEZTinkerClient
    from eztinker.client.client import EZTinkerClient
    from eztinker.client.default import wait_for_job
    from eztinker.client.jobs import AsyncJobHandle, JobHandle
    from eztinker.dataset.conversation import ShareGPTConversation, ShareGPTMessage
    from eztinker.dataset.gsm8k import GSM8KDataset
    from eztinker.dataset.sharegpt import ShareGPTDataset
    from eztinker.errors import (
        AlreadyExistsError,
        AuthError,
        BusyError,
        CancelledError,
        CapacityError,
        ClientSideError,
        ConflictError,
        DiskFullError,
        EngineCrashError,
        EZTinkerError,
        InvalidRequestError,
        JobFailedError,
        NotFoundError,
        NumericalError,
        OutOfMemoryError,
        ServerError,
        ServerUnreachableError,
        StorageError,
        TooLargeError,
        UnsupportedError,
        UserError,
    )
    from eztinker.models.api import (
        CreateTrainingRunRequest,
        EvaluationBatch,
        LossFunctionConfig,
    )
    from eztinker.models.api import LoRAFields as LoRAConfig
    from eztinker.models.api import OptimStepRequest as OptimParams
    from eztinker.ops.losses import (
        get_loss_function,
        list_loss_functions,
        register_loss_function,
    )
    from eztinker.rl.rejection_sampler import (
        create_training_run,
        generate_candidates,
        load_buffer,
        populate_buffer,
        save_buffer,
        select_best_candidate_and_train,
    )
    from eztinker.types.sampling import SamplingParams

    __version__: str

__all__ = [
    "AlreadyExistsError",
    "AsyncEZTinkerClient",
    "AsyncJobHandle",
    "AuthError",
    "BusyError",
    "CancelledError",
    "CapacityError",
    "ClientSideError",
    "ConflictError",
    "CreateTrainingRunRequest",
    "DiskFullError",
    "EZTinkerClient",
    "EZTinkerError",
    "EngineCrashError",
    "EvaluationBatch",
    "GSM8KDataset",
    "InvalidRequestError",
    "JobFailedError",
    "JobHandle",
    "LoRAConfig",
    "LossFunctionConfig",
    "NotFoundError",
    "NumericalError",
    "OptimParams",
    "OutOfMemoryError",
    "SamplingParams",
    "ServerError",
    "ServerUnreachableError",
    "ShareGPTConversation",
    "ShareGPTDataset",
    "ShareGPTMessage",
    "StorageError",
    "TooLargeError",
    "UnsupportedError",
    "UserError",
    "__version__",
    "create_training_run",
    "generate_candidates",
    "get_loss_function",
    "list_loss_functions",
    "load_buffer",
    "populate_buffer",
    "register_loss_function",
    "save_buffer",
    "select_best_candidate_and_train",
    "wait_for_job",
]

_MODULES = {
    "eztinker.client.async_client": ("AsyncEZTinkerClient",),
    "eztinker.client.client": ("EZTinkerClient",),
    "eztinker.client.default": ("wait_for_job",),
    "eztinker.client.jobs": ("AsyncJobHandle", "JobHandle"),
    "eztinker.dataset.conversation": ("ShareGPTConversation", "ShareGPTMessage"),
    "eztinker.dataset.gsm8k": ("GSM8KDataset",),
    "eztinker.dataset.sharegpt": ("ShareGPTDataset",),
    "eztinker.models.api": ("CreateTrainingRunRequest", "EvaluationBatch", "LossFunctionConfig"),
    "eztinker.ops.losses": ("get_loss_function", "list_loss_functions", "register_loss_function"),
    "eztinker.rl.rejection_sampler": (
        "create_training_run",
        "generate_candidates",
        "load_buffer",
        "populate_buffer",
        "save_buffer",
        "select_best_candidate_and_train",
    ),
    "eztinker.types.sampling": ("SamplingParams",),
}
_ORIGIN = {name: (module, name) for module, names in _MODULES.items() for name in names}
# The wire models have names of their own, so that they are not confused with the domain's dataclasses.
_ORIGIN["LoRAConfig"] = ("eztinker.models.api", "LoRAFields")
_ORIGIN["OptimParams"] = ("eztinker.models.api", "OptimStepRequest")
_ORIGIN |= {name: ("eztinker.errors", name) for name in __all__ if name.endswith("Error")}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("eztinker")
    elif name in _ORIGIN:
        from importlib import import_module

        module, attribute = _ORIGIN[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
