"""On PostgreSQL: numbers that are used once come from sequences, and the tables that grow are
partitioned, each by what it is looked up by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SEQUENCES = (
    "attempt",
    "batch",
    "event",
    "inbox",
    "mark",
    "outbox",
    "payload",
    "screening",
    "task",
    "wave",
)
PARTITIONS = 8
"""A hash partition of modulus 8 is split by detaching it and attaching two of modulus 16."""
GROWING = {
    "ledger": (
        "subject_id",
        "ALTER TABLE ledger ADD PRIMARY KEY (id, subject_id)",
        "ALTER TABLE ledger ADD UNIQUE (subject_id, revision)",
        # Gapless by the sealer: no constraint of a partitioned table is without its key.
        "CREATE INDEX ledger_n ON ledger (n)",
        "CREATE INDEX ledger_batch ON ledger (batch, subject_id) WHERE batch IS NOT NULL",
        "CREATE INDEX ledger_unsealed ON ledger (id) WHERE n IS NULL",
    ),
    "payloads": ("id", "ALTER TABLE payloads ADD PRIMARY KEY (id)"),
    "receipts": (
        "hash",
        "ALTER TABLE receipts ADD PRIMARY KEY (target, hash, place)",
        """CREATE INDEX receipts_honoured ON receipts
           (target, settled_at, opened_at, wish, outcome)
           WHERE wish = 'off' AND outcome IN ('confirmed', 'accepted', 'recorded')""",
    ),
}


def upgrade() -> None:
    conn = op.get_bind()
    if conn.dialect.name == "sqlite":
        return
    rows = conn.execute(sa.text("SELECT name, value FROM counters")).all()
    used = {row.name: row.value for row in rows}
    for name in SEQUENCES:
        op.execute(f"CREATE SEQUENCE {name}_numbers START {used.get(name, 0) + 1}")
    for table, (key, *constraints) in GROWING.items():
        _partition(table, key)
        for constraint in constraints:
            op.execute(constraint)


def _partition(table: str, key: str) -> None:
    """The same table in partitions, with what it holds; its old indexes go with the old table."""
    op.execute(f"ALTER TABLE {table} RENAME TO whole")
    op.execute(f"CREATE TABLE {table} (LIKE whole) PARTITION BY HASH ({key})")
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE {table}_{number} PARTITION OF {table} "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    op.execute(f"INSERT INTO {table} SELECT * FROM whole")  # noqa: S608  # names of ours
    op.execute("DROP TABLE whole")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
