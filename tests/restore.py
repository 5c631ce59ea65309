"""A backup for tests: the rows of a database kept aside, and put back over whatever came since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select

from prefs.store.database import Database
from prefs.store.schema import metadata

Backup = Mapping[str, Sequence[Mapping[str, Any]]]


def take(database: Database) -> Backup:
    def read(conn: Connection) -> Backup:
        return {
            table.name: [dict(row) for row in conn.execute(select(table)).mappings()]
            for table in metadata.sorted_tables
        }

    return database.read_now(read)


def put_back(database: Database, backup: Backup) -> None:
    def write(conn: Connection) -> None:
        for table in metadata.sorted_tables:
            conn.execute(table.delete())
            if backup[table.name]:
                conn.execute(insert(table), list(backup[table.name]))

    database.write_now(write)
