"""How far the folders with checkpoints are written, what they are still to be told, and what a
replay brought back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
    big: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "journals",
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("n", big, nullable=False),
        sa.Column("noted_at", moment, nullable=False),
        sa.Column("paused_at", moment, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("place"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_table(
        "relinks",
        sa.Column("n", big, nullable=False),
        sa.Column("subject_id", big, nullable=False),
        sa.PrimaryKeyConstraint("n"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_table(
        "brought_back",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name != "sqlite":
        op.execute("CREATE SEQUENCE relink_numbers")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
