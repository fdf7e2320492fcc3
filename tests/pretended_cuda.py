"""A CUDA device for tests on a machine without one: its tensors say that they lie there and compute on the CPU.

What code does differently for ``cuda`` runs for real, with real numbers, and two kinds of mistakes that only a
GPU would show are found: operations that mix tensors of both sides (an error), and places where the host waits
for the device (``Watch.waits``). Kernels of CUDA are not tested by it: sums are those of the CPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from eztinker.engine.worker import base_model, residents

DEVICE = torch.device("cuda:0")
_INSIDE = torch.device("meta")
"""What torch itself is told: a device that it knows in every build."""
_MEMORY_BYTES = 8 * 10**9
_SOURCES = str(Path(__file__).parents[1] / "src")

_aten = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.copy_}
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_}
_ASKING = {
    _aten._local_scalar_dense,
    _aten.is_nonzero,
    _aten.nonzero,
    _aten.masked_select,
    _aten.equal,
    _aten._unique2,
}
_PRODUCTS = {_aten.mm, _aten.addmm, _aten.addmm_, _aten.bmm, _aten.baddbmm}
"""While one of them is on its way the device is taken to be at work."""


class MixedDevicesError(Exception):
    """A tensor of the CPU went into an operation on the device."""


class OnDevice(torch.Tensor):
    """A tensor that says it is on the device.

    Attributes:
        held: its numbers, on the CPU.
    """

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_INSIDE,
        )
        made.held = held
        return made

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: OnDevice) -> None:
        if (value.shape, value.dtype) != (self.shape, self.dtype):
            raise NotImplementedError("data of another shape or type")
        self.held = value.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of pretended_cuda()")


class Watch(TorchDispatchMode):
    """Runs operations and notes where the host waits.

    To read from the device is to wait for it, and so is to write to it while it is at work.

    Attributes:
        waits: of each, what and where in the project: ``operation at file.function``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._is_busy = False
        self._tape: list[tuple[Any, Any, Any, Any]] | None = None

    def take(self) -> list[str]:
        """What has been noted since the last call."""
        waits, self.waits = self.waits, []
        return waits

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """What a CUDA graph of ``step`` does: the same operations on the same memory, with the same constants.

        Raises:
            RuntimeError: ``step`` waits for the device.
        """
        before, self._tape, self._is_busy = len(self.waits), [], True
        try:
            step()
        finally:
            tape, self._tape = self._tape, None
        if len(self.waits) > before:
            raise RuntimeError(f"cannot be recorded: {self.waits[before:]}")
        return partial(self._replay, tape)

    def _replay(self, tape: list[tuple[Any, Any, Any, Any]]) -> None:
        self._is_busy = True
        for func, args, kwargs, out in tape:
            again = func(*args, **kwargs)
            if not func.is_view:
                for old, new in zip(_as_list(out), _as_list(again), strict=True):
                    if isinstance(old, torch.Tensor) and old is not new:
                        old.copy_(new)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _is_composed(func):  # inference mode leaves it whole
            with self:
                return func.decompose(*args, **kwargs)
        tensors: list[torch.Tensor] = []
        held_args = [_held(x, tensors) for x in args]
        held_kwargs = {name: _held(x, tensors) for name, x in kwargs.items()}
        ours = [x for x in tensors if isinstance(x, OnDevice)]
        device = kwargs.get("device")
        goes_there = bool(ours) if device is None else device.type != "cpu"
        if device is not None:
            held_kwargs["device"] = torch.device("cpu")
        if ours or goes_there:
            self._look_at(func.overloadpacket, args, tensors, ours, goes_there)
        out = func(*held_args, **held_kwargs)
        if self._tape is not None:
            self._tape.append((func, held_args, held_kwargs, out))
        known = {id(x.held): x for x in ours}
        if func.overloadpacket is _aten.copy_:
            return args[0]
        # A view made under inference mode is a tensor of the kind that it is a view of.
        if func.is_view and ours and not ours[0].is_inference():
            with torch.inference_mode(False):
                return _placed(out, known, goes_there)
        return _placed(out, known, goes_there)

    def _look_at(
        self,
        packet: Any,
        args: Any,
        tensors: list[torch.Tensor],
        ours: list[OnDevice],
        goes_there: bool,
    ) -> None:
        others = [x for x in tensors if x.ndim and not isinstance(x, OnDevice)]
        if packet in _COPIES:
            reads = not goes_there or (bool(ours) and ours[0] is not args[0])
            if reads or (len(ours) < len(tensors) and self._is_busy):
                self._wait(packet)
            return
        if packet in _INDEXED:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype == torch.bool for x in indices) or (
                self._is_busy and any(not isinstance(x, OnDevice) for x in indices)
            ):
                self._wait(packet)
            others = [x for x in others if all(x is not index for index in indices)]
        if ours and others:
            raise MixedDevicesError(f"{packet} {_place()}: {[tuple(x.shape) for x in others]}")
        if packet in _ASKING:
            self._wait(packet)
        self._is_busy |= packet in _PRODUCTS

    def _wait(self, packet: Any) -> None:
        self._is_busy = self._tape is not None
        self.waits.append(f"{packet.__name__} {_place()}")


