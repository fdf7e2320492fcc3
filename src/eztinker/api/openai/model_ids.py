"""Model ids of the OpenAI wire: whose weights a name means.

A run goes before a base model of the same name. Called by ``routes/openai.py``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from eztinker.api.tinker.paths import SCHEME, parse_path
from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.ids import check_reference
from eztinker.types.sampling import WeightsRef

if TYPE_CHECKING:
    from eztinker.service.service import Service


async def resolve_model(service: Service, model: str) -> WeightsRef:
    """Weights by the name of a base model, of a run, or of a checkpoint.

    Args:
        model: a base model's name or alias, a run's id, ``RUN@CHECKPOINT``, ``tinker://RUN/KIND/NAME``, or
            ``BASE;tinker://…``.

    Raises:
        NotFoundError: code ``model_not_found``, there is nothing of that name.
        InvalidRequestError: a path without its parts, or one whose base model is another.
    """
    try:
        base, separator, path = model.partition(";")
        if separator:
            return await _with_base(service, base, path)
        if model.startswith(SCHEME):
            return await _checkpoint_at(service, model)
        return await _named(service, model)
    except NotFoundError as error:
        raise NotFoundError(
            f"model: there is no {model[:200]!r}; GET /v1/models lists what there is. {error.message}",
            code="model_not_found",
            field="model",
        ) from None


async def _with_base(service: Service, base: str, path: str) -> WeightsRef:
    weights = await _checkpoint_at(service, path)
    wanted = await service.base_models.resolve(base)
    held = await service.base_models.resolve(weights.base_model)
    if wanted.folder != held.folder:
        raise InvalidRequestError(
            f"model: {path[:200]} belongs to {weights.base_model}, not to {base[:200]}. Send the path alone.",
            field="model",
        )
    return weights


async def _checkpoint_at(service: Service, path: str) -> WeightsRef:
    parsed = parse_path(path, field="model")
    checkpoint = await service.checkpoints.get(parsed.run_id, parsed.stored_name)
    return WeightsRef(checkpoint.base_model, parsed.run_id, parsed.stored_name)


async def _named(service: Service, model: str) -> WeightsRef:
    if _may_be_reference(model):
        with contextlib.suppress(NotFoundError):
            return WeightsRef((await service.runs.get(model)).base_model, model)
    run_id, separator, name = model.rpartition("@")
    if separator and _may_be_reference(run_id) and _may_be_reference(name):
        checkpoint = await service.checkpoints.get(run_id, name)
        return WeightsRef(checkpoint.base_model, run_id, name)
    await service.base_models.resolve(model)
    return WeightsRef(model)


def _may_be_reference(name: str) -> bool:
    try:
        check_reference(name, field="model")
    except InvalidRequestError:
        return False
    return True
