"""Which server a recipe talks to: one that answers, or one started for it.

Called by the demo, the command line and the doors. Knows nothing of recipes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from eztinker.client.client import EZTinkerClient
from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.recipes.terminal import Progress, pick


@contextmanager
def client_or_own_server(
    base_url: str | None,
    model: str | Sequence[str],
    state_dir: Path | None,
    progress: Progress,
    api_key: str | None = None,
    device: str = "auto",
) -> Iterator[EZTinkerClient]:
    """A client of the server that answers, or of one started here, which ends with the block.

    Args:
        base_url: a server to use; None takes ``EZTINKER_BASE_URL``, else the default address, else starts one.
        model: base model of a server that is started; none: it loads what it is asked for.
        state_dir: where a server that is started keeps its state, to be found again; None: nowhere.
        progress: is told when one is started.
        api_key: of a server that answers.
        device: of a server that is started.

    Raises:
        InvalidRequestError: a device was named, but a server answers that has its own.
        ServerUnreachableError: a server that was named does not answer.
    """
    is_named = base_url is not None or "EZTINKER_BASE_URL" in os.environ
    client = EZTinkerClient(base_url, api_key)
    try:
        client.health()
        if device != "auto":
            raise _has_its_own(client.base_url)
    except InvalidRequestError:
        client.close()
        raise
    except EZTinkerError:
        client.close()
        if is_named:
            raise
        place = "" if state_dir is None else pick(f" in {state_dir}", f"，目录 {state_dir}")
        progress.say(pick(f"Starting a server{place}", f"正在启动服务器{place}"))
        client = EZTinkerClient.embedded(model, state_dir=state_dir, device=device)
    with client:
        yield client


def _has_its_own(base_url: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"device has no effect: the server at {base_url} answers, and its device was chosen when it was started "
        "(eztinker server --device). Leave --device out.",
        field="device",
        code="ineffective_setting",
    )
