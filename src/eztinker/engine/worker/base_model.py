"""A resident base model: read once from a local folder, shared by every run, sampler and judge.

Reads safetensors only and runs no code from the folder. transformers, whose import takes seconds, is asked
where our own decoder does not cover a model, and once for the numbers that our decoder must give. Knows no
runs and no requests; the worker keeps one per (name, quantization).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from eztinker.engine.memory_model import compute_dtype
from eztinker.engine.model_shape import read_shape
from eztinker.engine.worker.decoder import LeanDecoder
from eztinker.engine.worker.decoder_base import Decoder, own_logits
from eztinker.engine.worker.devices import give_back_freed_memory, is_out_of_memory
from eztinker.engine.worker.known_logits import KnownLogits, columns
from eztinker.engine.worker.lean_coverage import obstacle
from eztinker.engine.worker.lean_files import LeanModel, read_lean_model
from eztinker.engine.worker.quantization import quantize_model
from eztinker.errors import InvalidRequestError, NotFoundError, UnsupportedError
from eztinker.types.training import Quantization, resident_key

logger = logging.getLogger(__name__)

_PROBE_LENGTHS = (19, 11)


@dataclass(slots=True)
class BaseModel:
    """A base model and what is known about it.

    Attributes:
        name: public name.
        folder: where it was read from.
        architecture: class name in config.json.
        decoder: runs it.
        stop_token_ids: its own end-of-sequence ids.
        quantization: of its linear layers.
    """

    name: str
    folder: Path
    architecture: str
    decoder: Decoder
    stop_token_ids: tuple[int, ...]
    quantization: Quantization = "none"
    _tokenizer: Any = None

    @property
    def key(self) -> str:
        """What it is called among the resident ones."""
        return resident_key(self.name, self.quantization)

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, read when first needed (for stop strings)."""
        if self._tokenizer is None:
            from eztinker.rendering.tokenizer import Tokenizer

            self._tokenizer = Tokenizer.from_folder(self.folder)
        return self._tokenizer


