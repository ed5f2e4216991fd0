"""What a file is that should be a model, and where one lies that is missing."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import load_catalog

# Where other programs keep models, below their own folder, one's home or the working folder: insightface;
# roop and its kin, Deep-Live-Cam; FaceFusion; VisoMaster; ComfyUI and the web UIs.
_PEERS = (
    ".insightface/models",
    ".insightface/models/buffalo_l",
    "models",
    "models/buffalo_l",
    ".assets/models",
    "model_assets",
    "models/insightface",
    "models/insightface/models/buffalo_l",
    "models/facerestore_models",
)
_OWN = frozenset({"quarantine", "converted", ".locks", ".archives"})
_MOST_FOLDERS = 2000

_REFETCH = mark(
    "fetch it again with 'python -m colab_helpers preload --accept-licences', or put the real file there"
)
_MISSING_REMEDY = mark(
    "fetch the models with preload.ipynb or 'python -m colab_helpers preload --accept-licences' (both show "
    "the licences first, unless they are accepted), put the file there yourself, or name another folder in "
    "models_dir or COLAB_HELPERS_MODELS; the demo brings its own stand-in models"
)
_UNPACK = mark("unpack it: the model is inside")
_WEIGHTS = mark("it holds weights of PyTorch, no network")
_WEIGHTS_REMEDY = mark(
    "an ONNX file is needed; GFPGAN's own weights are converted when they are called GFPGANv1.4.pth "
    "('python -m colab_helpers convert')"
)
# By the first bytes, of texts in lower case and without leading space: what a file is, and what to do.
_KINDS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    (
        (b"version https://git-lfs",),
        mark("it is a Git LFS pointer, a few lines that stand for the model, not the model itself"),
        mark("run 'git lfs pull' where it is from, or download the file itself; {refetch}"),
    ),
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head"),
        mark("it is a web page that was saved under the model's name"),
        mark("download the file itself, not the page that shows it; {refetch}"),
    ),
    (
        (b'{"', b"{\n", b'[{"'),
        mark("it is a text, such as a server's answer, not the model itself"),
        "{refetch}",
    ),
    ((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!"), mark("it is a packed archive, not the model itself"), _UNPACK),
    ((b"\x80\x02", b"\x80\x04"), _WEIGHTS, _WEIGHTS_REMEDY),
)


def not_a_network(path: Path) -> ModelError | None:
    """What a file is by its first bytes, and what to do; None where it may be a network.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return ModelError(tr("it is an empty file"), where=str(path), remedy=tr(_REFETCH))
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    text = b"" if re.search(rb"[\x00-\x08\x0e-\x1f]", head) else head.lstrip().lower()
    for signs, what, remedy in _KINDS:
        if (text or head).startswith(signs):
            return ModelError(tr(what), where=str(path), remedy=tr(remedy, refetch=tr(_REFETCH)))
    return None


def _zipped(path: Path) -> ModelError:
    names: list[str] = []
    with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(path) as opened:
        names = opened.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return ModelError(tr(_WEIGHTS), where=str(path), remedy=tr(_WEIGHTS_REMEDY))
    inside = ", ".join(name for name in names if name.endswith(".onnx"))
    remedy = tr("unpack it: {names} is what is needed", names=inside) if inside else tr(_UNPACK)
    return ModelError(tr("it is a zip archive, not the model itself"), where=str(path), remedy=remedy)


def broken_model(path: Path, reason: str) -> ModelError:
    """The error of a file that does not load: what it is, and what to do."""
    with suppress(OSError):
        found = not_a_network(path)
        if found is not None:
            return found
    return ModelError(
        tr("ONNX Runtime cannot load the model ({reason})", reason=reason),
        where=str(path),
        remedy=tr("the file may be damaged or cut off: {refetch}", refetch=tr(_REFETCH)),
    )


def missing_model(path: Path) -> ModelError:
    """The error of a model that is not where it should be; one of its name elsewhere is told."""
    listed = (entry.file_names for entry in load_catalog().models.values())
    names = next((names for names in listed if path.name in names), (path.name,))
    found = next(elsewhere(path, names), None)
    if found is None:
        return ModelError(tr("the model file is missing"), where=str(path), remedy=tr(_MISSING_REMEDY))
    return ModelError(
        tr("the model file is missing here, but {found} may be it", found=found),
        where=str(path),
        remedy=tr(
            "run 'python -m colab_helpers preload --offline --accept-licences', which takes over published "
            "files that it finds; or copy it to this place yourself, or name its folder with --models-dir"
        ),
    )


def elsewhere(path: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Files with one of some names where people put models, nearest first, other than ``path`` itself.

    Looked at are the models folder itself, two levels deep, and the usual places of other programs below the
    home and the working folder and each of their folders.
    """
    root = path.parent.parent if path.parent.name == "buffalo_l" else path.parent
    seen = {path}
    for folder in islice(_folders(root), _MOST_FOLDERS):
        for place in (folder / name for name in names):
            if place in seen:
                continue
            seen.add(place)
            with suppress(OSError):
                if place.is_file() and place.stat().st_size > 0:
                    yield place


def _folders(root: Path) -> Iterator[Path]:
    yield root
    below = [folder for folder in _subfolders(root) if folder.name not in _OWN]
    yield from below
    for folder in below:
        yield from _subfolders(folder)
    for base in dict.fromkeys((Path.home(), Path.cwd())):
        for program in (base, *_subfolders(base)):
            yield from (program / layout for layout in _PEERS)


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return []
