"""The index of deleted accounts, by the time of deletion."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("profiles_removed_at", "profiles", ["removed_at"])


def downgrade() -> None:
    op.drop_index("profiles_removed_at", "profiles")