def load_base_model(
    name: str,
    folder: Path,
    *,
    quantization: Quantization,
    device: torch.device,
    dtype: str,
    known_logits: Path | None = None,
    num_copies: int = 3,
) -> BaseModel:
    """Read a base model and check that it gives its own numbers in our hands.

    Args:
        name: public name.
        folder: with config.json and safetensors files.
        quantization: of the linear layers.
        device: where the weights go.
        dtype: ``auto`` takes float32 for a model under 300 M parameters on a CPU, else bfloat16.
        known_logits: folder where the numbers that a model must give are kept for the next load.
        num_copies: of the weights in a layout that products like, at most.

    Raises:
        NotFoundError: no such folder, or no weights in it.
        InvalidRequestError: the folder's files cannot be read.
        UnsupportedError: bitsandbytes is missing, pickled weights, or an architecture that is not
            understood.
    """
    _need_weight_files(name, folder)
    try:
        compute = compute_dtype(dtype, device.type, read_shape(folder).num_parameters)
        place = _Place(folder, quantization, device, getattr(torch, compute), num_copies)
        known = KnownLogits.of(folder, compute, quantization, device.type, written=known_logits)
        model, decoder = _known_decoder(place, known) or _compared_decoder(place, known)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidRequestError(
            f"Base model {name!r} cannot be read from {folder}: {first_line}", field="base_model"
        ) from error
    give_back_freed_memory(device)
    return BaseModel(
        name, folder, _architecture(model), decoder, _stop_token_ids(model), quantization
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Which model, and how it shall lie where."""

    folder: Path
    quantization: Quantization
    device: torch.device
    dtype: torch.dtype
    num_copies: int

    def put(self, model: Any) -> Any:
        """A model as read, quantised and moved."""
        if self.quantization == "none":
            return model.to(self.device)
        quantize_model(model, self.quantization, device=self.device, dtype=self.dtype)
        return model

    @property
    def read_dtype(self) -> torch.dtype | None:
        """What to read weights as; None for the type of the files, from which a quantiser starts."""
        return self.dtype if self.quantization == "none" else None


def _known_decoder(place: _Place, known: KnownLogits) -> tuple[Any, Decoder] | None:
    """A model of our own reading in our own decoder, where that gives the numbers that were kept."""
    expected = known.read()
    model = None if expected is None else read_lean_model(place.folder, place.read_dtype)
    if expected is None or model is None or obstacle(model) is not None:
        return None
    model = place.put(model)
    _copy_out_of_files(model)
    decoder = LeanDecoder(model, place.num_copies)
    try:
        decoder.verify(expected, _probe_texts(model), columns(decoder.vocab_size))
    except (UnsupportedError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        logger.warning("%s is compared with transformers again: %s", place.folder.name, error)
        return None
    return model, decoder


def _compared_decoder(place: _Place, known: KnownLogits) -> tuple[Any, Decoder]:
    """A model of transformers' reading in the decoder that gives the numbers of transformers; those are kept if it is our own."""
    model = place.put(_read(place.folder, place.read_dtype or "auto"))
    probe = _probe_texts(model)
    reference = own_logits(model, probe)
    decoder = _choose_decoder(model, torch.cat(reference), probe, place.num_copies)
    if isinstance(decoder, LeanDecoder):
        known.keep(reference)
    return model, decoder


def _choose_decoder(
    model: Any, reference: Tensor, probe: list[list[int]], num_copies: int
) -> Decoder:
    """Our own decoder where it covers the model and gives its numbers; else transformers' modules."""
    if obstacle(model) is None:
        _copy_out_of_files(model)
        lean = LeanDecoder(model, num_copies)
        try:
            lean.verify(reference, probe)
        except UnsupportedError as error:
            logger.warning("Our own decoder is not used: %s", error)
        else:
            return lean
    from eztinker.engine.worker.hf_decoder import HFDecoder

    decoder = HFDecoder(model)
    decoder.adapt()
    decoder.verify(reference, probe)
    return decoder


def _architecture(model: Any) -> str:
    return model.config.architecture if isinstance(model, LeanModel) else type(model).__name__


def _copy_out_of_files(model: Any) -> None:
    """Our decoder fuses weights; as long as one of the others is mapped, all pages read would stay."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _need_weight_files(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise NotFoundError(
            f"Base model {name!r}: {folder} has no config.json. Expected a folder with config.json, "
            "tokenizer.json and *.safetensors.",
            field="base_model",
        )
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt")))
    if pickled:
        raise UnsupportedError(
            f"Base model {name!r} holds pickled weights ({pickled[0]}), which can run code when read. "
            "Convert them to safetensors.",
            field="base_model",
        )
    raise NotFoundError(f"Base model {name!r}: no *.safetensors in {folder}.", field="base_model")


def _read(folder: Path, dtype: torch.dtype | str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype,
        attn_implementation="eager",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    model, report = loaded
    _check_complete(report)
    return model


def _check_complete(report: dict[str, Any]) -> None:
    """What the files lack would be random numbers, other ones after each restart."""
    for name, in_files, in_config in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{name} has the shape {list(in_files)} in the files and {list(in_config)} by config.json. "
            "Take both from the same model."
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"the *.safetensors files lack {missing[0]} ({len(missing)} missing in all). Copy every "
            "file of the model into the folder."
        )


def _probe_texts(model: Any) -> list[list[int]]:
    """Two short texts of different length with ids spread over the vocabulary."""
    config = model.config.get_text_config()
    vocab_size = model.get_output_embeddings().weight.shape[0]
    context = getattr(config, "max_position_embeddings", None) or _PROBE_LENGTHS[0]
    return [
        [(7 + 31 * i * (row + 2)) % vocab_size for i in range(min(length, context))]
        for row, length in enumerate(_PROBE_LENGTHS)
    ]


def _stop_token_ids(model: Any) -> tuple[int, ...]:
    for config in (model.generation_config, model.config.get_text_config()):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return tuple(eos) if isinstance(eos, (list, tuple)) else (int(eos),)
    return ()
