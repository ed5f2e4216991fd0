"""Faces of a picture file: found, selected, changed; one picture, or every frame of an animation."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
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
from colab_helpers.pipeline.frames import FrameChanger, FrameJob, StatsCollector, with_reference
from colab_helpers.pipeline.outcome import FileResult, Marks, label_for
from colab_helpers.pipeline.visibility import with_visibility
from colab_helpers.stages import in_groups, map_ordered

FrameCallback = Callable[[int, int, Still, set[str]], None]
"""Called with the number of each finished frame of an animation, how many there are, the frame, and what was
done to its faces."""
Put = Callable[[Path, BinaryIO, Seal], None]
"""Puts a finished file in its place, sealed."""


def process_image(
    engine: Engine,
    assignment: Assignment,
    image: ByteImage,
    alpha: ByteImage | None = None,
    *,
    single: bool = True,
    label: Label | None = None,
) -> tuple[ByteImage, ByteImage | None, FrameStats, tuple[PersonStats, ...]]:
    """Return a new image with faces changed, its transparency, what was done, and who of those known is seen.

    The image is ``(H, W, 3)`` uint8 BGR, and larger where the settings have it enlarged; where ``alpha``
    ``(H, W)`` has it transparent, faces are seen over white. Where it is not ``single`` but a frame of a
    video, faces are found as its run finds them. The label is burnt in where AI changed a face, and ``alpha``
    made opaque there.
    """
    picture = BgrPicture(image.copy(), alpha)
    assignment, analyser = (
        with_reference(engine, assignment, [picture], number=0, where="image"),
        engine.analyser,
    )
    faces = analyser.search(picture) if single else analyser.detect(picture)
    if assignment.has_people_map or assignment.person_filter is not None or engine.settings.asks_attributes:
        faces = analyser.describe(picture, faces)
    selection = Selection(engine.settings, assignment)
    changer, chosen = FrameChanger(engine, selection), selection.in_picture(faces)
    for work in with_visibility([FrameJob(0, None, picture, chosen)], changer, workers=1):
        changer.change(work)
    measured = FrameStats(actions=selection.actions(chosen))
    measured.add_frame(0, len(chosen))
    image, people = picture.image, _people(faces, chosen, selection) if assignment.has_people_map else ()
    if engine.frame_enhancer is not None:
        image, alpha = engine.frame_enhancer.enlarge_picture(image, alpha)
    if label is not None and measured.by_ai:
        label.draw_on(image, alpha)
    return image, alpha, measured, people


def _people(faces: Sequence[Face], chosen: Sequence[Face], selection: Selection) -> tuple[PersonStats, ...]:
    """Who is seen in a single picture, each face a track of one frame."""
    measured, changed, tracks = FrameStats(), {face.track for face in chosen}, []
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
    """Change the faces of a picture file; of an animation, those of every frame.

    Without a face the file is copied byte for byte, unless another format was asked for; such a copy keeps
    the target's own marks. An animation is written whole where the result's suffix can hold one, and
    ``on_frame`` called with each of its frames in order.

    Raises:
        MediaError: The target cannot be read to its end.
        NoFaceError: The person to follow is not in it.
        OutputError: The result cannot be written.
    """
    if animation := _moving(target, output):
        size = _made_size(engine, animation.size, target)
        animation, (label, unlabelled) = replace(animation, size=size), label_for(marks, *size)
        result = _process_animation(engine, assignment, animation, output, on_frame, put, marks, label)
        return replace(result, notes=(*result.notes, *(unlabelled if result.measured.by_ai else ())))
    still = read_still(target)
    height, width = still.bgr.shape[:2]
    size = _made_size(engine, (width, height), target)
    label, unlabelled = label_for(marks, *size)
    image, alpha, measured, people = process_image(engine, assignment, still.bgr, still.alpha, label=label)
    if not measured.faces and not engine.frame_enhancer and _is_copied(target, output, still.kind):
        _put_copy(target, output, put)
        notes = [tr("no face to change was found: the picture is unchanged")]
    else:
        said = marks.parts(measured.actions) if marks else {}
        made = replace(still, bgr=image, alpha=alpha, parts={**still.parts, **said})
        data = encode_still(made, output, quality=engine.settings.output_image_quality)
        put(output, io.BytesIO(data), _seal(marks, output, measured))
        notes = [*_faceless(engine, measured, output, size), *still.losses, *still.losses_in(output)]
        notes += unlabelled if measured.by_ai else ()
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
    following = open_animation_tracking(engine, animation, assignment)
    if following.selection.needs_all_tracks:
        deque(following.find_all(detected_jobs(animation, following)), maxlen=0)
    label = None if label and following.is_free_of_ai else label
    tally = StatsCollector(following.selection)
    with AnimationWriter(kind, animation, quality=engine.settings.output_image_quality) as writer:
        with closing(_changed_frames(engine, animation, following)) as works:
            for work in works:
                tally.add(work)
                if engine.frame_enhancer is not None:
                    bgr, alpha = engine.frame_enhancer.enlarge_picture(work.item.bgr, work.item.alpha)
                    work.item = replace(work.item, bgr=bgr, alpha=alpha)
                if label is not None and label.is_shown(work.seconds):
                    label.draw_on(work.item.bgr, work.item.alpha)
                writer.write(work.item)
                if on_frame is not None:
                    done = following.selection.actions(work.faces)
                    on_frame(work.index, len(animation.durations), work.item, done)
        measured = tally.take()
        if not measured.faces and not engine.frame_enhancer and _is_copied(target, output, animation.kind):
            _put_copy(target, output, put)
            notes = [tr("no face to change was found in any frame: the picture is unchanged")]
        elif label is not None and not measured.by_ai:  # which nobody could know before
            return _process_animation(engine, assignment, animation, output, on_frame, put, marks, None)
        else:
            put(output, writer.finish(), _seal(marks, output, measured))
            notes = [*_faceless(engine, measured, output, animation.size), *animation.losses]
            notes += animation.losses_as(kind)
    return FileResult(
        frames_in=len(animation.durations),
        frames_out=tally.frames,
        measured=measured,
        seconds=time.monotonic() - started,
        encoder=None,
        provider=engine.provider,
        notes=tuple(notes),
        video_seconds=sum(animation.durations) / 1000,
        people=summarize_people(following.tracks, measured, following.selection),
    )


def _moving(target: Path, output: Path) -> Animation | None:
    """Return the animation that a result is made of; None where it is made of a single picture."""
    return Animation.of(target) if output.suffix.lower() in ANIMATION_KINDS else None


def pictures_of(target: Path, output: Path | None = None) -> Iterator[tuple[float, BgrPicture]]:
    """Yield the pictures of a picture file with their seconds; MediaError where it cannot be read.

    Where an output is named, they are those that it is made of.
    """
    animation, shown = _moving(target, output) if output else Animation.of(target), 0.0
    if animation is None:
        still = read_still(target)
        yield 0.0, BgrPicture(still.bgr, still.alpha)
        return
    for still, lasts in zip(animation.frames(), animation.durations, strict=True):
        yield shown / 1000, BgrPicture(still.bgr, still.alpha)
        shown += lasts


def open_animation_tracking(engine: Engine, animation: Animation, assignment: Assignment) -> FaceTracking:
    """Who is followed in an animation."""
    assignment = with_reference(
        engine,
        assignment,
        (BgrPicture(still.bgr, still.alpha) for still in animation.frames()),
        number=engine.settings.reference_frame_number,
        where=str(animation.path),
    )
    selection = Selection(engine.settings, assignment)
    return FaceTracking(engine.analyser, FaceIndex(None), selection, str(animation.path))


def detected_jobs(
    animation: Animation, following: FaceTracking
) -> Generator[FrameJob[Still, BgrPicture], None, None]:
    """Yield the frames of an animation, looked at where they have to be."""
    shown = 0.0
    for index, (still, lasts) in enumerate(zip(animation.frames(), animation.durations, strict=True)):
        # The picture changes the frame's own pixels.
        picture = BgrPicture(still.bgr, still.alpha)
        yield following.look(FrameJob(index, still, picture, seconds=shown / 1000))
        shown += lasts


def _changed_frames(
    engine: Engine, animation: Animation, following: FaceTracking
) -> Generator[FrameJob[Still, BgrPicture], None, None]:
    per_second = len(animation.durations) * 1000 / sum(animation.durations)
    changer = FrameChanger(engine, following.selection, every=max(1, round(per_second)))
    workers = int(engine.settings.execution_threads)
    groups = in_groups(
        with_visibility(following.works(detected_jobs(animation, following)), changer, workers=workers), 1
    )
    for group in map_ordered(changer.changed, groups, workers=workers):
        yield from group


def _seal(marks: Marks | None, output: Path, measured: FrameStats) -> Seal:
    return partial(marks.seal, output=output, actions=measured.actions) if marks else no_seal


def _is_copied(target: Path, output: Path, kind: str) -> bool:
    """Whether a target without faces is, as it stands, what was asked for."""
    same = target.suffix.lower() == output.suffix.lower()
    return same or IMAGE_KINDS.get(output.suffix.lower()) == kind


def _put_copy(target: Path, output: Path, put: Put) -> None:
    """Put a copy of the target, byte for byte, where the result goes."""
    with target.open("rb") as content:
        put(output, content, no_seal)


def _made_size(engine: Engine, size: tuple[int, int], target: Path) -> tuple[int, int]:
    """Width and height of what is made of a picture; MediaError where that is too large."""
    enhancer = engine.frame_enhancer
    return enhancer.size_of(*size, where=str(target), most=MAX_PIXELS) if enhancer else size


def _faceless(engine: Engine, measured: FrameStats, output: Path, size: tuple[int, int]) -> list[str]:
    if engine.frame_enhancer:
        only = [] if measured.faces else [tr("no face to change was found: the picture is only enlarged")]
        return [*only, engine.frame_enhancer.note(*size)]
    if measured.faces:
        return []
    told = mark("no face to change was found: the picture is as it was, but stored as {suffix}")
    return [tr(told, suffix=output.suffix)]
