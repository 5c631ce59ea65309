"""The upkeep of webhooks beside a lane's work: look now and then, tell staff what they must do.

Webhooks are hints and the scan carries the promise: a webhook that is gone costs time, not
opt-outs. So a look never holds anything up, and its fault is logged and outlived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection

from prefs.core.errors import PrefsError
from prefs.core.keys import Keyring
from prefs.core.propagation import Target, Tended, Unheard
from prefs.store import tasks
from prefs.store.database import Store
from prefs.store.vault import StoreVault
from prefs.texts import next_working_day

log = structlog.get_logger()

KIND = "webhook_gone"
LOOKED = "webhooks_looked_at"
"""Name in the target's vault: when the last look ended."""
GLANCE = 1.0
"""Seconds between looks at the clock."""
SOON = 600.0
"""Seconds until a look that failed is made again, and at least between two starts' looks: a hook
may have ended while nobody was here."""
WAITING = 3600.0
"""Seconds between looks while staff have something to do: their task closes soon after."""


@dataclass
class Tending:
    """One target's webhooks. `connector` says how often they want to be looked at."""

    target: Target
    connector: Tended
    database: Store
    keys: Keyring
    clock: Callable[[], datetime]

    async def run(self) -> None:
        """Until cancelled: a look soon after the start, then one each `tend_every`."""
        due = await self._first_due()
        while True:
            now = self.clock().timestamp()
            if now >= due:
                due = now + await self._looked()
            await asyncio.sleep(GLANCE)

    async def _first_due(self) -> float:
        last = await self._vault.get(LOOKED)
        return float(last) + min(SOON, self.connector.tend_every) if last else 0.0

    async def _looked(self) -> float:
        """One look, whatever comes of it; seconds until the next."""
        try:
            told = await self.look()
        except PrefsError as fault:
            log.warning("tend_failed", target=self.target.label, reason=str(fault))
            return SOON
        except Exception as fault:
            log.exception("tend_failed", target=self.target.label, fault=type(fault).__name__)
            return SOON
        return min(WAITING, self.connector.tend_every) if told else self.connector.tend_every

    async def look(self) -> bool:
        """Whether a task stands open now. Raises what the connector raises."""
        found = await self.connector.tend()
        told = await self.database.write(lambda conn: self._tell(conn, found))
        await self._vault.put(LOOKED, str(self.clock().timestamp()))
        return told

    @property
    def _vault(self) -> StoreVault:
        return StoreVault(self.database, self.keys, self.target.label, self.clock)

    # --- staff ---------------------------------------------------------------------------------

    def _tell(self, conn: Connection, found: Unheard | None) -> bool:
        """One open task a target, with the present words; none when all is well. True where one is
        open."""
        standing = self._rows(conn, "open")
        current = [row for row in standing if found and self._says(row, found)]
        for row in standing:
            if row not in current:
                self._close(conn, row)
        if found and not current and not self._answered(conn, found):
            self._open(conn, found)
            return True
        return bool(current)

    def _answered(self, conn: Connection, found: Unheard) -> bool:
        """Said before, and staff left it so."""
        return found.once and any(self._says(row, found) for row in self._rows(conn, "done"))

    def _rows(self, conn: Connection, state: str) -> list[Any]:
        rows = tasks.listed(conn, self.target.brand, state, KIND)
        return [row for row in rows if self._body(row).get("target") == self.target.label]

    def _says(self, row: Any, found: Unheard) -> bool:
        return self._body(row).get("text") == found.todo

    def _body(self, row: Any) -> dict[str, Any]:
        return tasks.body(self.keys, row)

    def _open(self, conn: Connection, found: Unheard) -> None:
        now = self.clock()
        log.error(KIND, target=self.target.label, todo=found.todo)
        body = {"target": self.target.label, "text": found.todo}
        due = next_working_day(now).timestamp()
        tasks.add(conn, self.keys, self.target.brand, KIND, None, body, now.timestamp(), due)

    def _close(self, conn: Connection, row: Any) -> None:
        now = self.clock().timestamp()
        body = {**self._body(row), "settled_with": "the next look at the webhooks"}
        tasks.settle(conn, self.keys, row.id, "done", body, now)
        log.info("webhook_task_closed", target=self.target.label)
