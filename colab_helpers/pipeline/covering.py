"""What is in front of the faces of frames: seen before anything in them is changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from itertools import chain

from colab_helpers.faces.masks import FaceMasks, RawCover
from colab_helpers.pipeline.frames import AnyPicture, FrameChanger, Item, Work
from colab_helpers.stages import map_ordered

AROUND = 2
"""Frames before and after one by which its masks are steadied."""

Covers = Mapping[int | None, RawCover]


def with_covers(
    works: Iterable[Work[Item, AnyPicture]], looker: FrameChanger | FaceMasks, *, workers: int
) -> Generator[Work[Item, AnyPicture], None, None]:
    """Yield frames with what is in front of their faces, once those around them were looked at, too.

    Nothing in them is changed yet. Where the ``looker`` uses no network, they pass as they are; so many
    ``workers`` look at frames at a time.
    """
    if not looker.uses_networks:
        yield from works
        return

    def looked(work: Work[Item, AnyPicture]) -> Work[Item, AnyPicture]:
        if not work.repeats:  # what repeats may be changed already
            pairs = zip(work.faces, looker.raw_covers(work.picture, work.faces), strict=True)
            work.covers = {face.track: cover for face, cover in pairs if cover is not None}
        return work

    waiting: deque[Work[Item, AnyPicture]] = deque()  # without those behind: their pictures are large
    window: deque[Covers | None] = deque([None] * AROUND, maxlen=2 * AROUND + 1)
    covers: Covers = {}
    with closing(map_ordered(looked, works, workers=workers)) as all_looked:
        for work in chain(all_looked, [None] * AROUND):
            if work is not None:
                waiting.append(work)
                covers = covers if work.repeats else work.covers
            window.append(None if work is None else covers)
            if len(window) == window.maxlen and waiting:
                others = (near for n, near in enumerate(window) if n != AROUND)
                waiting[0].near = [near for near in others if near is not None]
                yield waiting.popleft()
