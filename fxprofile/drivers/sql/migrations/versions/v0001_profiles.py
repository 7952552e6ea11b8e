"""Users, their avatars, and leases."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "sqlite_autoincrement": True,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARBINARY(length * 4), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "avatars",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", exact(32), nullable=False),
        sa.Column("uid", exact(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("job_sent", sa.Double),
        sa.Column("owed_since", sa.Double),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("error", sa.String(32)),
        sa.Column("variants", sa.Text),
        **OPTIONS,
    )
    op.create_index("avatars_id", "avatars", ["id"], unique=True)
    op.create_index("avatars_uid", "avatars", ["uid"])
    op.create_index("avatars_owed_since", "avatars", ["owed_since"])
    op.create_index("avatars_status", "avatars", ["status", "updated"])
    op.create_table(
        "profiles",
        sa.Column("uid", exact(64), primary_key=True),
        sa.Column("display_name", sa.String(256)),
        sa.Column("avatar_id", exact(32)),
        sa.Column("selected_seq", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("removed_at", sa.Double),
        **OPTIONS,
    )
    op.create_table(
        "leases",
        sa.Column("name", exact(32), primary_key=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        **OPTIONS,
    )


def downgrade() -> None:
    op.drop_table("leases")
    op.drop_table("profiles")
    op.drop_table("avatars")
