"""``merge``: an adapter's folder and its base model's to one ordinary model; needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eztinker.cli.options import AsJson
from eztinker.cli.output import note, print_json, print_text
from eztinker.cli.texts import say
from eztinker.errors import InvalidRequestError

if TYPE_CHECKING:
    from eztinker.deploy.merge import DType

BaseFolder = Annotated[
    str | None, typer.Option("--base-model", metavar="NAME_OR_PATH", help=say("merge base-model"))
]

DTypeOption = Annotated[str | None, typer.Option("--dtype", help=say("merge dtype"))]


def merge(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help=say("merge adapter"), show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help=say("option target"), show_default=False)
    ],
    base_model: BaseFolder = None,
    quantization: Annotated[
        str, typer.Option("--quantization", help=say("merge quantization"))
    ] = "none",
    dtype: DTypeOption = None,
    as_json: AsJson = False,
) -> None:
    """Print the folder of the merged model on stdout."""
    from eztinker.deploy.folders import check_free, read_json
    from eztinker.deploy.merge import merge as merge_folders

    check_free(target)
    config = adapter / "adapter_config.json"
    named = base_model
    if named is None and config.is_file():
        named = read_json(config).get("base_model_name_or_path")
    if quantization not in ("none", "nf4", "int8"):
        raise InvalidRequestError(
            f"--quantization: expected none, nf4 or int8, got {quantization!r}.",
            field="quantization",
        )
    merged = merge_folders(
        adapter,
        base_folder(named),
        target,
        quantization=quantization,
        dtype=checked_dtype(dtype),
    )
    note(
        say(
            "merged",
            num=merged.num_modules,
            dtype=merged.dtype,
            rounding=f"{merged.rounding:.2g}",
            dequantization=f"{merged.dequantization:.2g}",
        )
    )
    if as_json:
        print_json(
            {
                "folder": str(merged.folder),
                "num_modules": merged.num_modules,
                "dtype": merged.dtype,
                "rounding": merged.rounding,
                "dequantization": merged.dequantization,
            }
        )
    else:
        print_text(str(merged.folder))


def checked_dtype(dtype: str | None) -> DType | None:
    """The type of a merged model's weights.

    Raises:
        InvalidRequestError: it is none of the three.
    """
    if dtype is None or dtype in ("float32", "bfloat16", "float16"):
        return dtype
    raise InvalidRequestError(
        f"--dtype: expected float32, bfloat16 or float16, got {dtype!r}.", field="dtype"
    )


def base_folder(named: str | None) -> Path:
    """Where a base model lies on this machine: nano, an alias of the settings, a folder, or of the hub.

    Raises:
        NotFoundError: code ``model_not_found``.
    """
    import asyncio

    from eztinker.config import load_config
    from eztinker.service.base_models import BaseModels

    if not named:
        raise InvalidRequestError(
            "--base-model: the adapter names none. Give the model's folder or name.",
            field="base_model",
        )
    return Path(asyncio.run(BaseModels(load_config({})).resolve(named)).folder)
