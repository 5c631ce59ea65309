"""Containers as they are found at the targets; waves of opt-ins; what a lane remembers of both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
    big: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "containers",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("class", sa.Text(), nullable=False),
        sa.Column("first_seen", moment, nullable=False),
        sa.Column("seen_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("target", "id"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "waves",
        sa.Column("id", big, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", moment, nullable=False),
        sa.Column("most", sa.Integer(), nullable=False),
        sa.Column("decided_at", moment, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_index("waves_target", "waves", ["target", "opened_at"], unique=False)
    op.create_table(
        "wave_ons",
        sa.Column("wave", big, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("wave", "hash"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("wave_ons_hash", "wave_ons", ["hash"], unique=False)
    op.add_column("lanes", sa.Column("places", sa.Text(), nullable=True))
    op.add_column("lanes", sa.Column("live_since", moment, nullable=True))
    op.add_column("lanes", sa.Column("by_hand_at", moment, nullable=True))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
