# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine asks inside the container."""

from __future__ import annotations

import os
import time
import urllib.request

beat = os.environ.get("SLUICE_HEARTBEAT")
if beat:
    if time.time() - os.stat(beat).st_mtime > 10:
        raise SystemExit("the worker has stopped")
else:
    host = os.environ.get("HOST", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")
    urllib.request.urlopen(f"http://{host}:{os.environ.get('PORT', '8000')}/api/v1/health", timeout=2)
