"""What each loss asks for: its inputs and settings, by name, without a tensor.

The formulas live in ``ops/losses.py``, which must implement every name here (a test compares the two
tables); ``service/admission.py`` refuses a request by this table before it is logged.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LossSignature:
    """Inputs and settings of a loss.

    Attributes:
        required: inputs every datum must carry beside ``target_tokens``.
        optional: inputs a datum may carry.
        config: setting -> default; a None default means that the caller must give it.
        group_size: data are taken in groups of so many that must stay together (2: chosen, rejected).
        many_targets: whether ``target_tokens`` may be [T, K].
    """

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ("weights",)
    config: dict[str, float | None] = field(default_factory=dict)
    group_size: int = 1
    many_targets: bool = False


_POLICY = ("logprobs", "advantages")

LOSSES: dict[str, LossSignature] = {
    "cross_entropy": LossSignature(many_targets=True),
    "weighted_cross_entropy": LossSignature(required=("weights",), optional=()),
    "focal_loss": LossSignature(config={"focal_alpha": 1.0, "focal_gamma": 2.0}),
    "importance_sampling": LossSignature(required=_POLICY),
    "ppo": LossSignature(
        required=_POLICY, config={"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    ),
    "cispo": LossSignature(
        required=_POLICY, config={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}
    ),
    "dro": LossSignature(required=_POLICY, config={"beta": 0.05}),
    "gspo": LossSignature(
        required=(*_POLICY, "sequence_ratio_mask"),
        config={"clip_low_threshold": 0.9997, "clip_high_threshold": 1.0004},
    ),
    "dpo": LossSignature(required=("logprobs",), config={"beta": 0.1}, group_size=2),
}
"""``dpo`` takes data in pairs (chosen, rejected); their ``logprobs`` are the reference model's."""
