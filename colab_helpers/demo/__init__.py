"""The demo: clips of rendered people, a portrait, and small networks that know only these people.

``python -m tests.people colab_helpers/demo/files --ship`` makes ``files/``; runs work on copies.
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
"""Where in the folder for runs, or in a run's own, the demo lies."""
MODELS = "models.zip"
_FILES = Path(__file__).with_name("files")


@dataclass(frozen=True)
class Demo:
    """Where a demo lies.

    Attributes:
        source: Photo of the person who is put in.
        targets: The clips.
        models: Folder of the stand-in networks.
    """

    source: Path
    targets: tuple[Path, ...]
    models: Path


def copy_demo(folder: Path) -> Demo:
    """Copy the demo into a folder, which is made if missing.

    Raises:
        OutputError: It cannot be written there, or another file of the same name is in the way.
    """
    names = (DEMO_MANIFEST, *(path.relative_to(_FILES).as_posix() for path in sorted(_FILES.glob("*/*"))))
    made = [_put(folder / name, (_FILES / name).read_bytes()) for name in names]
    targets = tuple(path for path in made if path.parent.name == "targets")
    source = next(path for path in made if path.parent.name == "source")
    return Demo(source, targets, copy_models(folder / "models"))


def copy_models(folder: Path) -> Path:
    """Copy the stand-in networks into a folder, which is made if missing, and return it.

    Raises:
        OutputError: As ``copy_demo``.
    """
    with zipfile.ZipFile(_FILES / MODELS) as pack:
        for name in pack.namelist():
            _put(folder / name, pack.read(name))
    return folder


def _put(path: Path, data: bytes) -> Path:
    """Write a file unless it is there already; another of its name stays."""
    what, remedy = mark("the demo cannot be written: {reason}"), mark("choose another folder")
    with wrap_os_error(OutputError, what, path, remedy):
        if path.exists():
            if path.read_bytes() == data:
                return path
            raise OutputError(
                tr("another file has the name of one of the demo's"),
                where=str(path),
                remedy=tr("name another folder, or remove it if it is an earlier version's demo"),
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return path
