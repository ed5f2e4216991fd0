"""Keys of work: equal only if everything that affects the result is equal.

A key covers the bytes of target and sources, the settings, the model files and the code itself, so that work
of another preset, model file or version is never reused.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from colab_helpers.errors import MissingFileError
from colab_helpers.files import sha256_of
from colab_helpers.language import tr
from colab_helpers.media.label import Label
from colab_helpers.models.catalog import ANALYSIS_MODELS
from colab_helpers.settings import Settings

NEUTRAL_SETTINGS = frozenset(["cuda_graphs", "execution_threads", "gpus", "batch_size", "max_memory",
                              "gpu_memory_wait", "stall_timeout", "output_wait", "disclosure", "overwrite",
                              "content_check", "signing_certificate", "language"])  # fmt: skip
"""Settings that never change a pixel: resources, checks, disclosure, signing, language.

So a run may be resumed with less memory or, unless the label has its default text, in another language.
"""

SELECTION_SETTINGS = ("many_faces", "face_selector", "face_min_size", "face_selector_gender",
                     "face_selector_age_start", "face_selector_age_end", "face_order",
                     "reference_face_position", "reference_frame_number",
                     "similar_face_distance")  # fmt: skip
"""Settings that decide, along with models and photos, who is changed."""

_CODE_FOLDERS = ("faces", "media", "models", "pipeline")


def file_digest(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """Return the SHA-256 of a file as hexadecimal digits; raise MissingFileError if it cannot be read.

    ``on_chunk`` is called every few megabytes and may raise to cancel.
    """
    regular = True
    with suppress(OSError, ValueError):  # then reading it fails below
        regular = stat.S_ISREG(path.stat().st_mode)
    if not regular:  # reading a pipe could block
        what = tr("this is a folder, pipe or device, not a file")
        raise MissingFileError(what, where=str(path), remedy=tr("name a file"))
    try:
        return sha256_of(path, on_chunk=on_chunk)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        what = tr("the file cannot be read ({reason})", reason=reason)
        raise MissingFileError(what, where=str(path), remedy=tr("check the path")) from error


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the SHA-256 over the version and the source files that affect results."""
    root = Path(__file__).parents[1]
    files = [root / "__init__.py", *(path for name in _CODE_FOLDERS for path in (root / name).glob("*.py"))]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def work_key(
    *,
    target: str,
    sources: Sequence[str],
    person_filter: Sequence[str],
    settings: Settings,
    models: Mapping[str, str],
    encoder: str,
    decisions: object = None,
) -> str:
    """Return the work key of one target, 64 hexadecimal digits.

    Values that settings leave to the machine are not part of it.

    Args:
        target: Digest of the target.
        sources: Digests of the source photos, in any order, since they are averaged.
        person_filter: Digests of the photos of people who are changed or never changed.
        settings: Settings of the run.
        models: Digests of the model files by name.
        encoder: The encoder setting; what ``auto`` chose is noted with each segment.
        decisions: With a people map, what is done to whom in the target; serializable as JSON.
    """
    included = {k: v for k, v in settings.model_dump(mode="json").items() if k not in NEUTRAL_SETTINGS}
    if label := Label.of(settings):
        included["visible_label_text"] = label.text  # depends on the language
    parts: dict[str, object] = {
        "target": target,
        "sources": sorted(sources),
        "sought": list(person_filter),
        "settings": included,
        "models": dict(models),
        "encoder": encoder,
        "code": code_digest(),
    }
    if decisions is not None:
        parts["decisions"] = decisions
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def index_key(*, target: str, settings: Settings, models: Mapping[str, str]) -> str:
    """Return the key of a target's face index; arguments as in `work_key`.

    It covers the settings of detector and frame rate and the analysis models.
    """
    names = ("face_detector_size", "face_detector_score", "keep_fps")
    networks = [Path(name).name for name in ANALYSIS_MODELS]
    parts = {
        "target": target,
        "settings": {name: getattr(settings, name) for name in names},
        "models": {name: models[name] for name in networks if name in models},
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def selection_key(settings: Settings, person_filter: Sequence[str]) -> str:
    """Return a key of the people whom a request without a map chooses; arguments as in `work_key`."""
    parts = {name: getattr(settings, name) for name in SELECTION_SETTINGS}
    return hashlib.sha256(json.dumps([parts, list(person_filter)], sort_keys=True).encode()).hexdigest()[:16]
