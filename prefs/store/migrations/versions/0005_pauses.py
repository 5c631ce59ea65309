"""Pauses: outs that end by themselves, and when the first one of a subject does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
    op.add_column("ledger", sa.Column("until", moment, nullable=True))
    op.add_column("subjects", sa.Column("resume_at", moment, nullable=True))
    op.create_index(
        "subjects_resume",
        "subjects",
        ["resume_at"],
        unique=False,
        sqlite_where=sa.text("resume_at IS NOT NULL"),
        postgresql_where=sa.text("resume_at IS NOT NULL"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
