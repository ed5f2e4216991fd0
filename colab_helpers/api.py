"""The package's functions for Python, the command line and the notebooks.

Modules that load networks are imported where they are used: starting or watching a worker process does not
need them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from colab_helpers.addresses import refuse_address
from colab_helpers.batch.job import ImageLike, Source
from colab_helpers.batch.library import expand_photos
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.validation import build_job, build_task
from colab_helpers.files import absolute
from colab_helpers.language import use_language
from colab_helpers.machine import require_reachable
from colab_helpers.media.inputs import is_image
from colab_helpers.progress import ProgressCallback
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings, load_settings
from colab_helpers.trust.consent import require_consent

if TYPE_CHECKING:
    from colab_helpers.batch.run_file import FileRun
    from colab_helpers.batch.supervisor import StatusCallback
    from colab_helpers.faces.types import ByteImage


def swap_image(
    source: ImageLike,
    target: ImageLike,
    *,
    consent: str,
    settings: Settings | None = None,
    models_dir: str | Path | None = None,
) -> ByteImage:
    """Swap the faces of an image for the source's; the result has the label, but no manifest.

    Args:
        source: Photo of the source face.
        target: The image to change; it is not modified.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.

    Returns:
        ``(H, W, 3)`` uint8 BGR.

    Raises:
        ConsentError: There is no usable statement of consent.
        ContentError: The target's content is refused.
        ColabHelpersError: An image cannot be read, the source shows no face, or a model is missing.
    """
    with _in_language_of(settings):
        photos = [Source.of(source)]
        path = isinstance(target, (str, Path)) and not str(target).startswith("data:")
        image = absolute(str(target)) if path else target
        files = [photos[0].path, image if isinstance(image, Path) else None]
        require_reachable(filter(None, files))
        require_consent(consent, files)
        from colab_helpers.batch.photos import identity_of, request_assignment
        from colab_helpers.faces.engine import Engine
        from colab_helpers.media.images import read_image
        from colab_helpers.media.label import Label
        from colab_helpers.media.picture import BgrPicture
        from colab_helpers.pipeline import process_image
        from colab_helpers.trust.content import ContentCheck, check_pictures

        engine = Engine.open(settings or load_settings(), models_dir=_absolute(models_dir))
        identity = identity_of(engine, photos)
        check = ContentCheck(engine, Source.of(image).name, [identity.age if identity else None])
        pixels = read_image(image)
        check_pictures(check, [(0.0, BgrPicture(pixels))])
        return process_image(engine, request_assignment(identity), pixels, label=Label.of(engine.settings))[0]


class SwapOptions(TypedDict, total=False):
    """Further options of ``swap_video``."""

    models_dir: str | Path | None
    target_person: Sequence[str | Path]
    never: Sequence[str | Path]
    library: str | Path | None
    on_progress: ProgressCallback | None


def swap_video(
    source: ImageLike | Sequence[ImageLike],
    target: str | Path,
    output: str | Path,
    *,
    consent: str,
    settings: Settings | None = None,
    **options: Unpack[SwapOptions],
) -> FileReport:
    """Swap the faces of a video or image file for the source's.

    Args:
        source: One or several photos of the source face, folders of them, or names in the library.
        target: The file to change.
        output: The output file, whose suffix selects the container, or an existing folder, where it gets the
            target's name.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        **options: ``models_dir``, the folder of the model files; ``target_person``, photos of the only person
            to change (by default the settings decide); ``never``, photos of people never to change;
            ``library``, a folder of people, each a folder of photos; ``on_progress``, called up to four times
            a second.

    Raises:
        UsageError: The result would replace a photo, the target, or, unless ``overwrite`` is set, another
            existing file.
        ColabHelpersError: The file failed; no partial result is left.
    """
    import numpy as np  # slow, and rarely needed here

    sources = [source] if isinstance(source, (str, Path, bytes, np.ndarray)) else list(source)
    with _in_language_of(settings):
        run, _ = _open(sources, target, output, consent, settings or load_settings(), **options)
        run.run()
        return run.report


def swap_file(
    sources: Sequence[ImageLike],
    target: str | Path,
    output: str | Path,
    *,
    consent: str,
    settings: Settings | None = None,
    **options: Unpack[SwapOptions],
) -> BatchReport:
    """Like ``swap_video``, but a failure during the work is put into the report instead of raised."""
    with _in_language_of(settings):
        run, notes = _open(sources, target, output, consent, settings or load_settings(), **options)
        from colab_helpers.batch.file_report import build_report, skipped_report
        from colab_helpers.batch.run_file import error_text

        started, report, stopped = time.monotonic(), run.report, False
        try:
            run.run()
        except KeyboardInterrupt:
            report, stopped = skipped_report(run.task, report.source), True
        except Exception as error:  # noqa: BLE001 - the error goes into the report
            report.error, report.status = error_text(error), "failed"
        return build_report(
            [report],
            consent=run.consent,
            settings=run.engine.settings.model_dump(mode="json"),
            seconds=time.monotonic() - started,
            networks=run.engine.loaded,
            notes=[*run.engine.notes, *notes],
            stopped=stopped,
            memory_warnings=run.guard.warnings,
        )


class BatchOptions(TypedDict, total=False):
    """Further options of ``run_batch``: fields of ``BatchRequest``."""

    target_person: Sequence[str | Path]
    never: Sequence[str | Path]
    library: str | Path | None
    people: Literal["auto", "find", "only", "everybody"]
    video_range: str
    report_path: str | Path | None
    work_dir: str | Path | None
    session_minutes: float
    shortest_first: bool
    in_process: bool
    cluster: str
    gpus_per_worker: float
    priority: int
    map_paths: Sequence[str]


def run_batch(
    sources: Sequence[ImageLike],
    targets: Sequence[str | Path],
    output_dir: str | Path,
    *,
    consent: str,
    settings: Settings | None = None,
    models_dir: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
    on_status: StatusCallback | None = None,
    **options: Unpack[BatchOptions],
) -> BatchReport:
    """Swap the faces of many videos and images for the source's.

    A worker process does the work; it outlives this one and is restarted if it dies. The same call, from any
    process, watches the running batch or resumes one that has ended.

    Args:
        sources: Photos of the source face, folders of them, or names in the library; photos of somebody else
            are left out, with a note.
        targets: Files, folders, and patterns such as ``clips/*.mp4``.
        output_dir: Folder of the results; made if missing.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.
        on_progress: Called while a video is processed.
        on_status: Called with every new status of the worker process, which has the notes on the whole run.
        **options: Fields of ``BatchRequest``, such as ``video_range`` and ``report_path``.

    Returns:
        The report. Failed files are in it with their errors; they do not raise.

    Raises:
        ColabHelpersError: The batch could not be started, or the worker process died repeatedly.
        BatchStopped: The batch was stopped (a KeyboardInterrupt); its ``report`` has the finished files.
    """
    with _in_language_of(settings):
        library = _absolute(options.get("library"))
        photos = [Source.of(image, library) for image in sources]
        request = BatchRequest(
            sources=[photo.image for photo in photos],
            targets=targets,
            output_dir=output_dir,
            consent=consent,
            overrides={} if settings is None else settings.model_dump(),
            models_dir=models_dir,
            **options,
        )
        return run_batch_request(request, photos=photos, on_progress=on_progress, on_status=on_status)


def run_batch_request(
    request: BatchRequest,
    *,
    photos: Sequence[Source] | None = None,
    on_progress: ProgressCallback | None = None,
    on_status: StatusCallback | None = None,
) -> BatchReport:
    """Like ``run_batch``, from a request; ``photos`` are its sources, with names for messages and reports."""
    with use_language(request.language):
        job = build_job(request, photos)
        with _in_language_of(job.request.settings):
            if request.in_process:
                from colab_helpers.batch.worker import run_job

                return run_job(job, on_progress=on_progress)
            if request.cluster and request.people != "only":  # finding people is done by one process
                from colab_helpers.cluster.supervisor import ClusterSupervisor

                return ClusterSupervisor(job, on_progress=on_progress, on_status=on_status).run()
            from colab_helpers.batch.supervisor import Supervisor

            return Supervisor(job, on_progress=on_progress, on_status=on_status).run()


def _open(
    sources: Sequence[ImageLike],
    target: str | Path,
    output: str | Path,
    consent: str,
    settings: Settings,
    *,
    models_dir: str | Path | None = None,
    target_person: Sequence[str | Path] = (),
    never: Sequence[str | Path] = (),
    library: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> tuple[FileRun, Sequence[str]]:
    """Check everything, then load networks and sources; return the run and notes on the sources."""
    root = _absolute(library)
    require_reachable([] if root is None else [root])
    photos, wanted, excluded = (
        expand_photos((Source.of(image, root) for image in images), root)
        for images in (sources, target_person, never)
    )
    others = [*wanted, *excluded]
    task, record, write_policy = build_task(photos, others, target, output, consent, root, settings.overwrite)
    from concurrent.futures import ThreadPoolExecutor

    from colab_helpers.batch.photos import identity_of, load_person_filter, request_assignment
    from colab_helpers.batch.run_file import FileRun, new_report
    from colab_helpers.faces.engine import Engine
    from colab_helpers.media.probe import probe
    from colab_helpers.resources.allocator import tune_allocator
    from colab_helpers.trust.content import require_networks
    from colab_helpers.trust.marking import check_marking

    tune_allocator()  # before threads have memory arenas of their own
    if not is_image(task.target):  # in parallel with loading; errors are raised by the later probe
        ThreadPoolExecutor(1).submit(probe, task.target)
    check_marking(settings)
    engine = Engine.open(settings, models_dir=_absolute(models_dir))
    require_networks(engine)
    identity = identity_of(engine, photos)
    images = [photo.image for photo in wanted], [photo.image for photo in excluded]
    person_filter, fallbacks = load_person_filter(engine, *images)
    report = new_report(task, identity)
    report.fallbacks += fallbacks
    key = " ".join(sorted(photos[number].digest for number in identity.used)) if identity else ""
    run = FileRun(
        engine=engine,
        assignment=request_assignment(identity, person_filter, key=key),
        task=task,
        consent=record,
        report=report,
        write_policy=write_policy,
        on_progress=on_progress,
    )
    return run, identity.notes if identity else ()


def _in_language_of(settings: Settings | None) -> AbstractContextManager[None]:
    """Use the language of the settings within a block."""
    return use_language(settings.language if isinstance(settings, Settings) else "auto")


def _absolute(value: str | Path | None) -> Path | None:
    refuse_address(value or "", stored=True)
    return None if value is None else absolute(value)
