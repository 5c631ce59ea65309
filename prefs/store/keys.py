"""Which secret keys the database depends on."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from prefs.core.errors import SettingsError
from prefs.core.keys import Keyring
from prefs.store.schema import key_ids


def check_keys(conn: Connection, keys: Keyring, now: float) -> None:
    """Refuse to go on without a key that something was hashed or encrypted under; note the newest
    as in use. Raises SettingsError."""
    used = set(conn.execute(select(key_ids.c.id)).scalars())
    missing = used - set(keys.key_ids)
    if missing:
        names = ", ".join(sorted(id_.hex() for id_ in missing))
        fault = (
            f"secret_keys: {len(missing)} key(s) that this database was written with are "
            f"missing (key id {names}); add the old secret after the newest one"
        )
        raise SettingsError([fault])
    if keys.newest_id not in used:
        conn.execute(insert(key_ids), {"id": keys.newest_id, "since": now})