def _held(x: Any, tensors: list[torch.Tensor]) -> Any:
    """What is computed with instead; tensors are noted."""
    if isinstance(x, torch.Tensor):
        tensors.append(x)
        return x.held if isinstance(x, OnDevice) else x
    if isinstance(x, (list, tuple)):
        return [_held(part, tensors) for part in x]
    return x


def _placed(x: Any, known: dict[int, OnDevice], goes_there: bool) -> Any:
    """What an operation gives, where it belongs; what it changed in place is the tensor that it was."""
    if isinstance(x, torch.Tensor):
        if not goes_there:
            return x.clone() if id(x) in known else x
        return known[id(x)] if id(x) in known else OnDevice(x)
    if isinstance(x, (list, tuple)):
        return type(x)([_placed(part, known, goes_there) for part in x])
    return x


def _as_list(out: Any) -> list[Any]:
    return list(out) if isinstance(out, (list, tuple)) else [out]


@cache
def _is_composed(func: Any) -> bool:
    """Whether an operation consists of others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_SOURCES):
            return f"at {Path(name).stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "outside of the project"


class _Names(TorchFunctionMode):
    """Tells torch another device than the code names."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to:
            args = [_INSIDE if _is_named(x) else x for x in args]
        if _is_named(kwargs.get("device")):
            kwargs = kwargs | {"device": _INSIDE}
            if func is torch.tensor:  # would have no numbers there
                del kwargs["device"]
                return func(*args, **kwargs).to(_INSIDE)
        if func in _GET_OR_SET and isinstance(args[0], OnDevice):
            args = (args[0], _without_lists(args[1]), *args[2:])
        return func(*args, **kwargs)


def _is_named(x: Any) -> bool:
    return isinstance(x, torch.device) and x.type == "cuda"


_GET_OR_SET = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}


def _without_lists(index: Any) -> Any:
    """A list as an index is copied to the device."""
    if isinstance(index, list):
        return torch.tensor(index).to(_INSIDE)
    return tuple(map(_without_lists, index)) if isinstance(index, tuple) else index


class Tape:
    """Stands for a ``CudaRecorder``: what it records does what a CUDA graph does.

    Attributes:
        num_recorded, num_replayed: so far.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.num_recorded = self.num_replayed = 0

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """The operations of a step on the same memory with the same constants.

        Raises:
            RuntimeError: the step waits for the device.
        """
        replay = self._watch.record(step)
        self.num_recorded += 1

        def counted() -> None:
            self.num_replayed += 1
            replay()

        return counted

    def forget(self) -> None:
        """Nothing is shared by its recordings."""


class _Generator(torch.Generator):
    """Of the CPU, whatever device is named."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


_read = base_model._read


def _read_outside(folder: Path, dtype: Any) -> Any:
    """transformers makes modules on the device that torch is told of before it reads their numbers."""
    with _disable_current_modes():
        return _read(folder, dtype)


_quantize_model = base_model.quantize_model


def _quantize_there(model: Any, kind: Any, *, device: torch.device, dtype: torch.dtype) -> None:
    """A parameter cannot become one of the device by its ``data``; moved as a whole module it can."""
    model.to(device)
    _quantize_model(model, kind, device=device, dtype=dtype)


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Watch]:
    """``cuda`` is there until the block ends; tensors of the device may not be used afterwards."""
    watch = Watch()
    answers = {
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "mem_get_info": lambda device=None: (_MEMORY_BYTES // 2, _MEMORY_BYTES),
        "get_device_capability": lambda device=None: (9, 0),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(base_model, "_read", _read_outside))
        stack.enter_context(mock.patch.object(base_model, "quantize_model", _quantize_there))
        stack.enter_context(
            mock.patch.object(residents, "CudaRecorder", side_effect=lambda _: Tape(watch))
        )
        stack.enter_context(_Names())
        stack.enter_context(watch)
        yield watch
