"""The program ``eztinker`` with the fake worker: a whole server that starts without torch.

``python -m tests.recovery.fake_server server …`` as ``eztinker server …``. For tests that end the
server's process hundreds of times and do not ask what the worker does.
"""

from __future__ import annotations

from eztinker import launch
from eztinker.cli.main import run
from tests.unit.engine.fake_worker import World

if __name__ == "__main__":
    world = World()
    launch.make_executor_factory = lambda _config: world.make_executor
    run()
