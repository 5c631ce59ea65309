"""Batches of outs that no person said; what a target remembers between processes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("brand", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=False),
        sa.Column("last_at", sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=False),
        sa.Column("outs", sa.Integer(), nullable=False),
        sa.Column("most", sa.Integer(), nullable=True),
        sa.Column("due_at", sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_index("batches_origin", "batches", ["brand", "origin", "last_at"], unique=False)

    op.create_table(
        "vault",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("written_at", sa.Double().with_variant(sa.REAL(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("target", "name"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    moment: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
    op.add_column("lanes", sa.Column("walked_at", moment, nullable=True))
    op.create_index(
        "ledger_batch",
        "ledger",
        ["batch", "subject_id"],
        unique=False,
        sqlite_where=sa.text("batch IS NOT NULL"),
        postgresql_where=sa.text("batch IS NOT NULL"),
    )
    op.create_index("tasks_subject", "tasks", ["subject_id", "kind"], unique=False)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
