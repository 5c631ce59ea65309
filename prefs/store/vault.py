"""What a target must remember between processes, encrypted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.dialects import sqlite

from prefs.core.keys import Keyring
from prefs.store.database import Database
from prefs.store.schema import vault


@dataclass(frozen=True)
class StoreVault:
    """One target's place. Implements prefs.core.propagation.Vault."""

    database: Database
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
        insert = sqlite.insert(vault)
        newer = {name: insert.excluded[name] for name in ("value", "written_at")}
        upsert = insert.on_conflict_do_update(index_elements=["target", "name"], set_=newer)
        await self.database.write(lambda conn: conn.execute(upsert, row))

    def _aad(self, name: str) -> bytes:
        return f"vault {self.target} {name}".encode()
