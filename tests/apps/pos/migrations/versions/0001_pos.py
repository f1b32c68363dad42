# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sales and heartbeats."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.execute("CREATE TABLE sales (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount_cents integer NOT NULL CHECK (amount_cents > 0))")
    op.execute("CREATE TABLE heartbeats (slot text PRIMARY KEY, seen timestamptz NOT NULL)")


def downgrade():
    op.execute("DROP TABLE heartbeats")
    op.execute("DROP TABLE sales")
