"""What a target must remember between processes, encrypted."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select

from prefs.core.errors import Temporary
from prefs.core.keys import Keyring
from prefs.store import dialect
from prefs.store.database import Store
from prefs.store.schema import vault

HELD = 60.0
"""Seconds for which one may be alone: longer than all tries to renew a token take."""
PATIENCE = 20.0
LOOK_AGAIN = 0.1


@dataclass(frozen=True)
class StoreVault:
    """One target's place. Implements prefs.core.propagation.Vault."""

    database: Store
    keys: Keyring
    target: str
    clock: Callable[[], datetime]

    async def get(self, name: str) -> str | None:
        def look(conn: Connection) -> bytes | None:
            wanted = select(vault.c.value).where(
                vault.c.target == self.target, vault.c.name == name
            )
            return conn.execute(wanted).scalar_one_or_none()

        value = await self.database.read(look)
        return self.keys.decrypt(value, self._aad(name)).decode() if value else None

    async def put(self, name: str, value: str) -> None:
        row = {
            "target": self.target,
            "name": name,
            "value": self.keys.encrypt(value.encode(), self._aad(name)),
            "written_at": self.clock().timestamp(),
        }
        insert = dialect.insert(vault)
        newer = {name: insert.excluded[name] for name in ("value", "written_at")}
        upsert = insert.on_conflict_do_update(index_elements=["target", "name"], set_=newer)
        await self.database.write(lambda conn: conn.execute(upsert, row))

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """By a row that says until when somebody is within: who died there holds up nobody."""
        place = f"alone with {name}"
        row = {
            "target": self.target,
            "name": place,
            "value": self.keys.encrypt(secrets.token_bytes(16), self._aad(place)),
        }
        ends = time.monotonic() + PATIENCE
        while not await self.database.write(lambda conn: self._enter(conn, row)):
            if time.monotonic() > ends:
                raise Temporary("another process has not finished with this target's login")
            await asyncio.sleep(LOOK_AGAIN)
        try:
            yield
        finally:
            await self.database.write(lambda conn: _leave(conn, row))

    def _enter(self, conn: Connection, row: Mapping[str, Any]) -> bool:
        now = self.clock().timestamp()
        insert = dialect.insert(vault)
        newer = {name: insert.excluded[name] for name in ("value", "written_at")}
        done = conn.execute(
            insert.on_conflict_do_update(
                index_elements=["target", "name"], set_=newer, where=vault.c.written_at < now - HELD
            ),
            {**row, "written_at": now},
        )
        return done.rowcount == 1

    def _aad(self, name: str) -> bytes:
        return f"vault {self.target} {name}".encode()


def _leave(conn: Connection, row: Mapping[str, Any]) -> None:
    """Only what is ours: it may have taken too long, and somebody else be within."""
    ours = (vault.c[name] == row[name] for name in ("target", "name", "value"))
    conn.execute(delete(vault).where(*ours))
