"""What is in front of the faces of frames: seen before anything in them is changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from itertools import chain

from colab_helpers.faces.masks import FaceMasks, RawVisibility
from colab_helpers.pipeline.frames import AnyPicture, FrameChanger, FrameJob, Item
from colab_helpers.stages import map_ordered

VISIBILITY_WINDOW = 2
"""Frames before and after one by which its masks are steadied."""

Visibilities = Mapping[int | None, RawVisibility]


def with_visibility(
    works: Iterable[FrameJob[Item, AnyPicture]], looker: FrameChanger | FaceMasks, *, workers: int
) -> Generator[FrameJob[Item, AnyPicture], None, None]:
    """Yield frames with what is in front of their faces, once those around them were looked at, too.

    Nothing in them is changed yet. Where the ``looker`` uses no network, they pass as they are; so many
    ``workers`` look at frames at a time.
    """
    if not looker.uses_networks:
        yield from works
        return

    def looked(work: FrameJob[Item, AnyPicture]) -> FrameJob[Item, AnyPicture]:
        if not work.repeats:  # what repeats may be changed already
            pairs = zip(work.faces, looker.raw_visibility(work.picture, work.faces), strict=True)
            work.visibilities = {
                face.track: visibility for face, visibility in pairs if visibility is not None
            }
        return work

    waiting: deque[FrameJob[Item, AnyPicture]] = deque()  # without those behind: their pictures are large
    window: deque[Visibilities | None] = deque([None] * VISIBILITY_WINDOW, maxlen=2 * VISIBILITY_WINDOW + 1)
    visibilities: Visibilities = {}
    with closing(map_ordered(looked, works, workers=workers)) as all_looked:
        for work in chain(all_looked, [None] * VISIBILITY_WINDOW):
            if work is not None:
                waiting.append(work)
                visibilities = visibilities if work.repeats else work.visibilities
            window.append(None if work is None else visibilities)
            if len(window) == window.maxlen and waiting:
                others = (near for n, near in enumerate(window) if n != VISIBILITY_WINDOW)
                waiting[0].near = [near for near in others if near is not None]
                yield waiting.popleft()
