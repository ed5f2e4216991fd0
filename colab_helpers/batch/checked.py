"""A request becomes a job: all that a batch can be refused for is looked at before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from colab_helpers.batch.job import Job, Source, consent_for
from colab_helpers.batch.library import photos_of, with_photos
from colab_helpers.batch.plan import plan_batch
from colab_helpers.errors import UsageError
from colab_helpers.language import spoken, tr
from colab_helpers.machine import require_places
from colab_helpers.media.inputs import is_image, is_video
from colab_helpers.request import BatchRequest


def checked_job(request: BatchRequest, photos: Sequence[Source] | None = None) -> Job:
    """Check a request and write down what it asks for; ``photos`` are its sources with names for messages.

    Raises:
        ColabHelpersError: Consent, settings, a photo, a target or the output folder cannot be used.
    """
    request.check()
    with spoken(request.settings.language):
        require_places(request.places)
        photos = photos_of(map(Source.of, request.sources) if photos is None else photos, request.library)
        request, left_out = with_photos(request)
        folder = _results_folder(request.output_dir)
        tasks = plan_batch(
            request.target_paths, folder, video_range=request.video_range, sources=request.photo_paths
        )
        given = consent_for(request, [*request.photo_paths, *(task.target for task in tasks)])
        return Job.of(request.replaced(consent=given.text), photos, tasks, folder, left_out)


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
