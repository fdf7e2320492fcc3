"""The loss of one training pass: from last hidden states to a number and log-probabilities.

The vocabulary head is applied where a log-probability is needed and nowhere else. Knows no base model's
layers, no plan and no other run; ``trainer.py`` hands it the data, ``micro_batch.py`` the hidden states.

Axes: N positions that take part, K alternative targets per position, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.data_checks import check_data, check_loss, weights_of
from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.errors import InvalidRequestError
from eztinker.ops.logprobs import target_logprobs
from eztinker.ops.losses import (
    BUILT_IN,
    LossInputs,
    registered_loss_function,
    resolve_config,
)
from eztinker.types.operations import TrainingPass

_EXTRA_INPUTS = ("logprobs", "advantages", "sequence_ratio_mask")


class PassLoss:
    """Data and loss of a pass.

    Args:
        decoder: of the run's base model.
        adapter: the run's weights.
        operation: data and loss; checked here.

    Attributes:
        factor: what the reported loss is times the sum.
        group_size: so many neighbouring data are compared by the loss.

    Raises:
        InvalidRequestError: data that do not fit the model or the loss.
    """

    def __init__(self, decoder: Decoder, adapter: AdapterWeights, operation: TrainingPass) -> None:
        self._device = decoder.device
        self._data, self._spec = operation.data, operation.loss
        self.group_size = check_loss(self._spec)
        check_data(decoder, self._data, self._spec)
        self._head, self._leaf_P = decoder.head(adapter), adapter.leaf_P
        self._weights = [weights_of(datum) for datum in self._data]
        self.factor = self._reduction_factor()

    @property
    def head_leaves(self) -> list[Tensor]:
        """The adapter's numbers, where the head is adapted."""
        return [] if self._head.lora is None else [self._leaf_P]

    @property
    def is_built_in(self) -> bool:
        """Whether only our own code computes it, which may run in two threads."""
        return registered_loss_function(self._spec.name) is None

    @property
    def num_tokens(self) -> int:
        """Targets that count."""
        return sum(int(np.count_nonzero(weights)) for weights in self._weights)

    def __call__(
        self, hidden_ND: Tensor, batch: list[int], rows: Sequence[np.ndarray]
    ) -> tuple[Tensor, list[np.ndarray]]:
        """The sum over a micro-batch, and log-probabilities in the shape of the targets.

        Args:
            hidden_ND: last hidden states.
            batch: indices of data.
            rows: of each datum, the row of each position.

        Returns:
            A scalar before ``factor``; float32 arrays, NaN where none was computed.
        """
        user_function = registered_loss_function(self._spec.name)
        if user_function is not None:
            return self._user_loss(user_function, hidden_ND, batch, rows)
        masks = [self._mask_of(i) for i in batch]
        index = np.concatenate([r[mask] for r, mask in zip(rows, masks, strict=True)])
        p = target_logprobs(
            _select(hidden_ND, index), self._tensor("target_tokens", batch, masks), self._head
        )
        config = resolve_config(self._spec.name, self._spec.config)
        loss = BUILT_IN[self._spec.name](p, self._inputs(batch, masks), config)
        return loss, self._scatter(p, batch, masks)

    def _reduction_factor(self) -> float:
        if self._spec.reduction == "sum":
            return 1.0
        if self._spec.name == "dpo":  # its sum runs over pairs, whose weights only mask positions
            return self.group_size / len(self._data)
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
        return torch.from_numpy(joined.astype(dtype)).to(self._device)

    def _inputs(self, batch: list[int], masks: Sequence[np.ndarray]) -> LossInputs:
        present = self._data[batch[0]].loss_fn_inputs
        extra = {n: self._tensor(n, batch, masks) for n in _EXTRA_INPUTS if n in present}
        weights = self._tensor("weights", batch, masks)
        return LossInputs(weights, [int(mask.sum()) for mask in masks], **extra)

    def _scatter(
        self, p: Tensor, batch: list[int], masks: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        values, start, scattered = p.detach().cpu().numpy(), 0, []
        for i, mask in zip(batch, masks, strict=True):
            full = np.full(self._weights[i].shape, np.nan, np.float32)
            count = int(mask.sum())
            full[mask] = values[start : start + count]
            start += count
            scattered.append(full)
        return scattered

    def _user_loss(
        self, function: object, hidden_ND: Tensor, batch: list[int], rows: Sequence[np.ndarray]
    ) -> tuple[Tensor, list[np.ndarray]]:
        """A registered loss, one datum at a time: its logits exist in full only for that long."""
        losses, logprobs = [], []
        for i, index in zip(batch, rows, strict=True):
            logits = self._head.logits(_select(hidden_ND, index))
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


def _select(hidden_ND: Tensor, index: np.ndarray) -> Tensor:
    """Rows by index; neighbours without a copy."""
    if len(index) == 0 or index[-1] - index[0] != len(index) - 1 or (np.diff(index) != 1).any():
        return hidden_ND.index_select(0, torch.from_numpy(index).to(hidden_ND.device))
    return hidden_ND[int(index[0]) : int(index[-1]) + 1]
