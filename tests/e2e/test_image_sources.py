# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an image comes from: a registry that wants a password, an archive with a checksum; and what is left of either."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import Docker
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.images import Images, recorded
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.image_names import Wanted
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan

from tests.sandbox import engine
from tests.standins.registry import Registry, serving

COMMIT = "c" * 40


@pytest.fixture
def app() -> Iterator[str]:
    """Return a name that nobody else on this engine uses."""
    engine.start_engine()
    name = f"img{secrets.token_hex(3)}"
    yield name
    engine.clean(name)


def plan(folder: Path) -> Plan:
    release = folder / "releases" / f"v1.0.0-{COMMIT[:12]}"
    release.mkdir(parents=True, exist_ok=True)
    return Plan("", "v1.0.0", COMMIT, str(release), {}, [])


def images(app: str, folder: Path, wanted: Wanted) -> Images:
    return Images(Docker(["docker"], os.environ["PATH"]), app, str(folder), wanted)


def layer(text: bytes) -> bytes:
    """Return a layer with one file, unlike that of any other run."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("x")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    return stream.getvalue()


def test_a_pull_signs_in_and_leaves_nothing_of_it(app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = tmp_path / "tmp"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    with serving(Registry(layer(secrets.token_bytes(16)), "ci", "pull-me")) as registry:
        name = f"127.0.0.1:{registry.port}/team/{app}@{registry.digest}"
        with pytest.raises(SluiceError) as caught:
            images(app, tmp_path, Wanted(name=name, user="ci", password="wrong-word")).ensure(plan(tmp_path), check=False)
        assert "wrong-word" not in str(caught.value) and "wrong-word" not in str(caught.value.details())
        with pytest.raises(SluiceError):
            images(app, tmp_path, Wanted(name=name)).ensure(plan(tmp_path), check=False)
        source = images(app, tmp_path, Wanted(name=name, user="ci", password="pull-me"))
        assert source.ensure(plan(tmp_path), check=True) and not recorded(plan(tmp_path).folder)
        assert source.ensure(plan(tmp_path), check=False)[0].startswith(f"pulled the image {app}:v1.0.0-{COMMIT[:12]}")
        asked = len(registry.asked)
        assert source.ensure(plan(tmp_path), check=False) == [] and len(registry.asked) == asked
    assert recorded(plan(tmp_path).folder) == name
    assert recorded(str(Path(plan(tmp_path).folder, "migrations"))) == name
    assert list(private.iterdir()) == []
    source.remove(plan(tmp_path).folder)
    assert engine.docker("images", "--quiet", "--filter", f"reference={app}") == ""


def test_an_archive_must_be_the_one_that_was_approved(app: str, tmp_path: Path) -> None:
    tar, archive = tmp_path / "layer.tar", tmp_path / "image.tar"
    tar.write_bytes(layer(secrets.token_bytes(16)))
    engine.docker("import", str(tar), f"{app}:theirs")
    image = engine.docker("image", "inspect", "--format", "{{.Id}}", f"{app}:theirs")
    engine.docker("save", "--output", str(archive), f"{app}:theirs")
    engine.docker("image", "rm", f"{app}:theirs")
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(SluiceError, match="It is another file than the one that was approved"):
        images(app, tmp_path, Wanted(archive=str(archive), sha256="0" * 64)).ensure(plan(tmp_path), check=False)
    assert engine.docker("images", "--quiet", app) == ""
    source = images(app, tmp_path, Wanted(archive=str(archive), sha256=right))
    assert source.ensure(plan(tmp_path), check=False)[0].startswith("loaded the image")
    assert source.ensure(plan(tmp_path), check=False) == []
    assert recorded(plan(tmp_path).folder) == image
