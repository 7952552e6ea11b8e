"""An index of jobs that are not sent yet, which does not grow with those that are."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("avatars_unsent", "avatars", ["job_sent", "owed_since"])


def downgrade() -> None:
    op.drop_index("avatars_unsent", "avatars")
