"""What the preference registers said, lists of the day, and the last code of a second factor."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
    big: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "screenings",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=False),
        sa.Column("register", sa.Text(), nullable=False),
        sa.Column("screened_at", moment, nullable=False),
        sa.Column("listed_from", moment, nullable=True),
        sa.PrimaryKeyConstraint("hash", "brand", "register"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        "screenings_listed",
        "screenings",
        ["brand", "register"],
        unique=False,
        sqlite_where=sa.text("listed_from IS NOT NULL"),
        postgresql_where=sa.text("listed_from IS NOT NULL"),
    )
    op.create_table(
        "screening_runs",
        sa.Column("id", big, nullable=False),
        sa.Column("brand", sa.Text(), nullable=False),
        sa.Column("register", sa.Text(), nullable=False),
        sa.Column("file", sa.LargeBinary(), nullable=False),
        sa.Column("screened_at", moment, nullable=False),
        sa.Column("known_until", moment, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.Column("walked_to", sa.LargeBinary(), nullable=False),
        sa.Column("screened", sa.Integer(), nullable=False),
        sa.Column("lifted", sa.Integer(), nullable=False),
        sa.Column("started_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_table(
        "papers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("brand", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("made_at", moment, nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_strict=True,
        sqlite_with_rowid=True,
    )
    op.create_index("papers_made", "papers", ["brand", "kind", "made_at"], unique=False)
    op.add_column("staff", sa.Column("totp_step", big, nullable=True))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only; restore a backup instead")
