"""What is shown of a picture until it is there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("avatars", sa.Column("placeholder", sa.String(64)))


def downgrade() -> None:
    op.drop_column("avatars", "placeholder")
