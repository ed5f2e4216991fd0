"""Changing faces in pictures: crops out, through a network as one stack, and back into their boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from colab_helpers.faces.geometry import FFHQ_512, arcface_template, similarity_transform
from colab_helpers.faces.grain import Grain
from colab_helpers.faces.masks import BOX, FaceMasks, weighted
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.picture import Picture

_FFHQ_SIZE = 512


@dataclass(frozen=True, eq=False)
class FaceJob:
    """One face to be changed in one picture; ``cover`` says what is seen of it, see `masks`."""

    picture: Picture
    face: Face
    cover: ByteImage | None = None


@dataclass(frozen=True, eq=False)
class FaceChanger:
    """Swaps and enhances faces, several frames' faces at a time.

    Attributes:
        swapper: Paints the source's face; None leaves faces as they are.
        latent: ``(512,)`` latent of the source, where there is a swapper.
        enhancer: Restores detail; None leaves crops as they are.
        blend: How much of the enhanced face is used, in percent.
        masks: Where the change shows.
    """

    swapper: Swapper | None
    latent: FloatArray | None
    enhancer: Enhancer | None
    blend: int = 100
    masks: FaceMasks = BOX

    def change(self, jobs: Sequence[FaceJob]) -> None:
        """Change every face in place; pictures may appear several times."""
        if not jobs:
            return
        grains = [Grain.of(job.picture, job.face, job.cover, self.masks) for job in jobs]
        if self.swapper is not None and self.latent is not None:
            self._swap(jobs, self.swapper, self.latent)
        if self.enhancer is not None:
            self._enhance(jobs, self.enhancer)
        for grain in grains:
            if grain is not None:
                grain.restore()

    def _swap(self, jobs: Sequence[FaceJob], swapper: Swapper, latent: FloatArray) -> None:
        latents = np.repeat(latent[None], len(jobs), axis=0)
        self._through_crops(
            jobs,
            lambda crops: swapper.swap(crops, latents),
            template=arcface_template(swapper.size),
            size=swapper.size,
        )

    def _enhance(self, jobs: Sequence[FaceJob], enhancer: Enhancer) -> None:
        self._through_crops(
            jobs,
            enhancer.enhance,
            template=FFHQ_512 * np.float32(enhancer.size / _FFHQ_SIZE),
            size=enhancer.size,
            percent=self.blend,
        )

    def _through_crops(
        self,
        jobs: Sequence[FaceJob],
        network: Callable[[list[ByteImage]], ByteImage],
        *,
        template: FloatArray,
        size: int,
        percent: int = 100,
    ) -> None:
        """Cut one aligned crop per job, run them as one stack, and blend each back at ``percent``."""
        matrices = [similarity_transform(job.face.kps, template) for job in jobs]
        crops = [job.picture.crop(matrix, size) for job, matrix in zip(jobs, matrices, strict=True)]
        changed = network(crops)
        for job, matrix, crop in zip(jobs, matrices, changed, strict=True):
            weight = job.face.weight * percent / 100
            mask = weighted(self.masks.of(size, matrix, job.face, job.cover), weight)
            job.picture.paste(crop, matrix, mask, box=job.face.box)
