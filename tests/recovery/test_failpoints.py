"""Die at every named place, under every kind of request; nobody may be able to tell.

The script of requests is played against a server that ends at the N-th pass of a place and is started
again. Every answer must equal an undisturbed server's, bit by bit, and the jobs must be the same ones,
each once. ``--failpoints 0`` walks all places for N = 1, 2, … until one is no longer reached.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import InvalidRequestError
from eztinker.failpoints import POINTS, WORKER_POINTS, arm
from tests.recovery.requests_script import STEPS, play
from tests.recovery.server_process import ServerProcess

SAMPLE = (("commit.before", 4), ("rename.after", 1), ("event.before", 4), ("answer.before", 3))
"""What CI dies at: an optimizer step's log, a snapshot's name, a worker's word, an answer."""

CONFIG = "replay_budget_s: 0\nsnapshot_cost_share: 1.0\n"
"""A snapshot after each optimizer step."""


class Disturbed:
    """One play of the script with one death in it.

    Attributes:
        answers: what the client was told.
        died_under: the kind of request at which it happened; None if the place was not reached.
    """

    def __init__(self, folder: Path, failpoint: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "eztinker.yaml").write_text(CONFIG, encoding="utf-8")
        self._server = ServerProcess(folder, "--config", str(folder / "eztinker.yaml"))
        self._failpoint = failpoint
        self._kind = "start"
        self.died_under: str | None = None
        self.answers: list[Any] = []
        self._play()

    def _play(self) -> None:
        self._server.start(failpoint=self._failpoint)
        over = threading.Event()
        nurse = threading.Thread(target=self._revive, args=(over,), daemon=True)
        nurse.start()
        try:
            with EZTinkerClient(self._server.url, timeout=120) as client:
                client.health()  # a client that has heard of the server waits for its return
                self.answers = play(client, self._begun)
                health = client.health()
                assert health["replay_differences"] == 0, self._server.log()
                if health["worker_restarts"] and self.died_under is None:
                    self.died_under = "any"
        finally:
            over.set()
            nurse.join(timeout=60)
            self._server.close()

    def _begun(self, kind: str) -> None:
        self._kind = kind

    def _revive(self, over: threading.Event) -> None:
        """Start the server again when it has died, without the failpoint."""
        while not over.wait(0.01):
            if not self._server.is_alive:
                self.died_under = self._kind
                self._server.start()
                return


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return Disturbed(tmp_path_factory.mktemp("undisturbed")).answers


def _places(count: int, reached: dict[str, bool]) -> Iterator[tuple[str, int]]:
    """The sample, or every place with growing N for as long as it is reached."""
    if count:
        yield from SAMPLE[:count]
        return
    for name in POINTS:
        for number in itertools.count(1):
            reached[name] = False
            yield name, number
            if not reached[name]:
                break


@pytest.mark.timeout(4 * 3600)
def test_a_death_at_any_place_is_not_seen(
    tmp_path: Path, undisturbed: list[Any], num_failpoints: int
) -> None:
    reached: dict[str, bool] = {}
    deaths: Counter[tuple[str, str]] = Counter()
    for name, number in _places(num_failpoints, reached):
        folder = tmp_path / f"{name}-{number}"
        disturbed = Disturbed(folder, f"{name}:{number}")
        assert disturbed.answers == undisturbed, f"{name}:{number}"
        shutil.rmtree(folder)
        if disturbed.died_under is not None:
            reached[name] = True
            deaths[name, disturbed.died_under] += 1
    print("deaths by place and request:", dict(deaths))
    if num_failpoints:
        assert deaths.total() == num_failpoints
        return
    assert {name for name, _ in deaths} == set(POINTS)
    kinds = {kind for kind, _ in STEPS} - {"count"}
    of_server = {kind for name, kind in deaths if name not in WORKER_POINTS}
    assert kinds <= of_server, f"no death under {kinds - of_server}"


@pytest.mark.parametrize("value", ["commit", "commit.before:0", "nowhere:1", "commit.before:x"])
def test_a_failpoint_that_does_not_exist_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected NAME:N"):
        arm({"EZTINKER_FAILPOINT": value})
    assert not arm({})
