"""Passes over data: loss, log-probabilities, and the gradient of exactly the number reported.

``run_pass`` is a generator that yields after every micro-batch, so that the worker can sample in between
or drop the job; nothing of the run changes before it has returned. Knows no queue and no messages.

Axes: N positions that take part, K alternative targets per position.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.attention import Layout, PackedLayout, PaddedLayout
from eztinker.engine.worker.data_checks import check_data, check_loss, weights_of
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.engine.worker.lora import AdapterWeights, Dropout
from eztinker.errors import InvalidRequestError, NumericalError, OutOfMemoryError
from eztinker.ops.logprobs import target_logprobs
from eztinker.ops.losses import (
    BUILT_IN,
    LossInputs,
    registered_loss_function,
    resolve_config,
)
from eztinker.ops.packing import Packing, pack
from eztinker.types.messages import PassPlan
from eztinker.types.operations import PassResult, TrainingPass

_EXTRA_INPUTS = ("logprobs", "advantages", "sequence_ratio_mask")


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """What a pass gives.

    Attributes:
        result: for the caller.
        gradient_P: of the reported loss; None for a forward-only pass.
        micro_batches: as executed.
    """

    result: PassResult
    gradient_P: Tensor | None
    micro_batches: list[list[int]]


def run_pass(
    decoder: Decoder,
    adapter: AdapterWeights,
    operation: TrainingPass,
    plan: PassPlan,
    *,
    dropout_seed: int,
) -> Generator[None, None, PassOutcome]:
    """Execute a pass, one micro-batch per turn.

    Args:
        decoder: of the run's base model.
        adapter: the run's weights.
        operation: data and loss.
        plan: the micro-batches; halved where memory does not suffice.
        dropout_seed: of the operation; each micro-batch adds its place in the executed plan.

    Raises:
        InvalidRequestError: data that do not fit the model or the loss.
        NumericalError: a loss or gradient that is not finite.
        OutOfMemoryError: not even one datum (or group of data) fits.
    """
    return (yield from _Pass(decoder, adapter, operation, plan, dropout_seed).run())


class _Pass:
    def __init__(
        self,
        decoder: Decoder,
        adapter: AdapterWeights,
        operation: TrainingPass,
        plan: PassPlan,
        dropout_seed: int,
    ) -> None:
        self._decoder, self._adapter, self._plan = decoder, adapter, plan
        self._data, self._spec = operation.data, operation.loss
        self._with_gradient = not operation.forward_only
        self._dropout_seed = dropout_seed
        self._group_size = check_loss(self._spec)
        check_data(decoder, self._data, self._spec)
        self._weights = [weights_of(datum) for datum in self._data]
        self._factor = self._reduction_factor()
        self._gradient_P = torch.zeros_like(adapter.flat_P) if self._with_gradient else None
        self._logprobs: list[np.ndarray] = [np.zeros(0, np.float32)] * len(self._data)
        self._loss_sum = 0.0

    def run(self) -> Generator[None, None, PassOutcome]:
        executed: list[list[int]] = []
        waiting = [list(batch) for batch in reversed(self._plan.micro_batches)]
        while waiting:
            batch = waiting.pop()
            try:
                self._micro_batch(batch, place=len(executed))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                waiting += reversed(self._halves(batch))
            else:
                executed.append(batch)
            yield
        return PassOutcome(self._result(), self._finite_gradient(), executed)

    def _reduction_factor(self) -> float:
        if self._spec.reduction == "sum":
            return 1.0
        if self._spec.name == "dpo":  # its sum runs over pairs, whose weights only mask positions
            return self._group_size / len(self._data)
        total = sum(float(w.sum(dtype=np.float64)) for w in self._weights)
        if total <= 0:
            raise InvalidRequestError(
                "No label counts: the weights of the whole request add up to "
                f"{total:g}, and the loss is divided by that sum. Give at least one label a positive "
                "weight (and not -100).",
                code="no_labels",
                field="weights",
            )
        return 1 / total

    def _halves(self, batch: list[int]) -> list[list[int]]:
        groups = len(batch) // self._group_size
        if groups < 2:
            size = max(self._data[i].num_tokens for i in batch)
            raise OutOfMemoryError(
                f"A datum of {size} tokens does not fit in memory even alone. Use shorter data, a "
                "smaller model or rank, or a machine with more memory."
            )
        middle = (groups // 2) * self._group_size
        return [batch[:middle], batch[middle:]]

    def _micro_batch(self, batch: list[int], place: int) -> None:
        packing = pack([self._data[i].tokens_T for i in batch])
        with torch.set_grad_enabled(self._with_gradient):
            hidden = self._hidden(packing, place)
            loss, logprobs = self._loss(hidden, packing, batch)
            if self._gradient_P is not None:
                gradient_P = self._gradient_of(loss * self._factor)
                loss_value = float(loss.detach())
                _check_finite(loss_value)
                self._gradient_P += gradient_P
            else:
                loss_value = float(loss)
                _check_finite(loss_value)
        self._loss_sum += loss_value
        for i, values in zip(batch, logprobs, strict=True):
            self._logprobs[i] = values

    def _hidden(self, packing: Packing, place: int) -> Tensor:
        decoder, device = self._decoder, self._decoder.device
        tokens = torch.from_numpy(packing.tokens_BT).to(device)
        layout: Layout = PackedLayout(packing.lengths) if packing.is_packed else PaddedLayout()
        probability = self._adapter.spec.config.lora_dropout
        dropout = None
        if self._with_gradient and probability > 0:
            dropout = Dropout(probability, self._dropout_seed * 1_000_003 + place)
        hidden = decoder.hidden(
            tokens,
            torch.from_numpy(packing.positions_BT).to(device),
            layout,
            [(self._adapter, 0, tokens.numel())],
            dropout=dropout,
            checkpointing=self._plan.checkpointing,
        )
        return hidden.reshape(-1, hidden.shape[-1])

    def _gradient_of(self, loss: Tensor) -> Tensor:
        if not loss.requires_grad:
            return torch.zeros_like(self._adapter.flat_P)
        leaves = self._adapter.leaves
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients]).float()

    def _loss(
        self, hidden_ND: Tensor, packing: Packing, batch: list[int]
    ) -> tuple[Tensor, list[np.ndarray]]:
        user_function = registered_loss_function(self._spec.name)
        if user_function is not None:
            return self._user_loss(user_function, hidden_ND, packing, batch)
        masks = [self._mask_of(i) for i in batch]
        places = [np.flatnonzero(mask) for mask in masks]
        index = np.concatenate([p + s for p, s in zip(places, packing.starts, strict=True)])
        chosen = self._select(hidden_ND, index)
        p = target_logprobs(
            chosen, self._tensor("target_tokens", batch, masks), self._decoder.head(self._adapter)
        )
        config = resolve_config(self._spec.name, self._spec.config)
        loss = BUILT_IN[self._spec.name](p, self._inputs(batch, masks), config)
        return loss, self._scatter(p, batch, masks)

    def _select(self, hidden_ND: Tensor, index: np.ndarray) -> Tensor:
        if len(index) == hidden_ND.shape[0]:
            return hidden_ND
        return hidden_ND.index_select(0, torch.from_numpy(index).to(hidden_ND.device))

    def _mask_of(self, i: int) -> np.ndarray:
        """Positions whose log-probability is needed: all for ``sum``, else those that count."""
        weights = self._weights[i]
        if self._spec.reduction == "sum":
            return np.ones(weights.shape[0], bool)
        needed = weights != 0
        needed = needed.any(axis=1) if needed.ndim == 2 else needed
        ratio_mask = self._data[i].loss_fn_inputs.get("sequence_ratio_mask")
        return needed if ratio_mask is None else needed | (ratio_mask != 0)

    def _tensor(self, name: str, batch: list[int], masks: Sequence[np.ndarray]) -> Tensor:
        values = [
            self._weights[i] if name == "weights" else self._data[i].loss_fn_inputs[name]
            for i in batch
        ]
        joined = np.concatenate([v[mask] for v, mask in zip(values, masks, strict=True)])
        dtype = np.int64 if name == "target_tokens" else np.float32
        return torch.from_numpy(joined.astype(dtype)).to(self._decoder.device)

    def _inputs(self, batch: list[int], masks: Sequence[np.ndarray]) -> LossInputs:
        present = self._data[batch[0]].loss_fn_inputs
        extra = {n: self._tensor(n, batch, masks) for n in _EXTRA_INPUTS if n in present}
        weights = self._tensor("weights", batch, masks)
        return LossInputs(weights, [int(mask.sum()) for mask in masks], **extra)

    def _scatter(
        self, p: Tensor, batch: list[int], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Log-probabilities in the shape of the targets; NaN where none was computed."""
        values, start, scattered = p.detach().cpu().numpy(), 0, []
        for i, mask in zip(batch, masks, strict=True):
            full = np.full(self._weights[i].shape, np.nan, np.float32)
            count = int(mask.sum())
            full[mask] = values[start : start + count]
            start += count
            scattered.append(full)
        return scattered

    def _user_loss(
        self, function: object, hidden_ND: Tensor, packing: Packing, batch: list[int]
    ) -> tuple[Tensor, list[np.ndarray]]:
        """A registered loss, one datum at a time: its logits exist in full only for that long."""
        losses, logprobs = [], []
        for i, start, length in zip(batch, packing.starts, packing.lengths, strict=True):
            logits = self._decoder.head(self._adapter).logits(hidden_ND[start : start + length])
            targets = torch.from_numpy(
                self._data[i].loss_fn_inputs["target_tokens"].astype(np.int64)
            ).to(logits.device)
            weights = torch.from_numpy(self._weights[i].astype(np.float32)).to(logits.device)
            labels = torch.where(weights != 0, targets, -100)
            value = function(logits[None], labels[None], weights[None], **self._spec.config)  # type: ignore[operator]
            losses.append(value * weights.sum() if value.ndim == 0 else value.sum())
            p = torch.log_softmax(logits.detach(), -1).gather(1, targets[:, None])[:, 0]
            logprobs.append(p.masked_fill(~self._is_reported(weights), torch.nan).cpu().numpy())
        return torch.stack(losses).sum(), logprobs

    def _is_reported(self, weights: Tensor) -> Tensor:
        everywhere = self._spec.reduction == "sum"
        return torch.ones_like(weights, dtype=torch.bool) if everywhere else weights != 0

    def _result(self) -> PassResult:
        num_tokens = sum(int(np.count_nonzero(weights)) for weights in self._weights)
        return PassResult(
            loss=self._loss_sum * self._factor,
            num_tokens=num_tokens,
            logprobs=self._logprobs,
            metrics={"loss:sum": self._loss_sum, "num_tokens:sum": float(num_tokens)},
        )

    def _finite_gradient(self) -> Tensor | None:
        # The extremes are finite exactly if everything is (nan spreads); one pass instead of five.
        extremes = () if self._gradient_P is None else torch.aminmax(self._gradient_P)
        if not all(math.isfinite(extreme) for extreme in extremes):
            raise NumericalError(
                "The gradient is not finite; nothing was added to the run. Look for extreme weights, "
                "advantages or logprobs in the data, or lower the learning rate."
            )
        return self._gradient_P


def executed_plan(plan: PassPlan, micro_batches: list[list[int]], dtype: torch.dtype) -> PassPlan:
    """The plan with what was really done."""
    return replace(
        plan,
        micro_batches=micro_batches,
        num_threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
    )


def _check_finite(loss: float) -> None:
    if not np.isfinite(loss):
        raise NumericalError(
            f"The loss is {loss}; nothing was added to the run. Look for extreme weights, advantages or "
            "logprobs in the data, or lower the learning rate."
        )
