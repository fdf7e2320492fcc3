"""An exported folder to a model hub, when its owner says so and never otherwise.

Takes only what is a model or an adapter; states of optimizers and our own manifests stay here. Called by the
command ``push``.
"""

from __future__ import annotations

from pathlib import Path

import httpx

from eztinker.deploy.folders import kind_of_folder
from eztinker.errors import AuthError, InvalidRequestError, ServerUnreachableError

KEPT_HERE = ["optimizer.safetensors", "eztinker.json", ".*"]


def push(folder: Path, repo_id: str, *, private: bool = True, revision: str | None = None) -> str:
    """Upload a folder; the address it has then.

    Args:
        folder: a model or an adapter.
        repo_id: ``owner/name``; made unless it exists.
        private: whether a new repository is.
        revision: branch; None is the default one.

    Raises:
        NotFoundError: the folder is neither a model nor an adapter.
        InvalidRequestError: no such name may be, or the hub refused it.
        AuthError: no token, or one that may not write there.
        ServerUnreachableError: no hub, or being offline was asked for.
    """
    kind_of_folder(folder)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            revision=revision,
            ignore_patterns=KEPT_HERE,
            commit_message=f"Upload {folder.name}",
        )
    except HFValidationError as error:
        raise InvalidRequestError(f"repo_id: {error}", field="repo_id") from None
    except LocalTokenNotFoundError:
        raise AuthError("The hub wants a token: run `hf auth login`, or set HF_TOKEN.") from None
    except HfHubHTTPError as error:
        raise _refused(error, repo_id) from None
    except (OfflineModeIsEnabled, httpx.TransportError) as error:
        raise ServerUnreachableError(
            f"The hub cannot be reached: {error}. Unset HF_HUB_OFFLINE, or try again with a network."
        ) from None
    return str(url)


def _refused(error: Exception, repo_id: str) -> AuthError | InvalidRequestError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    if status in {401, 403}:
        return AuthError(
            f"The hub does not let this token write to {repo_id}: {first_line}. Run `hf auth login` with one "
            "that may."
        )
    return InvalidRequestError(f"The hub refused {repo_id}: {first_line}", field="repo_id")
