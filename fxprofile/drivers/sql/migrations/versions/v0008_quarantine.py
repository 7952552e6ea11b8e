"""Digests of uploads and of their pictures, and the pictures that operators have quarantined."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARBINARY(length * 4), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "quarantine",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("source_digest", exact(64)),
        sa.Column("pixels_digest", exact(64)),
        sa.Column("avatar_id", exact(32)),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("lifted", sa.Double),
        sa.Column("lifted_by", sa.String(255)),
        sa.Column("lift_reason", sa.Text),
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    for name in ("source_digest", "pixels_digest"):
        op.create_index(f"quarantine_{name}", "quarantine", [name])
        op.add_column("avatars", sa.Column(name, exact(64)))
        op.create_index(f"avatars_{name}", "avatars", [name])


def downgrade() -> None:
    for name in ("pixels_digest", "source_digest"):
        op.drop_index(f"avatars_{name}", "avatars")
        op.drop_column("avatars", name)
    op.drop_table("quarantine")
