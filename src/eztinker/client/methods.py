"""Dresses a client's method in the signature and docstring of the request function it is made from.

So each operation is described once, for the sync and the async client and their ``submit_`` variants, and
``help(client.optim_step)`` shows what an editor shows. Called at class creation only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def dress(method: F, build: Callable[..., Any], *, is_submit: bool = False) -> F:
    """Give ``method`` the name, docstring and parameters of ``build``, after ``self``.

    Args:
        is_submit: the method answers with a handle instead of waiting; name and docstring say so.
    """
    signature = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown: Any = method
    shown.__signature__ = signature.replace(
        parameters=[itself, *signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    shown.__name__ = f"submit_{build.__name__}" if is_submit else build.__name__
    doc = inspect.getdoc(build) or ""
    shown.__doc__ = (
        f"``{build.__name__}`` without waiting: returns a handle.\n\n{doc}" if is_submit else doc
    )
    return method
