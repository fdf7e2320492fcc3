"""The text of an answer while its tokens arrive, and what each token is in bytes.

Gives out only what later tokens cannot change: no half character, nothing that may be the beginning of a
stop string. Special tokens have no text in an answer, but stop strings are looked for where the sampler looks,
in the text with them. Put together, the pieces are the text of the whole answer. Knows no wire; the OpenAI
wire uses it for streams and whole answers alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from eztinker.rendering.stops import validate_stop
from eztinker.rendering.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_MAX_UNSURE = 3
"""Bytes of an unfinished character in UTF-8; each may show as one replacement character."""
_CONTEXT_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """What one more token has settled.

    Attributes:
        text: to append to the answer.
        num_tokens: tokens that belong to the answer by now and did not before.
    """

    text: str = ""
    num_tokens: int = 0


@dataclass(slots=True)
class _Unit:
    """Text that became whole at once: as the sampler sees it, as the reader does, of how many tokens."""

    full: str
    visible: str
    num_tokens: int


class AnswerText:
    """Text of one answer.

    Args:
        tokenizer: of the model.
        stop: stop strings; the answer ends before the first of them.
        end_ids: tokens that end generation and are no part of the answer when they do.
        prompt_tokens: what the answer continues, where a blank between the two matters; empty for a chat.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        end_ids: Collection[int] = (),
        prompt_tokens: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = validate_stop(stop)
        self._end_ids = frozenset(end_ids)
        self._window = list(prompt_tokens)
        context, visible = self._shorten()
        self._num_full = len(context) - min(_num_trailing(context), _MAX_UNSURE)
        self._num_visible = len(visible) - min(_num_trailing(visible), _MAX_UNSURE)
        self._num_unread = 0
        self._units: list[_Unit] = []
        self._withheld: int | None = None
        self._is_cut = False

    def push(self, tokens: Sequence[int]) -> Piece:
        """Add tokens, one or several."""
        if len(tokens) > 1 and self._read_together(tokens):
            return self._release(is_last=False)
        pieces = [self._push_one(token) for token in tokens]
        return Piece("".join(p.text for p in pieces), sum(p.num_tokens for p in pieces))

    def finish(self, *, stopped: bool) -> Piece:
        """The rest, when no token will come.

        Args:
            stopped: generation ended by itself; an end token that came last is no text then.
        """
        if self._is_cut:
            return Piece()
        if self._withheld is not None and not stopped:
            self._read(self._withheld)
        self._withheld = None
        self._take_unit(*self._texts(), num_unsure=0)
        return self._release(is_last=True)

    def _push_one(self, token: int) -> Piece:
        if self._is_cut:
            return Piece()
        if self._withheld is not None:
            self._read(self._withheld)
        self._withheld = token if token in self._end_ids else None
        if self._withheld is None:
            self._read(token)
        return self._release(is_last=False)

    def _read_together(self, tokens: Sequence[int]) -> bool:
        """Read tokens at one time; False, with nothing read, where it matters what each of them adds.

        That is so with stop strings, with a token that may end the answer, and with broken characters.
        """
        if self._stop or self._withheld is not None or not self._end_ids.isdisjoint(tokens):
            return False
        self._window += tokens
        full, visible = self._texts()
        if full.find(_REPLACEMENT, self._num_full) >= 0 or (
            visible is not full and visible.find(_REPLACEMENT, self._num_visible) >= 0
        ):
            del self._window[-len(tokens) :]
            return False
        self._num_unread += len(tokens)
        self._take_unit(full, visible, num_unsure=0)
        return True

    def _read(self, token: int) -> None:
        self._window.append(token)
        self._num_unread += 1
        # More tokens than a character has bytes: what is broken before the last ones stays broken. With
        # fewer, one wrong byte may spoil all before it for a moment, in vocabularies that spell bytes.
        is_broken = self._num_unread > _MAX_UNSURE
        num_unsure = _MAX_UNSURE if is_broken else len(self._window) * _MAX_UNSURE
        self._take_unit(*self._texts(), num_unsure=num_unsure)

    def _take_unit(self, full: str, visible: str, num_unsure: int) -> None:
        """Move what has become whole text from the window, whose texts are given, into a unit."""
        end = len(full) - min(_num_trailing(full), num_unsure)
        # A special token inside a character breaks it in the one text and not in the other.
        visible_end = len(visible) - min(_num_trailing(visible), num_unsure)
        is_whole = end == len(full) and visible_end == len(visible)
        if end <= self._num_full and not (is_whole and self._num_unread):
            return
        texts = full[self._num_full : end], visible[self._num_visible : visible_end]
        self._units.append(_Unit(*texts, self._num_unread if is_whole else 0))
        self._num_full, self._num_visible = end, max(self._num_visible, visible_end)
        if is_whole:
            self._forget()

    def _forget(self) -> None:
        """Keep the last tokens only, so that a long answer is not decoded again and again."""
        self._num_unread = 0
        if len(self._window) > 3 * _CONTEXT_TOKENS:
            full, visible = self._shorten()
            self._num_full, self._num_visible = len(full), len(visible)

    def _shorten(self) -> tuple[str, str]:
        """Leave a few tokens, from the beginning of a character on; their texts."""
        window, texts = self._window, ("", "")
        for num_kept in range(_CONTEXT_TOKENS, _CONTEXT_TOKENS + _MAX_UNSURE + 1):
            self._window = window[-num_kept:]
            texts = self._texts()
            if not texts[0].startswith(_REPLACEMENT):
                break
        return texts

    def _release(self, *, is_last: bool) -> Piece:
        """Units that are no part of a stop string, whatever comes."""
        pending = "".join(unit.full for unit in self._units) if self._stop else ""
        cut = min((at for at in map(pending.find, self._stop) if at >= 0), default=None)
        if cut is not None:
            return self._end_at(cut)
        num_kept, num_held = 0, 0 if is_last else self._num_held(pending)
        while num_held > 0:
            num_kept += 1
            num_held -= len(self._units[-num_kept].full)
        settled = self._units[: len(self._units) - num_kept]
        del self._units[: len(settled)]
        return Piece("".join(u.visible for u in settled), sum(u.num_tokens for u in settled))

    def _num_held(self, pending: str) -> int:
        """Length of the longest end of the text that a stop string may begin with."""
        return max(
            (
                length
                for stop in self._stop
                for length in range(1, min(len(stop), len(pending) + 1))
                if pending.endswith(stop[:length])
            ),
            default=0,
        )

    def _end_at(self, cut: int) -> Piece:
        self._is_cut = True
        text, num_tokens = "", 0
        for unit in self._units:
            if cut <= 0:
                break
            is_whole = len(unit.full) <= cut
            text += unit.visible if is_whole else unit.full[:cut]
            num_tokens += unit.num_tokens
            cut -= len(unit.full)
        return Piece(text, num_tokens)

    def _texts(self) -> tuple[str, str]:
        """Of the window: as the sampler sees it, and as the reader does; often one and the same."""
        full = self._tokenizer.decode(self._window, skip_special_tokens=False)
        if self._tokenizer.special_ids.isdisjoint(self._window):
            return full, full
        return full, self._tokenizer.decode(self._window, skip_special_tokens=True)


def _num_trailing(text: str) -> int:
    """Replacement characters at the end, which a further byte may turn into a character."""
    return len(text) - len(text.rstrip(_REPLACEMENT))
