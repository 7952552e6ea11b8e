"""When a message was hidden, which shows that the clock was set back since."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("queue_messages", sa.Column("hidden_at", sa.Double))


def downgrade() -> None:
    op.drop_column("queue_messages", "hidden_at")
