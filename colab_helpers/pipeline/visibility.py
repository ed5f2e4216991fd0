"""Visibility masks of the faces of frames, computed before anything in them is changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import chain

from colab_helpers.faces.masks import FaceMasks, RawVisibility
from colab_helpers.pipeline.frames import AnyPicture, FrameChanger, FrameJob, Item, Jobs
from colab_helpers.stages import map_ordered

VISIBILITY_WINDOW = 2
"""Frames before and after each one by which its masks are smoothed."""

Visibilities = Mapping[int | None, RawVisibility]


def with_visibility(
    jobs: Iterable[FrameJob[Item, AnyPicture]], masks: FrameChanger | FaceMasks, *, workers: int
) -> Jobs[Item, AnyPicture]:
    """Yield frame jobs with the masks of their faces and those of the frames around.

    No picture may be changed yet. ``workers`` is the number of threads. If ``masks`` uses no networks,
    the jobs pass unchanged.
    """
    if not masks.uses_networks:
        yield from jobs
        return

    def with_masks(job: FrameJob[Item, AnyPicture]) -> FrameJob[Item, AnyPicture]:
        if not job.repeats:  # a repeated picture may be changed already
            pairs = zip(job.faces, masks.raw_visibility(job.picture, job.faces), strict=True)
            job.visibilities = {face.track: mask for face, mask in pairs if mask is not None}
        return job

    waiting: deque[FrameJob[Item, AnyPicture]] = deque()  # drops jobs that were yielded: pictures are large
    window: deque[Visibilities | None] = deque([None] * VISIBILITY_WINDOW, maxlen=2 * VISIBILITY_WINDOW + 1)
    visibilities: Visibilities = {}
    with closing(map_ordered(with_masks, jobs, workers=workers)) as masked_jobs:
        for job in chain(masked_jobs, [None] * VISIBILITY_WINDOW):
            if job is not None:
                waiting.append(job)
                visibilities = visibilities if job.repeats else job.visibilities
            window.append(None if job is None else visibilities)
            if len(window) == window.maxlen and waiting:
                others = (near for n, near in enumerate(window) if n != VISIBILITY_WINDOW)
                waiting[0].neighbours = [near for near in others if near is not None]
                yield waiting.popleft()
