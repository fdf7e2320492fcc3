"""Accounts: keys, the owners behind them, and who a request comes from.

A key is shown once, when it is made; afterwards only its digest is known. All keys are held in memory,
so that telling who asks reads no disk. Without any key there is one local owner who may do everything,
as long as only this machine can ask. Called by the API's gate and by ``routes/keys.py``; the CLI calls
``AccountsFile`` where no server runs.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from eztinker.config import ServerConfig
from eztinker.errors import AuthError, ConflictError, InvalidRequestError, UserError
from eztinker.ids import check_name
from eztinker.store import keys
from eztinker.store.database import Database
from eztinker.types.principal import LOCAL, NOBODY, SCOPES, Principal, Scope
from eztinker.types.records import KeyRecord

PREFIX = "tml-"
"""What the Tinker SDK demands that a key begins with."""
_ID_LENGTH = 8
_SECRET_BYTES = 32
_NO_DIGEST = hashlib.sha256(b"").hexdigest()
SIGNED_S = 24 * 3600
"""How long an address holds that was given out."""
_EVERYONES = "*"
MAX_LIFE_S = 100 * 365 * 86400
INSECURE_WARNING = (
    "This server asks for no key and answers other machines (--insecure): whoever reaches it may "
    "train, read and delete everything. Make a key with 'eztinker keys create'."
)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Accounts:
    """Keys of a server.

    Attributes:
        local_key: a key of this life of the server, for who may read its state folder.
    """

    def __init__(self, config: ServerConfig, database: Database) -> None:
        self._config = config
        self._database = database
        self._keys: dict[str, KeyRecord] = {}
        # What an idempotency key has made in this life: requests are repeated within seconds.
        self._made: dict[str, str] = {}
        self.local_key = _new_key(secrets.token_hex(_ID_LENGTH // 2))
        self._local_digest = _digest(self.local_key)
        self._signing_secret = secrets.token_bytes(_SECRET_BYTES)

    async def load(self) -> None:
        """Read the keys.

        Raises:
            UserError: code ``no_key``, other machines could ask and nobody needs a key.
        """
        self._keys = {key.key_id: key for key in await self._database.read(keys.list_keys)}
        if self.is_open and not self._is_private and not self._config.insecure:
            raise UserError(
                f"host: {self._config.host} can be reached from other machines, and there is no key. Make one "
                "with 'eztinker keys create NAME', listen on 127.0.0.1, or let everyone in with --insecure.",
                code="no_key",
                field="host",
            )

    @property
    def _is_private(self) -> bool:
        return is_loopback(self._config.host)

    @property
    def is_open(self) -> bool:
        """Whether there is no key, so that none is needed on this machine."""
        return all(key.revoked_at_s is not None for key in self._keys.values())

    @property
    def warnings(self) -> list[str]:
        """What whoever runs the server should know."""
        open_to_all = self.is_open and not self._is_private and self._config.insecure
        return [INSECURE_WARNING] if open_to_all else []

    def principal(self, key: str | None) -> Principal:
        """Who shows ``key``; takes the same time for every wrong one.

        Raises:
            AuthError: code ``unauthorized`` (wrong, revoked) or ``key_expired``.
        """
        if key is None:
            return self._without_key()
        digest = _digest(key)
        found = self._keys.get(key[len(PREFIX) : len(PREFIX) + _ID_LENGTH])
        is_right = hmac.compare_digest(digest, found.digest if found else _NO_DIGEST)
        if hmac.compare_digest(digest, self._local_digest):
            return LOCAL
        if found is None or not is_right or found.revoked_at_s is not None:
            # Without keys there is nothing to be wrong about: the SDK always sends some key.
            return self._without_key(came="an unknown or revoked key")
        if found.expires_at_s is not None and found.expires_at_s <= time.time():
            raise AuthError(
                f"Key {found.key_id} has expired. Ask for a new one (eztinker keys create).",
                code="key_expired",
            )
        return Principal(found.owner, frozenset((*found.scopes, "read")), found.key_id)

    def sign(self, path: str, principal: Principal) -> str:
        """A text that opens one path for reading, for those who cannot send a header.

        The SDK's command line fetches files by plain addresses. It holds for a day, and for this life of
        the server.
        """
        who = _EVERYONES if principal.sees_all else principal.owner
        claim = f"{int(time.time()) + SIGNED_S}:{who}"
        return f"{claim}:{self._signature(path, claim)}"

    def signed_principal(self, path: str, signed: str) -> Principal:
        """Who was given ``signed`` for this path.

        Raises:
            AuthError: it is not ours, is for another path, or its time is over.
        """
        claim, _, signature = signed.rpartition(":")
        expires, _, who = claim.partition(":")
        if not hmac.compare_digest(signature.encode(), self._signature(path, claim).encode()):
            raise unauthorized("an address that this server did not give out")
        if int(expires) <= time.time():
            raise AuthError("This address has expired. Ask for a new one.", code="key_expired")
        scopes = frozenset({"admin"} if who == _EVERYONES else {"read"})
        return Principal("" if who == _EVERYONES else who, scopes, "signed")

    def _signature(self, path: str, claim: str) -> str:
        text = f"{path}\n{claim}".encode("utf-8", "replace")
        return hmac.new(self._signing_secret, text, hashlib.sha256).hexdigest()

    def _without_key(self, came: str = "none") -> Principal:
        if self.is_open and (self._is_private or self._config.insecure):
            return LOCAL
        if came == "none":
            return NOBODY
        raise unauthorized(came)

    async def create(
        self,
        name: str,
        *,
        owner: str | None = None,
        scopes: Iterable[str] = ("train", "sample"),
        expires_in_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key; returns what is remembered of it, and the key itself.

        Args:
            owner: whose things it reaches; None takes ``name``.
            expires_in_s: how long it works; None for ever.
            idempotency_key: the same again makes no second key.

        Raises:
            ConflictError: code ``idempotency_key_reused``; a key cannot be shown a second time.
            InvalidRequestError: a name, scope or time does not fit.
        """
        self._refuse_repeated(idempotency_key)
        owner = owner or name
        for field, value in (("name", name), ("owner", owner)):
            check_name(value, field=field)
        now_s = time.time()
        key_id = self._free_id()
        key = _new_key(key_id)
        record = KeyRecord(
            key_id=key_id,
            name=name,
            owner=owner,
            scopes=_checked_scopes(scopes),
            digest=_digest(key),
            created_at_s=now_s,
            expires_at_s=None if expires_in_s is None else now_s + _checked_life(expires_in_s),
        )
        await self._database.write(lambda connection: keys.insert_key(connection, record))
        self._keys[key_id] = record
        if idempotency_key is not None:
            self._made[idempotency_key] = key_id
        return record, key

    def _refuse_repeated(self, idempotency_key: str | None) -> None:
        made = self._made.get(idempotency_key or "")
        if made is not None:
            raise ConflictError(
                f"An earlier copy of this request made key {made}, and a key is shown only once. Revoke that one "
                "and make another.",
                code="idempotency_key_reused",
                field="Idempotency-Key",
            )

    def list(self) -> list[KeyRecord]:
        """All keys, revoked ones included, oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.created_at_s, key.key_id))

    async def revoke(self, key_id: str) -> KeyRecord:
        """Take a key back; from now on it is refused.

        With the last one, a server that only this machine reaches has its local owner again; one that
        others reach lets nobody in but those who may read its state folder.

        Raises:
            NotFoundError: code ``key_not_found``.
        """
        record = await self._database.write(
            lambda connection: keys.revoke_key(connection, key_id, time.time())
        )
        self._keys[key_id] = record
        return record

    def _free_id(self) -> str:
        while (key_id := secrets.token_hex(_ID_LENGTH // 2)) in self._keys:
            continue
        return key_id


def unauthorized(came: str) -> AuthError:
    """What is said to who shows no valid key."""
    return AuthError(
        f"This server needs a key: expected one in the header X-API-Key or Authorization: Bearer, got {came}. "
        "Whoever runs the server makes one with 'eztinker keys create'."
    )


def _new_key(key_id: str) -> str:
    return f"{PREFIX}{key_id}{secrets.token_urlsafe(_SECRET_BYTES)}"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _checked_scopes(scopes: Iterable[str]) -> tuple[Scope, ...]:
    wanted = set(scopes)
    unknown = sorted(wanted.difference(SCOPES))
    if unknown or not wanted:
        got = repr(unknown[0][:64]) if unknown else "none"
        raise InvalidRequestError(
            f"scopes: expected some of {', '.join(SCOPES)}, got {got}.", field="scopes"
        )
    return tuple(scope for scope in SCOPES if scope in wanted)


def _checked_life(expires_in_s: float) -> float:
    if not 0 < expires_in_s <= MAX_LIFE_S:
        raise InvalidRequestError(
            f"expires_in_s: expected more than 0 and at most {MAX_LIFE_S} seconds, got {expires_in_s:g}.",
            field="expires_in_s",
        )
    return expires_in_s


class AccountsFile:
    """Keys of a state folder that no server uses: ``async with AccountsFile(folder) as accounts``.

    Raises:
        ConflictError: code ``state_in_use``, a server does use it; ask that one.
    """

    def __init__(self, state_dir: Path) -> None:
        self._database = Database(state_dir)
        self._accounts = Accounts(
            ServerConfig.model_validate({"state_dir": state_dir}), self._database
        )

    async def __aenter__(self) -> Accounts:
        self._database.open()
        await self._accounts.load()
        return self._accounts

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()
