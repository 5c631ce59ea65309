"""Jobs and their results, counts of choices by week, when outs were honoured, and a second factor
on its way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COUNT_WHAT_IS_SEALED = """
INSERT INTO tallies (brand, week, channel, choice, source, origin, count)
SELECT brand, (CAST(received_at / 86400 AS INTEGER) + 3) / 7, channel, choice, source,
       COALESCE(origin, ''), COUNT(*)
FROM ledger
WHERE n IS NOT NULL AND kind = 'choice' AND result = 'applied' AND purpose = 'marketing'
      AND topic IS NULL AND choice IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6
"""


def upgrade() -> None:
    moment: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
    big: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("done", big, nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("result", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("beat_at", moment, nullable=False),
        sa.Column("ended_at", moment, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_index("jobs_newest", "jobs", ["brand", "kind", "about", "started_at"], unique=False)
    op.create_table(
        "tallies",
        sa.Column("brand", sa.Text(), nullable=False),
        sa.Column("week", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("count", big, nullable=False),
        sa.PrimaryKeyConstraint("brand", "week", "channel", "choice", "source", "origin"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.execute(COUNT_WHAT_IS_SEALED)
    honoured = sa.text("wish = 'off' AND outcome IN ('confirmed', 'accepted', 'recorded')")
    op.create_index(
        "receipts_honoured",
        "receipts",
        ["target", "settled_at", "opened_at", "wish", "outcome"],
        unique=False,
        sqlite_where=honoured,
        postgresql_where=honoured,
    )
    op.add_column("sessions", sa.Column("pending_totp", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
