"""The package's verbs for Python, the command line and the notebooks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from colab_helpers.batch.journal import JOURNAL_NAME, Journal, read_journal
from colab_helpers.batch.keys import file_digest
from colab_helpers.batch.plan import Task, plan_batch
from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.batch.results import Results, model_digest
from colab_helpers.batch.runner import Batch, FileCallback, folder_lock
from colab_helpers.batch.status import STATUS_NAME, StatusWriter
from colab_helpers.errors import UsageError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.types import ByteImage, FloatArray
from colab_helpers.media.images import read_image
from colab_helpers.pipeline import process_image
from colab_helpers.progress import ProgressCallback
from colab_helpers.settings import Settings, load_settings
from colab_helpers.trust.consent import require_consent

ImageLike = str | Path | bytes | ByteImage
"""A path, an encoded image, a ``data:`` URL, or a ``(H, W, 3)`` uint8 BGR array."""

REPORT_NAME = "report.json"


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
    engine = Engine.open(settings or load_settings(), models_dir=_path(models_dir))
    image, _ = process_image(engine, _source(engine, [source]), read_image(target))
    return image


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
    on_progress: ProgressCallback | None = None,
    on_file: FileCallback | None = None,
) -> BatchReport:
    """Put one person's face on the faces of many videos and images.

    Results that an earlier run left in the folder are kept where target, sources, settings, models and
    code are the same and the file is unchanged.

    Args:
        sources: Photos of the person who is put in; several are averaged.
        targets: Files and folders.
        output_dir: Folder of the results; made if missing.
        consent: Who is shown, and on what ground.
        settings: As from ``load_settings``; the default preset if None.
        models_dir: Folder of the model files.
        video_range: Which of the targets, counted from 1, such as ``1-30``.
        report_path: Where the report goes; ``report.json`` in the output folder if None.
        on_progress: Called up to four times a second while a video runs.
        on_file: Called after each file.

    Returns:
        The report. Failed files are in it with their error; they do not raise.

    Raises:
        ColabHelpersError: Nothing could be started: consent, settings, models, sources or folders.
    """
    folder = Path(output_dir)
    tasks = plan_batch(targets, folder, video_range=video_range)
    with folder_lock(folder):
        batch = _open(
            sources,
            tasks,
            consent=consent,
            settings=settings,
            models_dir=models_dir,
            on_progress=on_progress,
            on_file=on_file,
        )
        batch.status = StatusWriter(folder / STATUS_NAME, tasks)
        history = read_journal(folder / JOURNAL_NAME)
        with Journal(folder / JOURNAL_NAME) as journal:
            batch.results = Results(
                journal,
                history,
                sources=[_digest(source) for source in sources],
                settings=batch.engine.settings,
                models={net.name: model_digest(net.path) for net in batch.engine.networks},
            )
            report = batch.run()
        report.save(Path(report_path) if report_path else folder / REPORT_NAME)
    return report


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
    on_file: FileCallback | None = None,
) -> Batch:
    """Check consent, load the networks and the source: everything before the first file."""
    statement = require_consent(consent, [*_paths(sources), *(task.target for task in tasks)])
    engine = Engine.open(settings or load_settings(), models_dir=_path(models_dir))
    return Batch(
        engine=engine,
        sources=[_name(source) for source in sources],
        source=_source(engine, sources),
        tasks=tasks,
        consent=statement,
        on_progress=on_progress,
        on_file=on_file,
    )


def _source(engine: Engine, sources: Sequence[ImageLike]) -> FloatArray | None:
    """The source's embedding, or None where no face is swapped."""
    if engine.swapper is None:
        return None
    if not sources:
        raise UsageError(
            "no source photo was given", remedy="name at least one photo of the person to put in"
        )
    return engine.source_embedding([(_name(source), read_image(source)) for source in sources])


def _paths(sources: Sequence[ImageLike]) -> list[Path]:
    """Those of the sources that are files."""
    return [
        Path(source)
        for source in sources
        if isinstance(source, Path) or (isinstance(source, str) and not source.startswith("data:"))
    ]


def _name(source: ImageLike) -> str:
    """How a source is called in messages and reports; raw pixels have no name."""
    if isinstance(source, str) and source.startswith("data:"):
        return f"{source[:40]}…"
    return str(source) if isinstance(source, (str, Path)) else f"image in memory ({type(source).__name__})"


def _digest(source: ImageLike) -> str:
    """What tells a source photo from another."""
    if isinstance(source, str) and source.startswith("data:"):
        return hashlib.sha256(source.encode()).hexdigest()
    if isinstance(source, (str, Path)):
        return file_digest(Path(source))
    shape = str(source.shape) if isinstance(source, np.ndarray) else ""
    content = source if isinstance(source, bytes) else source.tobytes()
    return hashlib.sha256(shape.encode() + content).hexdigest()


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
