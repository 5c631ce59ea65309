"""On PostgreSQL, numbers that are used once come from sequences."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAMES = (
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


def upgrade() -> None:
    conn = op.get_bind()
    if conn.dialect.name == "sqlite":
        return
    rows = conn.execute(sa.text("SELECT name, value FROM counters")).all()
    used = {row.name: row.value for row in rows}
    for name in NAMES:
        op.execute(f"CREATE SEQUENCE {name}_numbers START {used.get(name, 0) + 1}")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
