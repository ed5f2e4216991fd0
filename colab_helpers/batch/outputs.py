"""Choose how a target is processed and the name of its result, and deliver results to object storage."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from colab_helpers.addresses import address_of, require_downloaded
from colab_helpers.batch.drive import RetryPolicy
from colab_helpers.batch.object_store import deliver, refresh_placeholder, remove, send_folder
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.errors import OutputError
from colab_helpers.files import shorten_name
from colab_helpers.language import mark, tr
from colab_helpers.media.animation import picture_suffix
from colab_helpers.media.containers import output_suffix
from colab_helpers.media.inputs import IMAGE_KINDS, is_image, require_file
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import seek_obstacle
from colab_helpers.pipeline.kept_frames import FRAME_NAME
from colab_helpers.pipeline.video_stages import segment_length
from colab_helpers.settings import Settings
from colab_helpers.trust.manifests import sidecar


def is_frame_by_frame(task: Task) -> bool:
    """Return whether a target is an image or a true GIF that does not become a video."""
    if task.target.suffix.lower() != ".gif" or task.output.suffix.lower() not in {".gif", *IMAGE_KINDS}:
        return is_image(task.target)
    require_downloaded(task.target)
    with task.target.open("rb") as file:
        return file.read(4) == b"GIF8"


def may_have_segments(task: Task, settings: Settings) -> bool:
    """Return whether a video may have several independent segments, judging by its header."""
    if is_frame_by_frame(task) or not settings.keep_fps:
        return False
    info = probe(require_file(task.target))
    length = segment_length(settings, info)
    return not seek_obstacle(info) and not (info.frames_declared and (info.frames or 0) <= length)


def resolve_output(task: Task) -> tuple[Path, str | None]:
    """Return the output's final name, and a note if it differs from the target's type.

    A video keeps its container if that can hold the result; a picture whose format cannot be written becomes
    PNG.
    """
    if task.demanded:
        return task.output, None
    own, note = task.output.suffix.lower(), None
    if not is_frame_by_frame(task):
        suffix, note = output_suffix(probe(task.target))
    elif (suffix := picture_suffix(task.target)) != own:
        text = mark("the result is a {suffix} file, the target a {own} one{because}")
        note = tr(text, suffix=suffix, own=own, because="")
    if suffix == own:
        return task.output, note
    return task.output.with_name(shorten_name("", task.output.name, suffix)), note


def deliver_result(
    report: FileReport, new: Collection[Path], retry: RetryPolicy, heartbeat: Callable[[], None]
) -> dict[Path, str]:
    """Upload a result, its manifest and its frames, if it has an address; return the SHA-256 of each file.

    ``new`` has the paths at which nothing existed when the work began. Raises like ``object_store.deliver``.
    """
    output, sent = Path(report.output or ""), dict[Path, str]()
    if address_of(output) is None:
        return sent

    def send_frames() -> None:
        folder = Path(report.frames_folder or "")
        send_folder(folder, FRAME_NAME)
        refresh_placeholder(folder)

    # The result last, so that an error leaves no result that is not journaled.
    paths = [path for path in (sidecar(output) if report.manifest else None, output) if path]
    try:
        if report.frames_folder:
            retry.attempt(send_frames)
        for path in paths:
            sent[path] = retry.attempt(partial(deliver, path, heartbeat, new=path in new))
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
            if path in new and path in sent:
                with suppress(OutputError):
                    remove(path)
        raise
    return sent
