"""Die at every named place, under every kind of request; nobody may be able to tell.

The script of requests is played against a server that ends at the N-th pass of a place and is started
again. Every answer must equal an undisturbed server's, bit by bit, and the jobs must be the same ones,
each once. ``--failpoints 0`` walks all places for N = 1, 2, … until one is no longer reached: those of
the server with a worker of arithmetic, those of the worker with the real one.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import InvalidRequestError
from eztinker.failpoints import SERVER_POINTS, WORKER_POINTS, arm
from tests.recovery.requests_script import STEPS, play
from tests.recovery.server_process import ServerProcess

SAMPLE = (("commit.before", 5), ("commit.after", 6), ("rename.after", 1), ("answer.before", 3))
"""What CI dies at: a step's log, its result, a snapshot's name, an answer."""

CONFIG = "replay_budget_s: 0\nsnapshot_cost_share: 1.0\n"
"""A snapshot after each optimizer step."""


class Disturbed:
    """One play of the script with one death in it.

    Args:
        is_fake: whether the worker is arithmetic.

    Attributes:
        answers: what the client was told.
        died_under: the kind of request at which it happened; None if the place was not reached.
    """

    def __init__(self, folder: Path, is_fake: bool, failpoint: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "eztinker.yaml").write_text(CONFIG, encoding="utf-8")
        config = str(folder / "eztinker.yaml")
        self._server = ServerProcess(folder, "--config", config, has_fake_worker=is_fake)
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


def _walk(
    folder: Path, is_fake: bool, points: Iterable[str], num_failpoints: int
) -> Counter[tuple[str, str]]:
    """Die at each place; how often that happened by place and kind of request.

    Args:
        num_failpoints: so many of the sample; 0 for every place, for as long as it is reached.
    """
    undisturbed = Disturbed(folder / "undisturbed", is_fake).answers
    deaths: Counter[tuple[str, str]] = Counter()

    def is_survived(name: str, number: int) -> bool:
        place = folder / f"{name}-{number}"
        disturbed = Disturbed(place, is_fake, f"{name}:{number}")
        assert disturbed.answers == undisturbed, f"{name}:{number}"
        shutil.rmtree(place)
        if disturbed.died_under is not None:
            deaths[name, disturbed.died_under] += 1
            print(f"{name}:{number} under {disturbed.died_under}", flush=True)
        return disturbed.died_under is not None

    if num_failpoints:
        assert all(is_survived(*place) for place in SAMPLE[:num_failpoints])
    else:
        for name in points:
            assert is_survived(name, 1), f"{name} is never reached"
            for number in itertools.count(2):
                if not is_survived(name, number):
                    break
    print(f"{deaths.total()} deaths by place and request:", dict(deaths))
    return deaths


@pytest.mark.timeout(4 * 3600)
def test_a_death_of_the_server_at_any_place_is_not_seen(
    tmp_path: Path, num_failpoints: int
) -> None:
    deaths = _walk(tmp_path, True, SERVER_POINTS, num_failpoints)
    if not num_failpoints:
        kinds = {kind for kind, _ in STEPS} - {"count"}
        assert kinds <= {kind for _, kind in deaths}


@pytest.mark.timeout(4 * 3600)
def test_a_death_of_the_worker_at_any_place_is_not_seen(
    tmp_path: Path, num_failpoints: int
) -> None:
    if num_failpoints:
        pytest.skip("worker deaths at places are part of `make recovery` (--failpoints 0)")
    _walk(tmp_path, False, WORKER_POINTS, 0)


@pytest.mark.parametrize("value", ["commit", "commit.before:0", "nowhere:1", "commit.before:x"])
def test_a_failpoint_that_does_not_exist_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError, match="expected NAME:N"):
        arm({"EZTINKER_FAILPOINT": value})
    assert not arm({})
