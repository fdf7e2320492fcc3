"""An error as plain data: what crosses the boundary to a worker's process and what the log keeps of a failed job.

Knows nothing of what raised it. Made where a job or a start fails, shown by ``api/errors.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Self

from eztinker.errors import EZTinkerError


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An ``EZTinkerError`` as plain data."""

    code: str
    message: str
    category: str = "server"
    field: str | None = None
    details: dict[str, Any] = dataclass_field(default_factory=dict)

    @classmethod
    def of(cls, error: EZTinkerError) -> Self:
        """What there is to say of an error."""
        return cls(error.code, error.message, error.category, error.field, error.details)
