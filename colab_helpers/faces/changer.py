"""Changing faces in pictures: crops out, through a network as one stack, and back into their boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from colab_helpers.faces.geometry import similarity_transform
from colab_helpers.faces.grain import Grain
from colab_helpers.faces.masks import face_mask, weighted
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.picture import Picture


@dataclass(frozen=True, eq=False)
class FaceJob:
    """One face to be changed in one picture.

    Attributes:
        watch: Called once the swapped face is pasted, with the crop ``(S, S, 3)`` uint8 BGR as the network
            gave it, and where the face's five points are in it, ``(5, 2)``.
    """

    picture: Picture
    face: Face
    watch: Callable[[ByteImage, FloatArray], None] | None = None


@dataclass(frozen=True, eq=False)
class FaceChanger:
    """Swaps and enhances faces, several frames' faces at a time.

    Attributes:
        swapper: Paints the source's face; None leaves faces as they are.
        latent: ``(512,)`` latent of the source, where there is a swapper.
        enhancer: Restores detail; None leaves crops as they are.
        blend: How much of the enhanced face is used, in percent.
    """

    swapper: Swapper | None
    latent: FloatArray | None
    enhancer: Enhancer | None
    blend: int = 100

    def change(self, jobs: Sequence[FaceJob]) -> None:
        """Change every face in place; pictures may appear several times."""
        if not jobs:
            return
        grains = [Grain.of(job.picture, job.face) for job in jobs]
        if self.swapper is not None and self.latent is not None:
            self._swap(jobs, self.swapper, self.latent)
        if self.enhancer is not None:
            self._enhance(jobs, self.enhancer)
        for grain in grains:
            if grain is not None:
                grain.restore()

    def _swap(self, jobs: Sequence[FaceJob], swapper: Swapper, latent: FloatArray) -> None:
        latents = np.repeat(latent[None], len(jobs), axis=0)
        swapped = _through_crops(
            jobs,
            lambda crops: swapper.swap(crops, latents),
            template=swapper.template,
            size=swapper.size,
            mask=face_mask(swapper.size),
        )
        for job, crop in zip(jobs, swapped, strict=True):
            if job.watch is not None:
                job.watch(crop, swapper.template)

    def _enhance(self, jobs: Sequence[FaceJob], enhancer: Enhancer) -> None:
        _through_crops(
            jobs,
            enhancer.enhance,
            template=enhancer.template,
            size=enhancer.size,
            mask=face_mask(enhancer.size),
            percent=self.blend,
        )


def _through_crops(
    jobs: Sequence[FaceJob],
    network: Callable[[list[ByteImage]], ByteImage],
    *,
    template: FloatArray,
    size: int,
    mask: FloatArray,
    percent: int = 100,
) -> ByteImage:
    """Cut one aligned crop per job, run them as one stack, and blend each back at ``percent`` of the mask.

    Returns:
        ``(N, size, size, 3)`` uint8 BGR as the network gave them.
    """
    matrices = [similarity_transform(job.face.kps, template) for job in jobs]
    crops = [job.picture.crop(matrix, size) for job, matrix in zip(jobs, matrices, strict=True)]
    changed = network(crops)
    for job, matrix, crop in zip(jobs, matrices, changed, strict=True):
        weight = job.face.weight * percent / 100
        job.picture.paste(crop, matrix, weighted(mask, weight), box=job.face.box)
    return changed
