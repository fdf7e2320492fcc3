"""Whether a server speaks the Tinker protocol: checks that anyone can point at any server.

Speaks the protocol as bytes over HTTP, with no SDK and no part of our own server, so that it tells
nothing but what a client would notice.
"""

from eztinker.conformance.runner import Outcome, run_checks

__all__ = ["Outcome", "run_checks"]
