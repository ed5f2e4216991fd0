"""Validate requests before any work starts, and turn them into jobs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from colab_helpers.addresses import refuse_address
from colab_helpers.batch.job import Job, Source, consent_for, library_people_in
from colab_helpers.batch.library import expand_photo_folders, expand_photos
from colab_helpers.batch.object_store import sync_inputs
from colab_helpers.batch.plan import Task, plan_batch
from colab_helpers.batch.write_policy import WritePolicy, file_identities
from colab_helpers.errors import UsageError
from colab_helpers.files import absolute
from colab_helpers.language import tr, use_language
from colab_helpers.machine import require_reachable
from colab_helpers.media.inputs import is_image, is_video, require_file
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import require_consent
from colab_helpers.trust.records import Consent


def build_job(request: BatchRequest, photos: Sequence[Source] | None = None) -> Job:
    """Validate a request and return its job; ``photos`` are its sources with names for messages.

    Raise ColabHelpersError if consent, settings, a photo, a target or the output folder cannot be used.
    """
    request.check()
    with use_language(request.settings.language):
        sync_inputs(request.output_dir, request.targets, request.photo_paths)
        require_reachable(request.paths)
        photos = expand_photos(map(Source.of, request.sources) if photos is None else photos, request.library)
        request, notes = expand_photo_folders(request)
        folder, paths = _output_folder(request.output_dir), request.photo_paths
        tasks = plan_batch(request.target_paths, folder, video_range=request.video_range, sources=paths)
        consent = consent_for(request, [*paths, *(task.target for task in tasks)])
        _require_any(photos)
        return Job.of(request.with_values(consent=consent.text), photos, tasks, folder, notes)


def build_task(
    photos: Sequence[Source],
    others: Sequence[Source],
    target: str | Path,
    output: str | Path,
    consent: str,
    library: Path | None,
    overwrite: bool,
) -> tuple[Task, Consent, WritePolicy]:
    """Validate a single file and return its task, consent and write policy; errors as in `build_job`.

    ``photos`` are the sources, ``others`` the photos of people who are changed or never changed.
    """
    for location in (target, output, *(photo.image for photo in [*photos, *others])):
        refuse_address(location, stored=True)
    path, result = absolute(target), absolute(output)
    photo_paths = [photo.path for photo in [*photos, *others]]
    people = library_people_in(library, [photo.path for photo in photos if photo.path])
    stated = require_consent(consent, [path, *photo_paths], people)
    files = [*filter(None, photo_paths), path]
    require_reachable([*files, result])
    require_file(path)
    _require_any(photos)
    write_policy = WritePolicy(file_identities(files), overwrite)
    write_policy.ensure_writable(result := result / path.name if result.is_dir() else result)
    return Task(path, result, demanded=True), stated, write_policy


def _require_any(photos: Sequence[Source]) -> None:
    """Raise MissingFileError if all photos are missing; some missing ones are skipped later, with a note."""
    paths = [photo.path for photo in photos if photo.path is not None]
    missing = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110
    if missing and len(missing) == len(photos):
        require_file(missing[0])


def _output_folder(folder: Path | None) -> Path:
    """Return the output folder; raise UsageError if there is none, or its name is that of a file."""
    if folder is None:
        raise UsageError(tr("no output folder was given"), remedy=tr("name a folder in output_dir"))
    if folder.is_file() or ((is_video(folder) or is_image(folder)) and not folder.is_dir()):
        what = tr("a batch needs an output folder, but this is the name of a file")
        remedy = tr("name a folder in output_dir; for one file use 'python -m colab_helpers swap'")
        raise UsageError(what, where=str(folder), remedy=remedy)
    return folder
