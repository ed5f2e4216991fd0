"""What frames show of the faces that are to be changed: seen before anything in them is."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from itertools import chain

from colab_helpers.faces.masks import FaceMasks, Look
from colab_helpers.pipeline.frames import AnyPicture, Item, Work
from colab_helpers.stages import map_ordered

AROUND = 2
"""Frames before and after one by which its masks are steadied."""

Seen = tuple[Work[Item, AnyPicture], Mapping[int | None, Look]]


def with_looks(
    works: Iterable[Work[Item, AnyPicture]], masks: FaceMasks, *, workers: int
) -> Generator[Work[Item, AnyPicture], None, None]:
    """Yield frames with what is seen of their faces, once those around them were looked at, too.

    Args:
        works: Frames with their faces; nothing in them is changed yet.
        masks: Says what is seen; where it looks at nothing, frames pass as they are.
        workers: Frames that are looked at at a time.
    """
    if not masks.looks:
        yield from works
        return

    def looked(work: Work[Item, AnyPicture]) -> Work[Item, AnyPicture]:
        if not work.repeats:  # what repeats may be changed already
            work.looks = masks.look(work.picture, work.faces)
        return work

    window: deque[Seen[Item, AnyPicture] | None] = deque([None] * AROUND, maxlen=2 * AROUND + 1)
    shown: dict[int | None, Look] = {}
    with closing(map_ordered(looked, works, workers=workers)) as all_looked:
        for work in chain(all_looked, [None] * AROUND):
            if work is None:
                window.append(None)
            else:
                if not work.repeats:
                    shown = _by_track(work)
                window.append((work, shown))
            if len(window) == window.maxlen and (middle := window[AROUND]) is not None:
                others = (one for n, one in enumerate(window) if n != AROUND and one is not None)
                middle[0].near = [looks for _, looks in others]
                yield middle[0]


def _by_track(work: Work[Item, AnyPicture]) -> dict[int | None, Look]:
    pairs = zip(work.faces, work.looks, strict=True)
    return {face.track: look for face, look in pairs if face.track is not None and look is not None}
