"""Stop strings: says after which token the generated text first contains one, and cuts the text there.

Works on one sequence as it grows and decodes only as many tokens as the longest stop string can span.
It knows no stop token ids and no sampler; the sampling loop pushes each new token, and whoever builds the
answer cuts the final text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from eztinker.errors import InvalidRequestError

# A window may begin inside a character (at most three further bytes in UTF-8) or lose the space before
# its first word; these extra tokens keep such damage out of the part that is compared.
_CONTEXT_TOKENS = 4


class Decoder(Protocol):
    """What is needed of a tokenizer here."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; those at or above it have no text."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        ...


def validate_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Stop strings as a tuple; a single string is one of them.

    Raises:
        InvalidRequestError: something that is not text, or an empty string (it is in every text).
    """
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    for string in strings:
        if not isinstance(string, str) or not string:
            raise InvalidRequestError(
                f"stop must hold non-empty strings, got {string!r}. Leave it out to stop at the end token.",
                field="stop",
            )
    return strings


class StopStringMatcher:
    """Watches one generated sequence for stop strings.

    Special tokens count as the text they are written as, so ``stop=["<|im_end|>"]`` works. The text
    starts with the first pushed token: a stop string never reaches back into the prompt.

    Every token has at least one byte of text, hence a stop string of ``B`` bytes lies within the last
    ``B`` tokens, however characters are spread over tokens.

    Attributes:
        matched: True once a stop string was seen; it stays True.
    """

    def __init__(self, tokenizer: Decoder, stop: str | Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = validate_stop(stop)
        self._vocab_size = tokenizer.vocab_size
        longest = max((len(s.encode("utf-8", "replace")) for s in self._stop), default=0)
        self._window: deque[int] = deque(maxlen=longest + _CONTEXT_TOKENS)
        self.matched = False

    def push(self, token_id: int) -> bool:
        """Add the next token; True when the text so far contains a stop string."""
        if self.matched or not self._stop:
            return self.matched
        if 0 <= token_id < self._vocab_size:  # padded rows of an embedding have no text
            self._window.append(token_id)
            text = self._tokenizer.decode(list(self._window), skip_special_tokens=False)
            self.matched = any(string in text for string in self._stop)
        return self.matched


def cut_at_stop(text: str, stop: str | Sequence[str]) -> str:
    """Text before the earliest stop string; all of it when there is none."""
    ends = [text.find(string) for string in validate_stop(stop)]
    return text[: min((end for end in ends if end >= 0), default=len(text))]
