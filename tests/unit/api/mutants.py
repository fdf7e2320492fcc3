"""Requests beside a generated one: a value exchanged, a name added or taken away, a text cut or spoiled.

To draw a request from a schema costs many times what it costs to answer it, so each one is sent with a few
relatives. Knows no schema: whether a relative is allowed is for the server to say.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, -(2**70), 0.5, 1e308, "", "nano", "a" * 300, "../x", "\x00"),
    *("1", "NaN", "é\u202e", [], {}, [[]], [None], {"": {}}, [0] * 300, [[[[[[[[1]]]]]]]]),
)


def bodies(body: Any, names: Sequence[str], chance: Random, number: int) -> list[bytes]:
    """So many relatives of a JSON body, as sent.

    Args:
        names: that mean something somewhere.
    """
    return [_spoiled(_changed(body, names, chance), chance) for _ in range(number)]


def queries(params: dict[str, Any], chance: Random, number: int) -> list[dict[str, str]]:
    """So many relatives of a query; how long to wait is left as it was."""
    found = []
    for _ in range(number):
        relative = {name: str(value) for name, value in params.items()}
        chosen = [name for name in relative if name != "wait"] + ["limit", "offset", "status"]
        relative[chance.choice(chosen)] = str(chance.choice(VALUES))[:100]
        found.append(relative)
    return found


def _changed(body: Any, names: Sequence[str], chance: Random) -> Any:
    body = copy.deepcopy(body)
    for _ in range(chance.choice((1, 1, 2))):
        place = _somewhere(body, chance)
        if not place:
            return _value(chance)
        if isinstance(place, list):
            place[chance.randrange(len(place))] = _value(chance)
            continue
        name = chance.choice(list(place))
        match chance.randrange(4):
            case 0:
                del place[name]
            case 1:
                place[chance.choice(names)] = _value(chance)
            case _:
                place[name] = _value(chance)
    return body


def _somewhere(body: Any, chance: Random) -> Any:
    """A container in the body that holds something; the body itself if that is none."""
    here = body
    while isinstance(here, (dict, list)) and here:
        inner = [v for v in (here.values() if isinstance(here, dict) else here) if v]
        inner = [value for value in inner if isinstance(value, (dict, list))]
        if not inner or chance.random() < 0.4:
            return here
        here = chance.choice(inner)
    return here if isinstance(here, (dict, list)) else None


def _spoiled(body: Any, chance: Random) -> bytes:
    text = json.dumps(body).encode()
    match chance.randrange(12):
        case 0:
            return text[: chance.randrange(len(text) + 1)]
        case 1:
            at = chance.randrange(len(text) + 1)
            return text[:at] + chance.randbytes(chance.randrange(1, 4)) + text[at:]
    return text


def _value(chance: Random) -> Any:
    return copy.deepcopy(chance.choice(VALUES))
