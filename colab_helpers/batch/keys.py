"""Keys of work: equal only where everything that decides the result is equal.

A key covers the bytes of target and sources, the settings, the model files and the code itself. So a
changed preset, a retrained model or a new version never passes old work off as its own.
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

NEUTRAL_SETTINGS = frozenset(
    {
        "cuda_graphs",
        "execution_threads",
        "gpus",
        "batch_size",
        "max_memory",
        "gpu_memory_wait",
        "stall_timeout",
        "output_wait",
        "disclosure",
        "overwrite",
        "content_check",
        "signing_certificate",
        "language",
    }
)
"""Settings that never change a pixel: how hard to work, what is asked, said about it or of it, who signs it.

So a run may go on with less memory or, unless the label's words are those of the language, in another one.
"""

SELECTION_SETTINGS = ("many_faces", "face_selector", "face_min_size", "face_selector_gender",
                     "face_selector_age_start", "face_selector_age_end", "face_order",
                     "reference_face_position", "reference_frame_number",
                     "similar_face_distance")  # fmt: skip
"""What decides, beside the networks and photos, who is changed."""

_ROOMS = ("faces", "media", "models", "pipeline")


def file_digest(path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
    """Return the SHA-256 of a file's bytes, as hexadecimal digits; MissingFileError where it cannot be read.

    ``on_chunk`` is called every few megabytes and may raise to give up.
    """
    regular = True
    with suppress(OSError, ValueError):  # what cannot be looked at cannot be read either, which is told below
        regular = stat.S_ISREG(path.stat().st_mode)
    if not regular:  # reading a pipe might wait for ever
        raise MissingFileError(
            tr("this is a folder, pipe or device, not a file"), where=str(path), remedy=tr("name a file")
        )
    try:
        return sha256_of(path, on_chunk=on_chunk)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise MissingFileError(
            tr("the file cannot be read ({reason})", reason=reason),
            where=str(path),
            remedy=tr("check the path"),
        ) from error


@lru_cache(maxsize=1)
def code_digest() -> str:
    """SHA-256 over the version and the source files that decide what a result looks like."""
    root = Path(__file__).parents[1]
    files = [root / "__init__.py", *(path for room in _ROOMS for path in (root / room).glob("*.py"))]
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
    """Return the key of the work on one target, 64 hexadecimal digits.

    ``target``, ``sources``, ``person_filter`` (what says who is changed and who never is) and ``models`` are
    digests; the order of sources does not matter, as they are averaged. What settings leave to the machine is
    not part of the key, nor which ``encoder`` ``auto`` took, which is noted with each segment. Where a map
    says what is done to whom in the target, ``decisions`` are that, anything that JSON can write.
    """
    asked = {k: v for k, v in settings.model_dump(mode="json").items() if k not in NEUTRAL_SETTINGS}
    if label := Label.of(settings):
        asked["visible_label_text"] = label.text  # that of the language spoken
    parts: dict[str, object] = {
        "target": target,
        "sources": sorted(sources),
        "sought": list(person_filter),
        "settings": asked,
        "models": dict(models),
        "encoder": encoder,
        "code": code_digest(),
    }
    if decisions is not None:
        parts["decisions"] = decisions
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def index_key(*, target: str, settings: Settings, models: Mapping[str, str]) -> str:
    """Return the key of what is found in one target, whatever is made of it; see `work_key`.

    The settings of the detector count, those of which frames there are, and the models that find faces.
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
    """Return what tells apart whom requests without a map change; see `work_key`."""
    parts = {name: getattr(settings, name) for name in SELECTION_SETTINGS}
    return hashlib.sha256(json.dumps([parts, list(person_filter)], sort_keys=True).encode()).hexdigest()[:16]
