"""Faces of a picture file: found, selected, changed; one picture, or every frame of an animation."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.compositor import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.quality import Brightness, Measured, brightness, likeness
from colab_helpers.faces.selection import needs_embeddings, reference_embedding, select_faces
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.language import tr
from colab_helpers.media.animation import ANIMATION_KINDS, Animation, AnimationWriter
from colab_helpers.media.images import Still, encode_still, publish, read_still
from colab_helpers.media.picture import BgrPicture, Picture
from colab_helpers.media.probe import IMAGE_KINDS
from colab_helpers.pipeline.frames import Tally
from colab_helpers.pipeline.outcome import FileResult
from colab_helpers.stages import map_ordered

FrameCallback = Callable[[int, int, Still], None]
"""Called with the number of each finished frame of an animation, how many there are, and the frame."""
Publish = Callable[[Path, BinaryIO], None]
"""Puts a finished file in its place."""


@dataclass(frozen=True, eq=False)
class FaceFinder:
    """Finds and selects the faces of a picture; the reference stays that of its first frame asked for."""

    engine: Engine
    reference: FloatArray | None

    @classmethod
    def for_picture(cls, engine: Engine, picture: Picture, *, where: str) -> FaceFinder:
        """A finder whose reference, if the settings need one, is the person of this picture.

        Raises:
            NoFaceError: It does not show that person.
        """
        if not needs_embeddings(engine.settings):
            return cls(engine, None)
        faces = engine.analyser.embed(picture, engine.analyser.detect(picture))
        return cls(engine, reference_embedding(faces, engine.settings, where=where))

    def find(self, picture: Picture) -> list[Face]:
        """The faces that are to be changed."""
        analyser, settings = self.engine.analyser, self.engine.settings
        faces = analyser.detect(picture)
        if needs_embeddings(settings):
            faces = analyser.embed(picture, faces)
        return select_faces(faces, settings, reference=self.reference)


def process_image(
    engine: Engine, source: FloatArray | None, image: ByteImage, alpha: ByteImage | None = None
) -> tuple[ByteImage, int]:
    """Change the faces of one image.

    Args:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        image: ``(H, W, 3)`` uint8 BGR; not changed.
        alpha: ``(H, W)`` uint8 where it is transparent: faces are seen over white.

    Returns:
        The new image and how many faces were changed.
    """
    picture = BgrPicture(image.copy(), alpha)
    faces = FaceFinder.for_picture(engine, picture, where="image").find(picture)
    engine.changer(source).change([FaceJob(picture, face) for face in faces])
    return picture.image, len(faces)


def process_picture(
    engine: Engine,
    source: FloatArray | None,
    target: Path,
    output: Path,
    *,
    on_frame: FrameCallback | None = None,
    put: Publish = publish,
) -> FileResult:
    """Change the faces of a picture file; of an animation, those of every frame.

    Without a face the file is copied byte for byte, unless another format was asked for.

    Args:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        target: The picture.
        output: The result. An animation is written whole where this suffix can hold one.
        on_frame: Called with each finished frame of an animation, in order.
        put: Puts the result in its place.

    Raises:
        MediaError: The target cannot be read to its end.
        NoFaceError: The person to follow is not in it.
        OutputError: The result cannot be written.
    """
    kind = ANIMATION_KINDS.get(output.suffix.lower())
    animation = Animation.of(target) if kind else None
    if kind and animation:
        return _process_animation(engine, source, animation, output, kind, on_frame, put)
    still = read_still(target)
    image, faces = process_image(engine, source, still.bgr, still.alpha)
    measured = Measured()
    measured.add_frame(0, faces)
    if not faces and _is_copied(target, output, still.kind):
        _put_copy(target, output, put)
        notes = [tr("no face was found: the picture is unchanged")]
    else:
        data = encode_still(replace(still, bgr=image), output, quality=engine.settings.output_image_quality)
        put(output, io.BytesIO(data))
        notes = [*_faceless(measured, output), *still.losses, *still.losses_in(output)]
    return FileResult(1, 1, measured, 0.0, None, engine.provider, tuple(notes))


def _process_animation(
    engine: Engine,
    source: FloatArray | None,
    animation: Animation,
    output: Path,
    kind: str,
    on_frame: FrameCallback | None,
    put: Publish,
) -> FileResult:
    started, tally, target = time.monotonic(), Tally(), animation.path
    with AnimationWriter(kind, animation, quality=engine.settings.output_image_quality) as writer:
        with closing(_changed_frames(engine, source, animation)) as frames:
            for frame in frames:
                tally.add(frame)
                writer.write(frame.still)
                if on_frame is not None:
                    on_frame(frame.index, len(animation.durations), frame.still)
        measured = tally.take()
        if not measured.faces and _is_copied(target, output, animation.kind):
            _put_copy(target, output, put)
            notes = [tr("no face was found in any frame: the picture is unchanged")]
        else:
            put(output, writer.finish())
            notes = [*_faceless(measured, output), *animation.losses, *animation.losses_as(kind)]
    return FileResult(
        frames_in=len(animation.durations),
        frames_out=tally.frames,
        measured=measured,
        seconds=time.monotonic() - started,
        encoder=None,
        provider=engine.provider,
        notes=tuple(notes),
        video_seconds=sum(animation.durations) / 1000,
    )


@dataclass(eq=False)
class _Frame:
    """A frame of an animation, changed and measured; see ``Tally``."""

    index: int
    still: Still
    faces: Sequence[Face]
    before: Brightness | None = None
    after: Brightness | None = None
    similarity: float | None = None
    repeats: bool = False


def _changed_frames(
    engine: Engine, source: FloatArray | None, animation: Animation
) -> Generator[_Frame, None, None]:
    finder, changer = _finder(engine, animation), engine.changer(source)
    per_second = len(animation.durations) * 1000 / sum(animation.durations)
    every = max(1, round(per_second))

    def change(numbered: tuple[int, Still]) -> _Frame:
        index, still = numbered
        picture = BgrPicture(still.bgr, still.alpha)  # changes the frame's own pixels
        frame = _Frame(index, still, finder.find(picture))
        if frame.faces:
            largest = max(frame.faces, key=lambda face: face.area)
            frame.before = brightness(picture, largest, index)
            changer.change([FaceJob(picture, face) for face in frame.faces])
            frame.after = brightness(picture, largest, index)
            if source is not None and index % every == 0:
                frame.similarity = likeness(engine.analyser, picture, largest, source)
        return frame

    yield from map_ordered(
        change, enumerate(animation.frames()), workers=int(engine.settings.execution_threads)
    )


def _finder(engine: Engine, animation: Animation) -> FaceFinder:
    """A finder that follows the person of the reference frame, where the settings ask for one."""
    if not needs_embeddings(engine.settings):
        return FaceFinder(engine, None)
    number = engine.settings.reference_frame_number
    still = next(islice(animation.frames(), number, None), None)
    if still is None:
        raise NoFaceError(
            tr("reference_frame_number is {number}, but the video ends before it", number=number),
            where=str(animation.path),
            remedy=tr("choose an earlier frame"),
        )
    picture = BgrPicture(still.bgr, still.alpha)
    return FaceFinder.for_picture(engine, picture, where=str(animation.path))


def _is_copied(target: Path, output: Path, kind: str) -> bool:
    """Whether a target without faces is, as it stands, what was asked for."""
    same = target.suffix.lower() == output.suffix.lower()
    return same or IMAGE_KINDS.get(output.suffix.lower()) == kind


def _put_copy(target: Path, output: Path, put: Publish) -> None:
    """Put a copy of the target, byte for byte, where the result goes."""
    with target.open("rb") as content:
        put(output, content)


def _faceless(measured: Measured, output: Path) -> list[str]:
    if measured.faces:
        return []
    return [tr("no face was found: the picture is as it was, but stored as {suffix}", suffix=output.suffix)]
