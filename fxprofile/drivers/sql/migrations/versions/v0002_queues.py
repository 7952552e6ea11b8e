"""The messages of the queues that are kept in the database."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARBINARY(length * 4), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "queue_messages",
        sa.Column("seq", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("queue", exact(64), nullable=False),
        sa.Column(
            "body",
            sa.Text().with_variant(mysql.MEDIUMTEXT, "mysql", "mariadb"),
            nullable=False,
        ),
        sa.Column("sent", sa.Double, nullable=False),
        sa.Column("visible_at", sa.Double, nullable=False),
        sa.Column("receive_count", sa.Integer, nullable=False),
        sa.Column("receipt", exact(32)),
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    op.create_index("queue_messages_visible", "queue_messages", ["queue", "visible_at"])


def downgrade() -> None:
    op.drop_table("queue_messages")
