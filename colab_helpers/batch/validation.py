"""A request becomes a job: all that a batch can be refused for is looked at before any work."""

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
    """Check a request and write down what it asks for; ``photos`` are its sources with names for messages.

    ColabHelpersError where consent, settings, a photo, a target or the output folder cannot be used.
    """
    request.check()
    with use_language(request.settings.language):
        sync_inputs(request.output_dir, request.targets, request.photo_paths)
        require_reachable(request.places)
        photos = expand_photos(map(Source.of, request.sources) if photos is None else photos, request.library)
        request, left_out = expand_photo_folders(request)
        folder = _results_folder(request.output_dir)
        tasks = plan_batch(
            request.target_paths, folder, video_range=request.video_range, sources=request.photo_paths
        )
        given = consent_for(request, [*request.photo_paths, *(task.target for task in tasks)])
        _require_one(photos)
        return Job.of(request.with_values(consent=given.text), photos, tasks, folder, left_out)


def build_task(
    photos: Sequence[Source],
    others: Sequence[Source],
    target: str | Path,
    output: str | Path,
    consent: str,
    library: Path | None,
    overwrite: bool,
) -> tuple[Task, Consent, WritePolicy]:
    """Refuse a single file that may not be read, changed or written; see `build_job`.

    ``photos`` show who is put in, ``others`` who is changed or never is.
    """
    for place in (target, output, *(each.image for each in [*photos, *others])):
        refuse_address(place, stored=True)
    path, result = absolute(target), absolute(output)
    given, own = ([each.path for each in some if each.path] for some in ([*photos, *others], photos))
    stated = require_consent(
        consent, [path, *(each.path for each in [*photos, *others])], library_people_in(library, own)
    )
    require_reachable([*given, path, result])
    require_file(path)
    _require_one(photos)
    write_policy = WritePolicy(file_identities([*given, path]), overwrite)
    write_policy.ensure_writable(result := result / path.name if result.is_dir() else result)
    return Task(path, result, demanded=True), stated, write_policy


def _require_one(photos: Sequence[Source]) -> None:
    """MissingFileError where no photo is there at all; one of several is left out later, and named."""
    paths = [photo.path for photo in photos if photo.path is not None]
    missing = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110
    if missing and len(missing) == len(photos):
        require_file(missing[0])


def _results_folder(folder: Path | None) -> Path:
    """The output folder of a batch, unless it is plainly no folder."""
    if folder is None:
        raise UsageError(tr("no output folder is named"), remedy=tr("name a folder in output_dir"))
    if folder.is_file() or ((is_video(folder) or is_image(folder)) and not folder.is_dir()):
        raise UsageError(
            tr("a batch writes into a folder, and this is the name of a file"),
            where=str(folder),
            remedy=tr("name a folder in output_dir; for one file use 'python -m colab_helpers swap'"),
        )
    return folder
