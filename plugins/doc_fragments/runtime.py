# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that choose what runs an app's processes; adapters/runtimes.py has their argument spec."""

from __future__ import annotations


class ModuleDocFragment:
    """What runs the processes of a slot."""

    DOCUMENTATION = r"""
options:
  runtime:
    description:
      - What runs the processes of a slot. V(pm2) and V(systemd) start the files of a release folder, the others start an image.
      - V(systemd) makes one unit for each service in each slot, and needs root.
    type: str
    choices: [pm2, systemd, docker, compose, swarm]
    default: pm2
  pm2_command:
    description: How PM2 is called, as a list of words.
    type: list
    elements: str
    default: [pm2]
  pm2_home:
    description: E(PM2_HOME) of the daemon. Default is C(.pm2) below O(directory).
    type: path
  path:
    description: Folder put before PATH for the runtime and the build, so that C(node) is the one meant.
    type: str
    default: ''
  user:
    description: User that the processes of V(systemd) run as. Default is the one the module runs as.
    type: str
    default: ''
"""
