"""${message}

Large tables: create an index with `postgresql_concurrently=True` inside `op.get_context().autocommit_block()`; add a
column as nullable and fill it later.
Workers of the previous version may still run: add first, remove one release later.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
