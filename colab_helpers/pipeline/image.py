"""Run of a picture file: a single picture, or every frame of an animation."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex
from colab_helpers.faces.person_stats import PersonStats, summarize_people
from colab_helpers.faces.quality import FrameStats, TrackStats
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.files import Seal, copy_atomically, no_seal
from colab_helpers.language import mark, tr
from colab_helpers.media.animation import ANIMATION_KINDS, Animation, AnimationWriter
from colab_helpers.media.images import MAX_PIXELS, Still, encode_still, read_still
from colab_helpers.media.inputs import IMAGE_KINDS
from colab_helpers.media.label import Label
from colab_helpers.media.picture import BgrPicture
from colab_helpers.pipeline.face_tracking import FaceTracking
from colab_helpers.pipeline.frames import FrameChanger, FrameJob, Jobs, StatsCollector, with_reference
from colab_helpers.pipeline.outcome import FileResult, Marks, label_for
from colab_helpers.pipeline.visibility import with_visibility
from colab_helpers.stages import in_groups, map_ordered

FrameCallback = Callable[[int, int, Still, set[str]], None]
"""Called with the number of a finished frame of an animation, how many there are, the frame, and the actions
on its faces."""
Put = Callable[[Path, BinaryIO, Seal], None]
"""Publishes a finished file under a path once it is sealed."""


def process_image(
    engine: Engine,
    assignment: Assignment,
    image: ByteImage,
    alpha: ByteImage | None = None,
    *,
    single: bool = True,
    label: Label | None = None,
) -> tuple[ByteImage, ByteImage | None, FrameStats, tuple[PersonStats, ...]]:
    """Change the faces of an image.

    Args:
        engine: The loaded networks.
        assignment: What is done to whom.
        image: ``(H, W, 3)`` uint8 BGR; not modified.
        alpha: ``(H, W)`` uint8; transparent pixels are shown to the networks over white.
        single: Whether this is a picture; for a frame of a video, faces are detected as in its run.
        label: Burnt in, opaque, if AI changed a face.

    Returns:
        The new image, larger if the settings enlarge it, its alpha channel, the statistics, and the people of
        the people map seen in it.
    """
    picture, analyser = BgrPicture(image.copy(), alpha), engine.analyser
    assignment = with_reference(engine, assignment, [picture], number=0, where="image")
    faces = analyser.search(picture) if single else analyser.detect(picture)
    if assignment.has_people_map or assignment.person_filter is not None or engine.settings.needs_attributes:
        faces = analyser.describe(picture, faces)
    selection = Selection(engine.settings, assignment)
    changer, selected = FrameChanger(engine, selection), selection.in_picture(faces)
    for job in with_visibility([FrameJob(0, None, picture, selected)], changer, workers=1):
        changer.change(job)
    measured = FrameStats(actions=selection.actions(selected))
    measured.add_frame(0, len(selected))
    image, people = picture.image, _people(faces, selected, selection) if assignment.has_people_map else ()
    if engine.frame_enhancer is not None:
        image, alpha = engine.frame_enhancer.enlarge_picture(image, alpha)
    if label is not None and measured.by_ai:
        label.draw_on(image, alpha)
    return image, alpha, measured, people


def _people(faces: Sequence[Face], selected: Sequence[Face], selection: Selection) -> tuple[PersonStats, ...]:
    """Return the statistics of the people in a single picture, each face as a track of one frame."""
    measured, changed, tracks = FrameStats(), {face.track for face in selected}, []
    for number, face in enumerate(faces):
        tracks.append(Track(number, 0, 0))
        tracks[-1].add(0, face, 0.0)
        measured.tracks[number] = TrackStats(seen=1, changed=number in changed)
    return summarize_people(tracks, measured, selection)


def process_picture(
    engine: Engine,
    assignment: Assignment,
    target: Path,
    output: Path,
    *,
    on_frame: FrameCallback | None = None,
    put: Put = copy_atomically,
    marks: Marks | None = None,
) -> FileResult:
    """Change the faces of a picture file, in every frame if it is an animation.

    Without a face to change, the file is copied byte for byte, including its own marks, unless the result has
    another format. An animation stays one if the result's suffix allows, and ``on_frame`` is called with each
    frame in order.

    Raises:
        MediaError: The target cannot be read to its end.
        NoFaceError: The person to follow is not in it.
        OutputError: The result cannot be written.
    """
    if animation := _animation_of(target, output):
        size = _result_size(engine, animation.size, target)
        animation, (label, label_notes) = replace(animation, size=size), label_for(marks, *size)
        result = _process_animation(engine, assignment, animation, output, on_frame, put, marks, label)
        return replace(result, notes=(*result.notes, *(label_notes if result.measured.by_ai else ())))
    still = read_still(target)
    height, width = still.bgr.shape[:2]
    size = _result_size(engine, (width, height), target)
    label, label_notes = label_for(marks, *size)
    image, alpha, measured, people = process_image(engine, assignment, still.bgr, still.alpha, label=label)
    if not measured.faces and not engine.frame_enhancer and _is_copyable(target, output, still.kind):
        _put_copy(target, output, put)
        notes = [tr("no face to change was found: the picture is unchanged")]
    else:
        parts = {**still.parts, **(marks.parts(measured.actions) if marks else {})}
        result_still = replace(still, bgr=image, alpha=alpha, parts=parts)
        data = encode_still(result_still, output, quality=engine.settings.output_image_quality)
        put(output, io.BytesIO(data), _seal(marks, output, measured))
        notes = [*_face_notes(engine, measured, output, size), *still.losses, *still.losses_in(output)]
        notes += label_notes if measured.by_ai else ()
    return FileResult(1, 1, measured, 0.0, None, engine.provider, tuple(notes), people=people)


def _process_animation(
    engine: Engine,
    assignment: Assignment,
    animation: Animation,
    output: Path,
    on_frame: FrameCallback | None,
    put: Put,
    marks: Marks | None,
    label: Label | None,
) -> FileResult:
    started, target, kind = time.monotonic(), animation.path, ANIMATION_KINDS[output.suffix.lower()]
    faces = open_animation_tracking(engine, animation, assignment)
    if faces.selection.needs_all_tracks:
        deque(faces.find_all(detected_jobs(animation, faces)), maxlen=0)
    label = None if label and faces.is_free_of_ai else label
    collector = StatsCollector(faces.selection)
    with AnimationWriter(kind, animation, quality=engine.settings.output_image_quality) as writer:
        with closing(_changed_frames(engine, animation, faces)) as jobs:
            for job in jobs:
                collector.add(job)
                if engine.frame_enhancer is not None:
                    bgr, alpha = engine.frame_enhancer.enlarge_picture(job.item.bgr, job.item.alpha)
                    job.item = replace(job.item, bgr=bgr, alpha=alpha)
                if label is not None and label.is_shown(job.seconds):
                    label.draw_on(job.item.bgr, job.item.alpha)
                writer.write(job.item)
                if on_frame is not None:
                    actions = faces.selection.actions(job.faces)
                    on_frame(job.index, len(animation.durations), job.item, actions)
        measured = collector.take()
        if not measured.faces and not engine.frame_enhancer and _is_copyable(target, output, animation.kind):
            _put_copy(target, output, put)
            notes = [tr("no face to change was found in any frame: the picture is unchanged")]
        elif label is not None and not measured.by_ai:  # known only now
            return _process_animation(engine, assignment, animation, output, on_frame, put, marks, None)
        else:
            put(output, writer.finish(), _seal(marks, output, measured))
            notes = [*_face_notes(engine, measured, output, animation.size), *animation.losses]
            notes += animation.losses_as(kind)
    return FileResult(
        frames_in=len(animation.durations),
        frames_out=collector.frames,
        measured=measured,
        seconds=time.monotonic() - started,
        encoder=None,
        provider=engine.provider,
        notes=tuple(notes),
        video_seconds=sum(animation.durations) / 1000,
        people=summarize_people(faces.tracks, measured, faces.selection),
    )


def _animation_of(target: Path, output: Path) -> Animation | None:
    """Return the animation from which a result is made; None if it is made from a single picture."""
    return Animation.of(target) if output.suffix.lower() in ANIMATION_KINDS else None


def pictures_of(target: Path, output: Path | None = None) -> Iterator[tuple[float, BgrPicture]]:
    """Yield the pictures of a picture file with their times in seconds; raise MediaError if it is unreadable.

    With ``output``, only those that it is made from.
    """
    animation, time_ms = _animation_of(target, output) if output else Animation.of(target), 0.0
    if animation is None:
        still = read_still(target)
        yield 0.0, BgrPicture(still.bgr, still.alpha)
        return
    for still, duration in zip(animation.frames(), animation.durations, strict=True):
        yield time_ms / 1000, BgrPicture(still.bgr, still.alpha)
        time_ms += duration


def open_animation_tracking(engine: Engine, animation: Animation, assignment: Assignment) -> FaceTracking:
    """Open the face tracking of an animation."""
    pictures = (BgrPicture(still.bgr, still.alpha) for still in animation.frames())
    number, where = engine.settings.reference_frame_number, str(animation.path)
    assignment = with_reference(engine, assignment, pictures, number=number, where=where)
    return FaceTracking(engine.analyser, FaceIndex(None), Selection(engine.settings, assignment), where)


def detected_jobs(animation: Animation, faces: FaceTracking) -> Jobs[Still, BgrPicture]:
    """Yield the frames of an animation after `FaceTracking.detect`."""
    time_ms = 0.0
    for index, (still, duration) in enumerate(zip(animation.frames(), animation.durations, strict=True)):
        picture = BgrPicture(still.bgr, still.alpha)  # changes the pixels of the frame itself
        yield faces.detect(FrameJob(index, still, picture, seconds=time_ms / 1000))
        time_ms += duration


def _changed_frames(engine: Engine, animation: Animation, faces: FaceTracking) -> Jobs[Still, BgrPicture]:
    per_second = len(animation.durations) * 1000 / sum(animation.durations)
    changer = FrameChanger(engine, faces.selection, every=max(1, round(per_second)))
    workers = int(engine.settings.execution_threads)
    masked = with_visibility(faces.jobs(detected_jobs(animation, faces)), changer, workers=workers)
    for group in map_ordered(changer.change_group, in_groups(masked, 1), workers=workers):
        yield from group


def _seal(marks: Marks | None, output: Path, measured: FrameStats) -> Seal:
    return partial(marks.seal, output=output, actions=measured.actions) if marks else no_seal


def _is_copyable(target: Path, output: Path, kind: str) -> bool:
    """Return whether a target without a face to change already has the format of the result."""
    suffix = output.suffix.lower()
    return target.suffix.lower() == suffix or IMAGE_KINDS.get(suffix) == kind


def _put_copy(target: Path, output: Path, put: Put) -> None:
    """Publish a byte-for-byte copy of the target as the result."""
    with target.open("rb") as content:
        put(output, content, no_seal)


def _result_size(engine: Engine, size: tuple[int, int], target: Path) -> tuple[int, int]:
    """Return width and height of the result of a picture; raise MediaError if that is too large."""
    enhancer = engine.frame_enhancer
    return enhancer.size_of(*size, where=str(target), most=MAX_PIXELS) if enhancer else size


def _face_notes(engine: Engine, measured: FrameStats, output: Path, size: tuple[int, int]) -> list[str]:
    if engine.frame_enhancer:
        notes = [] if measured.faces else [tr("no face to change was found: the picture is only enlarged")]
        return [*notes, engine.frame_enhancer.note(*size)]
    if measured.faces:
        return []
    note = mark("no face to change was found: the picture is unchanged, but converted to {suffix}")
    return [tr(note, suffix=output.suffix)]
