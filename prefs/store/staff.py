"""People of a brand who sign in, their sessions, and how often somebody may try.

Passwords are kept by argon2id (RFC 9106); a session's token is kept as a hash only.
"""

from __future__ import annotations

import hashlib
import secrets
from enum import StrEnum
from typing import Any, NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import Connection, delete, func, insert, select, update

from prefs.core.errors import BadInput, NotFound
from prefs.core.keys import Keyring
from prefs.core.signals import Identifier
from prefs.store.counters import next_numbers
from prefs.store.schema import attempts, sessions, staff

SESSION_LASTS = 8 * 3600.0
LEAST_PASSWORD = 12
"""Characters. Long rather than odd (NIST SP 800-63B section 5.1.1.2)."""
WINDOW = 15 * 60.0
TRIES = 5
"""For one address within the window; from one network address four times as many."""
TRIES_FROM = 20

_hasher = PasswordHasher()
_NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=4$k6nQuiBRBtF7aCWH5YC9lg"
    "$Cjw5SF0NxllrAZOFi1oJ8hd65Qvt7iFH4Fd+EP8Z+Cs"
)
"""Checked where nobody is known by an address, so that it takes as long. Of a random text that
nobody kept: to make one at each start would take a tenth of a second."""


class Role(StrEnum):
    RECEPTION = "reception"
    MANAGER = "manager"
    OWNER = "owner"

    def covers(self, other: Role) -> bool:
        """An owner may do what a manager may, and a manager what reception may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Member(NamedTuple):
    id: str
    brand: str
    email: str
    role: Role
    has_totp: bool


# --- people ------------------------------------------------------------------------------------


def add(
    conn: Connection,
    keys: Keyring,
    brand: str,
    address: Identifier,
    role: Role,
    password: str,
    now: float,
) -> str:
    """Returns the id; `password` is `hashed`. Raises BadInput for an address that is known."""
    if _by_address(conn, keys, brand, address) is not None:
        raise BadInput("this address has an account here already", field="email")
    id_ = secrets.token_hex(8)
    conn.execute(
        insert(staff),
        {
            "id": id_,
            "brand": brand,
            "hash": keys.hash(address),
            "email": keys.encrypt(address.spelling.encode(), _aad(id_)),
            "role": role.value,
            "password": password,
            "created_at": now,
        },
    )
    return id_


def hashed(password: str) -> str:
    """What is kept of a password. Takes a processor for a while on purpose: never call it in the
    writer. Raises BadInput for a short one."""
    if len(password) < LEAST_PASSWORD:
        raise BadInput(f"a password has at least {LEAST_PASSWORD} characters", field="password")
    return _hasher.hash(password)


def _aad(id_: str) -> bytes:
    return b"staff" + id_.encode()


def _by_address(conn: Connection, keys: Keyring, brand: str, address: Identifier) -> Any | None:
    wanted = select(staff).where(staff.c.brand == brand, staff.c.hash.in_(keys.hashes(address)))
    return conn.execute(wanted).first()


def _member(keys: Keyring, row: Any) -> Member:
    email = keys.decrypt(row.email, _aad(row.id)).decode()
    return Member(row.id, row.brand, email, Role(row.role), row.totp is not None)


def one(conn: Connection, keys: Keyring, brand: str, id_: str) -> Member:
    """Raises NotFound."""
    return _member(keys, _row(conn, brand, id_))


def _row(conn: Connection, brand: str, id_: str) -> Any:
    wanted = select(staff).where(
        staff.c.brand == brand, staff.c.id == id_, staff.c.ended_at.is_(None)
    )
    row = conn.execute(wanted).first()
    if row is None:
        raise NotFound("there is no such member of staff")
    return row


def listed(conn: Connection, keys: Keyring, brand: str) -> list[Member]:
    wanted = select(staff).where(staff.c.brand == brand, staff.c.ended_at.is_(None))
    return [_member(keys, row) for row in conn.execute(wanted.order_by(staff.c.created_at))]


def end(conn: Connection, brand: str, id_: str, now: float) -> None:
    """Nobody signs in by this account any more, and its sessions end. Raises NotFound."""
    _row(conn, brand, id_)
    conn.execute(delete(sessions).where(sessions.c.staff_id == id_))
    conn.execute(
        update(staff)
        .where(staff.c.id == id_)
        .values(ended_at=now, hash=secrets.token_bytes(16), password="", totp=None)
    )


def set_role(conn: Connection, brand: str, id_: str, role: Role) -> None:
    """Raises NotFound."""
    _row(conn, brand, id_)
    conn.execute(update(staff).where(staff.c.id == id_).values(role=role.value))


def set_password(conn: Connection, brand: str, id_: str, password: str) -> None:
    """All sessions end with it; `password` is `hashed`. Raises NotFound."""
    _row(conn, brand, id_)
    conn.execute(update(staff).where(staff.c.id == id_).values(password=password))
    conn.execute(delete(sessions).where(sessions.c.staff_id == id_))


def knows_password(conn: Connection, brand: str, id_: str, password: str) -> bool:
    """Takes a processor for a while, as `hashed` does. Raises NotFound."""
    return _matches(_row(conn, brand, id_).password, password)


def count_owners(conn: Connection, brand: str) -> int:
    wanted = select(func.count()).where(
        staff.c.brand == brand, staff.c.role == Role.OWNER.value, staff.c.ended_at.is_(None)
    )
    return int(conn.execute(wanted).scalar_one())


# --- second factor -----------------------------------------------------------------------------


def set_totp(conn: Connection, keys: Keyring, brand: str, id_: str, secret: str | None) -> None:
    """The shared secret of an authenticator app (RFC 6238), or none. Raises NotFound."""
    _row(conn, brand, id_)
    kept = keys.encrypt(secret.encode(), b"totp" + _aad(id_)) if secret else None
    conn.execute(update(staff).where(staff.c.id == id_).values(totp=kept, totp_step=None))


def use_step(conn: Connection, id_: str, step: int) -> bool:
    """Whether the code of this step may let in: none of its step or of a later one has before."""
    unused = staff.c.totp_step.is_(None) | (staff.c.totp_step < step)
    done = conn.execute(update(staff).where(staff.c.id == id_, unused).values(totp_step=step))
    return done.rowcount == 1


def totp_of(conn: Connection, keys: Keyring, brand: str, id_: str) -> str | None:
    """Raises NotFound."""
    row = _row(conn, brand, id_)
    return keys.decrypt(row.totp, b"totp" + _aad(id_)).decode() if row.totp else None


def set_pending(conn: Connection, keys: Keyring, token: str, secret: str | None) -> None:
    """The secret that a session shows and whose first code is awaited, or none."""
    kept = keys.encrypt(secret.encode(), b"pending" + _hash(token)) if secret else None
    conn.execute(update(sessions).where(sessions.c.hash == _hash(token)).values(pending_totp=kept))


def pending_of(conn: Connection, keys: Keyring, token: str) -> str | None:
    kept = conn.execute(
        select(sessions.c.pending_totp).where(sessions.c.hash == _hash(token))
    ).scalar()
    return keys.decrypt(kept, b"pending" + _hash(token)).decode() if kept else None


# --- signing in --------------------------------------------------------------------------------


class Known(NamedTuple):
    member: Member
    kept: str
    """The hash of the password."""


def known_by(
    conn: Connection, keys: Keyring, brands: list[str], address: Identifier, password: str
) -> list[Known]:
    """The accounts, one a brand at most, that this address and password open. Takes as long where
    there is none."""
    rows = [row for brand in brands if (row := _by_address(conn, keys, brand, address))]
    rows = [row for row in rows if row.ended_at is None]
    if not rows:
        _matches(_NOBODY, password)
    opened = [row for row in rows if _matches(row.password, password)]
    return [Known(_member(keys, row), row.password) for row in opened]


def has_password(conn: Connection, id_: str, kept: str) -> bool:
    """Whether a password that was right a moment ago still is: while it was checked it may have
    been changed, or the account ended."""
    wanted = select(staff.c.id).where(staff.c.id == id_, staff.c.password == kept)
    return conn.execute(wanted.where(staff.c.ended_at.is_(None))).first() is not None


def _matches(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (Argon2Error, InvalidHashError):
        return False


def may_try(conn: Connection, who: bytes, most: int, now: float) -> bool:
    """Count one more try; False when there were too many within the window."""
    conn.execute(delete(attempts).where(attempts.c.at < now - WINDOW))
    (n,) = next_numbers(conn, "attempt", 1)
    conn.execute(insert(attempts), {"n": n, "who": who, "at": now})
    wanted = select(func.count()).where(attempts.c.who == who)
    return int(conn.execute(wanted).scalar_one()) <= most


def forgive(conn: Connection, who: bytes) -> None:
    """Somebody who got in begins anew."""
    conn.execute(delete(attempts).where(attempts.c.who == who))


def forgive_one(conn: Connection, who: bytes) -> None:
    """The latest try was a right one: many who share a network address sign in without limit."""
    latest = select(func.max(attempts.c.n)).where(attempts.c.who == who).scalar_subquery()
    conn.execute(delete(attempts).where(attempts.c.n == latest))


# --- sessions ----------------------------------------------------------------------------------


class Session(NamedTuple):
    member: Member
    csrf: str


def open_session(conn: Connection, member: Member, now: float) -> str:
    """Returns the token that the browser keeps."""
    conn.execute(delete(sessions).where(sessions.c.created_at < now - SESSION_LASTS))
    token = secrets.token_urlsafe(32)
    conn.execute(
        insert(sessions),
        {
            "hash": _hash(token),
            "staff_id": member.id,
            "csrf": secrets.token_urlsafe(32),
            "created_at": now,
        },
    )
    return token


def _hash(token: str) -> bytes:
    """The token holds 256 random bits, so a plain hash cannot be guessed back."""
    return hashlib.sha256(token.encode()).digest()


def session(conn: Connection, keys: Keyring, token: str, now: float) -> Session | None:
    """Whose session this is, while it lasts."""
    wanted = (
        select(staff, sessions.c.csrf)
        .join(sessions, sessions.c.staff_id == staff.c.id)
        .where(
            sessions.c.hash == _hash(token),
            sessions.c.created_at > now - SESSION_LASTS,
            staff.c.ended_at.is_(None),
        )
    )
    row = conn.execute(wanted).first()
    return Session(_member(keys, row), row.csrf) if row else None


def close_session(conn: Connection, token: str) -> None:
    conn.execute(delete(sessions).where(sessions.c.hash == _hash(token)))
