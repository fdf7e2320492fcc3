"""An error as plain data: what crosses the boundary to a worker's process and what the log keeps of a failed job.

Knows nothing of what raised it. Made where a job or a start fails, raised again where someone waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Self

from eztinker.errors import EZTinkerError, error_from_code


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

    def as_error(self) -> EZTinkerError:
        """The error again, to be raised."""
        return error_from_code(
            self.code,
            self.message,
            category=self.category,
            field=self.field,
            details=self.details,
        )
