"""The letter that is shown of a user without an avatar."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("profiles", sa.Column("monogram", sa.String(8)))


def downgrade() -> None:
    op.drop_column("profiles", "monogram")
