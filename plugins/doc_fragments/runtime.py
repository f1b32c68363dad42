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
      - V(docker), V(compose) and V(swarm) make one container, project or stack, and need a user that may speak to the engine.
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
  listen:
    description:
      - IP address of this host that the slots' services listen on, given to them as E(HOST), and where they are probed. A rehearsal stays on 127.0.0.1.
      - A container of its own network is published there instead.
    type: str
    default: 127.0.0.1
  user:
    description: User that the processes of V(systemd) run as. Default is the one the module runs as.
    type: str
    default: ''
  docker_command:
    description: How Docker's command line is called, as a list of words.
    type: list
    elements: str
    default: [docker]
  docker_network:
    description:
      - Network that the containers join. With V(host) the app listens on E(PORT) of E(HOST), O(listen), itself, and reaches what this host's loopback serves.
      - Empty is the runtime's default, and any other name is a network that is there. Then the container's port is published on O(listen), and the name
        C(host.docker.internal) leads to this host.
    type: str
    default: ''
  docker_log_driver:
    description: Driver that keeps what the containers say. C(docker logs) must be able to read it.
    type: str
    default: local
  compose_command:
    description: How compose is called, as a list of words.
    type: list
    elements: str
    default: [docker, compose]
  compose_file:
    description: The release's own compose file, below the release folder, that the slot's is laid over. Empty for none.
    type: str
    default: ''
  image:
    description: Where the image of a release comes from; one of C(name), C(archive) and C(build). Not needed where nothing is prepared.
    type: dict
    suboptions:
      name:
        description: An image in a registry, with its digest, such as V(registry.example.org/wallet@sha256:...).
        type: str
        default: ''
      archive:
        description: File on this host that C(docker save) wrote.
        type: str
        default: ''
      sha256:
        description: SHA-256 of O(image.archive).
        type: str
        default: ''
      build:
        description: Folder with the Dockerfile, below the release folder; V(.) is the release folder.
        type: str
        default: ''
      user:
        description: Who signs in at the registry. Empty to not sign in.
        type: str
        default: ''
      password:
        description: Password or token of O(image.user).
        type: str
        default: ''
"""
