"""The package's verbs for Python, the command line and the notebooks.

What loads the networks is imported where it is used: whoever only starts a batch's worker process, or watches
it, need not wait for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from colab_helpers.batch.job import ImageLike, Job, Source
from colab_helpers.batch.names import REPORT_NAME
from colab_helpers.batch.plan import Task, Writable, identities, plan_batch
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.supervisor import NoteCallback, StatusCallback, Supervisor
from colab_helpers.faces.types import ByteImage
from colab_helpers.language import spoken
from colab_helpers.progress import ProgressCallback
from colab_helpers.settings import Settings, load_settings
from colab_helpers.trust.consent import require_consent

if TYPE_CHECKING:
    from colab_helpers.batch.runner import Batch


P = ParamSpec("P")
R = TypeVar("R")


def _in_its_language(verb: Callable[P, R]) -> Callable[P, R]:
    """Speak the language that a verb's settings name for as long as the verb works."""

    @wraps(verb)
    def speaking(*args: P.args, **kwargs: P.kwargs) -> R:
        settings = kwargs.get("settings")
        with spoken(settings.language if isinstance(settings, Settings) else "auto"):
            return verb(*args, **kwargs)

    return speaking


@_in_its_language
def swap_image(
    source: ImageLike,
    target: ImageLike,
    *,
    consent: str,
    settings: Settings | None = None,
    models_dir: str | Path | None = None,
) -> ByteImage:
    """Put the source's face on the faces of an image.

    Args:
        source: Photo of the person who is put in.
        target: The image to change; it is not modified.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.

    Returns:
        ``(H, W, 3)`` uint8 BGR.

    Raises:
        ConsentError: No usable statement of consent.
        ColabHelpersError: An image cannot be read, the source shows no face, or a model is missing.
    """
    require_consent(consent, _paths([source, target]))
    from colab_helpers.batch.runner import identity_of
    from colab_helpers.faces.engine import Engine
    from colab_helpers.media.images import read_image
    from colab_helpers.pipeline import process_image

    engine = Engine.open(settings or load_settings(), models_dir=_path(models_dir))
    identity = identity_of(engine, [Source.of(source)])
    image, _ = process_image(engine, identity.embedding if identity else None, read_image(target))
    return image


@_in_its_language
def swap_video(
    source: ImageLike | Sequence[ImageLike],
    target: str | Path,
    output: str | Path,
    *,
    consent: str,
    settings: Settings | None = None,
    models_dir: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> FileReport:
    """Put the source's face on the faces of a video (or image file).

    Args:
        source: One or several photos of the person who is put in.
        target: The file to change.
        output: The result; its suffix chooses the container.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.
        on_progress: Called up to four times a second.

    Raises:
        UsageError: The result would replace a photo, the target, or a file that is there already, unless
            ``overwrite`` is set.
        ColabHelpersError: The file could not be done; nothing is left of the result then.
    """
    sources = [source] if isinstance(source, (str, Path, bytes, np.ndarray)) else list(source)
    task = Task(Path(target), Path(output), demanded=True)
    batch = _open(
        sources, [task], consent=consent, settings=settings, models_dir=models_dir, on_progress=on_progress
    )
    report = batch.new_report(task)
    batch.work_on(0, task, report)
    return report


@_in_its_language
def run_batch(
    sources: Sequence[ImageLike],
    targets: Sequence[str | Path],
    output_dir: str | Path,
    *,
    consent: str,
    settings: Settings | None = None,
    models_dir: str | Path | None = None,
    video_range: str = "",
    report_path: str | Path | None = None,
    work_dir: str | Path | None = None,
    session_minutes: float = 0.0,
    shortest_first: bool = False,
    in_process: bool = False,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
    on_status: StatusCallback | None = None,
) -> BatchReport:
    """Put one person's face on the faces of many videos and images.

    The work is done by a process of its own, which outlives this one and is started again if it dies. The
    same call again, from anywhere, watches it, or goes on where it ended: results and segments of videos
    are kept where target, sources, settings, models and code are the same and the files are unchanged.

    Args:
        sources: Photos of the person who is put in; several are averaged. One that cannot be read, shows no
            face or somebody else is left out, which the report's notes tell.
        targets: Files and folders.
        output_dir: Folder of the results; made if missing.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.
        video_range: Which of the targets, counted from 1, such as ``1-30``.
        report_path: Where the report goes; ``report.json`` in the output folder if None. Its page goes
            beside it, with the suffix ``.html``.
        work_dir: A folder on a local disk for unfinished work; chosen if None.
        session_minutes: How long this machine can be used; if given, some frames of each size of video are
            done first, and the notes tell how many files fit.
        shortest_first: Do the files in the order of the time they take, measured likewise.
        in_process: Do the work in this very process: a crash then takes everything with it.
        on_progress: Called while a video runs.
        on_note: Called with each remark on the whole run.
        on_status: Called with every new status of the worker process.

    Returns:
        The report. Failed files are in it with their error; they do not raise.

    Raises:
        ColabHelpersError: Nothing could be started: consent, settings, models, sources or folders.
        KeyboardInterrupt: Interrupted twice; what is finished is kept.
    """
    folder = Path(output_dir)
    tasks = plan_batch(targets, folder, video_range=video_range, sources=_paths(sources))
    job = Job.of(
        sources,
        tasks,
        folder,
        consent=require_consent(consent, [*_paths(sources), *(task.target for task in tasks)]),
        settings=settings or load_settings(),
        models_dir=_path(models_dir),
        report_path=Path(report_path) if report_path else folder / REPORT_NAME,
        work_dir=_path(work_dir),
        session_minutes=session_minutes,
        shortest_first=shortest_first,
    )
    if in_process:
        from colab_helpers.batch.worker import run_job

        return run_job(job, on_progress=on_progress)
    return Supervisor(job, on_progress=on_progress, on_note=on_note, on_status=on_status).run()


@_in_its_language
def swap_file(
    sources: Sequence[ImageLike],
    target: str | Path,
    output: str | Path,
    *,
    consent: str,
    settings: Settings | None = None,
    models_dir: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> BatchReport:
    """Like ``swap_video``, but a failure is in the report instead of being raised."""
    task = Task(Path(target), Path(output), demanded=True)
    return _open(
        sources, [task], consent=consent, settings=settings, models_dir=models_dir, on_progress=on_progress
    ).run()


def _open(
    sources: Sequence[ImageLike],
    tasks: Sequence[Task],
    *,
    consent: str,
    settings: Settings | None,
    models_dir: str | Path | None,
    on_progress: ProgressCallback | None,
) -> Batch:
    """Check consent, load the networks and the source: everything before the first file."""
    from colab_helpers.batch.runner import Batch, identity_of
    from colab_helpers.faces.engine import Engine

    inputs = [*_paths(sources), *(task.target for task in tasks)]
    statement = require_consent(consent, inputs)
    settings = settings or load_settings()
    writable = Writable(identities(inputs), settings.overwrite)
    for task in tasks:
        writable.clear(task.output)
    engine = Engine.open(settings, models_dir=_path(models_dir))
    photos = [Source.of(source) for source in sources]
    return Batch(
        engine=engine,
        source=identity_of(engine, photos),
        tasks=tasks,
        consent=statement,
        writable=writable,
        on_progress=on_progress,
    )


def _paths(sources: Sequence[ImageLike]) -> list[Path]:
    """Those of the sources that are files."""
    return [
        Path(source)
        for source in sources
        if isinstance(source, Path) or (isinstance(source, str) and not source.startswith("data:"))
    ]


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
