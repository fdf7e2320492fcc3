"""A resource of the service as one principal sees it.

Every resource (runs, jobs, checkpoints, …) is a ``View``. The server's own sees all; a route gets one
that is bound to whoever asks, so that no route can forget to check whose a thing is.
"""

from __future__ import annotations

import copy
from typing import Self

from eztinker.types.principal import LOCAL, Principal


class View:
    """Base of resources: whom it serves.

    Attributes:
        principal: on whose behalf it acts; what this one may not see does not exist here.
    """

    principal: Principal = LOCAL

    def seen_by(self, principal: Principal) -> Self:
        """The same resource, for another principal; everything but the principal is shared."""
        view = copy.copy(self)
        view.principal = principal
        return view
