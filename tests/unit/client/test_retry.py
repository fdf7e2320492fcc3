"""When the client asks again, by the clock."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.client.answers import Answer, NoAnswer
from eztinker.client.retry import LONGEST_PAUSE_S, MAX_SERVER_ERRORS, Retry


def answer(status: int, code: str = "x", retry_after: str | None = None) -> Answer:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    body = f'{{"error": {{"code": "{code}", "message": "m"}}}}'.encode()
    return Answer(status, httpx.Headers(headers), body)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_mistakes_of_the_caller_are_final(status):
    assert Retry(deadline_s=100, patience_s=10).pause_after(answer(status), 0) is None


def test_retry_after_is_obeyed_until_the_deadline():
    retry = Retry(deadline_s=100, patience_s=10)
    assert retry.pause_after(answer(429, "busy", "7"), 0) == 7
    assert retry.pause_after(answer(503, "capacity", "90"), 5) == 90
    assert retry.pause_after(answer(429, "busy", "7"), 95) is None


def test_no_room_is_final_although_it_is_a_503():
    for code in ("out_of_memory", "disk_full"):
        assert Retry(deadline_s=100, patience_s=10).pause_after(answer(503, code, "1"), 0) is None


def test_server_errors_are_tried_a_few_times_with_growing_pauses():
    retry = Retry(deadline_s=1000, patience_s=10)
    pauses = [retry.pause_after(answer(500), 0) for _ in range(MAX_SERVER_ERRORS + 1)]
    assert pauses[-1] is None
    waited = [pause for pause in pauses if pause is not None]
    assert len(waited) == MAX_SERVER_ERRORS
    assert waited == sorted(waited)
    assert waited[-1] > 4 * waited[0]


def test_a_refused_connection_is_tried_for_the_patience_only():
    retry, now_s = Retry(deadline_s=1000, patience_s=5), 100.0
    while (pause_s := retry.pause_after(NoAnswer("unreachable"), now_s)) is not None:
        assert pause_s > 0
        now_s += pause_s
    assert 104 < now_s <= 105


def test_patience_begins_anew_after_an_answer():
    retry = Retry(deadline_s=1000, patience_s=1)
    assert retry.pause_after(NoAnswer("unreachable"), 0) is not None
    assert retry.pause_after(answer(503), 0.5) is not None
    assert retry.pause_after(NoAnswer("unreachable"), 10) is not None
    assert retry.pause_after(NoAnswer("unreachable"), 12) is None


def test_a_broken_connection_is_tried_again_at_once():
    assert Retry(deadline_s=100, patience_s=0).pause_after(NoAnswer("broken"), 0) == 0


@given(
    st.lists(st.sampled_from([429, 500, 503, 502]), max_size=30),
    st.floats(0, 50, allow_nan=False),
)
def test_pauses_never_pass_the_deadline_or_the_bound(statuses, deadline_s):
    retry, now_s = Retry(deadline_s=deadline_s, patience_s=5), 0.0
    for status in statuses:
        pause_s = retry.pause_after(answer(status), now_s)
        if pause_s is None:
            break
        now_s += pause_s
        assert now_s < deadline_s
        assert pause_s <= LONGEST_PAUSE_S * 1.2
