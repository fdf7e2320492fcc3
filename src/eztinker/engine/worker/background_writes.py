"""States that are written to disk while work goes on.

States are immutable, so a thread writes the one of the moment the command came. Knows no queue; called by
``ordered_work.py`` and, at the end, ``worker.py``.
"""

from __future__ import annotations

import threading

from eztinker.engine.worker import jobs
from eztinker.engine.worker.outbox import Outbox
from eztinker.engine.worker.residents import Residents
from eztinker.types.commands import WriteState


class BackgroundWrites:
    """Threads that write snapshots.

    Args:
        residents: whose runs are written.
        outbox: takes the answers, from the writing threads.
    """

    def __init__(self, residents: Residents, outbox: Outbox) -> None:
        self._residents = residents
        self._outbox = outbox
        self._threads: list[threading.Thread] = []

    def start(self, command: WriteState) -> jobs.Job:
        """Begin to write the run's present state; the answer comes from a thread."""
        frozen = Residents(self._residents.settings, self._residents.device)
        frozen.runs = dict(self._residents.runs)
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._write, args=(frozen, command), name=f"write {command.run_id}", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return None
        yield

    def join(self) -> None:
        """Wait for all that was begun."""
        for thread in self._threads:
            thread.join()

    def _write(self, frozen: Residents, command: WriteState) -> None:
        try:
            next(jobs.run_write_state(frozen, command))
        except StopIteration as stop:
            self._outbox.send(stop.value)
        except Exception as error:
            self._outbox.fail(command.job_id, error)
