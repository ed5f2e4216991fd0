"""The demo: clips of rendered people, a source photo, and small networks that know only these people.

``python -m tests.people colab_helpers/demo/files --ship`` creates ``files/``; runs work on copies.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.errors import OutputError, wrap_os_error
from colab_helpers.files import write_atomically
from colab_helpers.language import mark, tr
from colab_helpers.trust.consent import DEMO_MANIFEST

DEMO_FOLDER = "demo"
"""Subfolder for the demo, in the folder of runs or in that of one run."""
MODELS = "models.zip"
_FILES = Path(__file__).with_name("files")


@dataclass(frozen=True)
class Demo:
    """Paths of a copy of the demo: the source photo, the clips, the folder of the stand-in networks."""

    source: Path
    targets: tuple[Path, ...]
    models: Path


def copy_demo(folder: Path) -> Demo:
    """Copy the demo into a folder, created if missing.

    Raises:
        OutputError: The folder is not writable, or holds a different file of the same name.
    """
    names = (DEMO_MANIFEST, *(path.relative_to(_FILES).as_posix() for path in sorted(_FILES.glob("*/*"))))
    paths = [_write_file(folder / name, (_FILES / name).read_bytes()) for name in names]
    targets = tuple(path for path in paths if path.parent.name == "targets")
    source = next(path for path in paths if path.parent.name == "source")
    return Demo(source, targets, copy_models(folder / "models"))


def copy_models(folder: Path) -> Path:
    """Copy the stand-in networks into a folder, created if missing, and return it; raise as ``copy_demo``."""
    with zipfile.ZipFile(_FILES / MODELS) as archive:
        for name in archive.namelist():
            _write_file(folder / name, archive.read(name))
    return folder


def _write_file(path: Path, data: bytes) -> Path:
    """Write a file; keep an identical one, and raise OutputError rather than replace a different one."""
    what, remedy = mark("the demo cannot be written: {reason}"), mark("choose another folder")
    with wrap_os_error(OutputError, what, path, remedy):
        if path.exists():
            if path.read_bytes() == data:
                return path
            remedy = tr("choose another folder, or delete the file if it is from an earlier demo")
            what = tr("a different file has the name of a demo file")
            raise OutputError(what, where=str(path), remedy=remedy)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return path
