"""The bytes of single tokens: how a vocabulary spells them, undone.

Byte-level vocabularies (GPT-2, Qwen) write each byte as a printable character, SentencePiece ones write a
blank as a low line and bytes without a piece as ``<0xE4>``. Made by ``tokenizer.py``.
"""

from __future__ import annotations

import re

import tokenizers

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>\Z")
_BLANK = "\u2581"


class TokenPieces:
    """Bytes of the tokens of one backend."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._added = {
            token_id: token.content
            for token_id, token in backend.get_added_tokens_decoder().items()
        }
        self._is_byte_level = "ByteLevel" in repr(backend.decoder)

    def bytes_of(self, token_id: int) -> bytes:
        """Bytes of a token; none for an id without one."""
        if token_id in self._added:
            return self._added[token_id].encode("utf-8")
        piece = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._is_byte_level:
            return b"".join(_BYTES.get(char, char.encode("utf-8")) for char in piece)
        byte = _BYTE_PIECE.match(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace(_BLANK, " ").encode("utf-8")


def _byte_alphabet() -> dict[str, bytes]:
    """The character that stands for each byte: itself if it can be seen, else one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    chars = {chr(byte): bytes([byte]) for byte in seen}
    return chars | {chr(256 + place): bytes([byte]) for place, byte in enumerate(unseen)}


_BYTES = _byte_alphabet()
