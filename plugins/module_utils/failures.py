# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module ends that could not do its work: with a sentence for the operator, never with a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


@contextmanager
def in_words(module: AnsibleModule) -> Iterator[None]:
    """Fail the module with what the collection refuses, or the system does."""
    try:
        yield
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    except OSError as error:
        remedy = "Check its owner and mode, the become user, and free space."
        module.fail_json(msg=f"{error.filename or 'A file'} could not be used: {error.strerror or error}. {remedy}", remedy=remedy)
