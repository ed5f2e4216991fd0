"""Swapping and enhancing faces: cut aligned crops, run the networks, paste the results back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from colab_helpers.faces.colour import match_colours
from colab_helpers.faces.geometry import similarity_transform
from colab_helpers.faces.grain import Grain
from colab_helpers.faces.masks import BOX, FaceMasks, scale_mask
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.sharpness import Sharpness
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import ByteImage, Face, FaceJob, FloatArray
from colab_helpers.media.picture import Picture
from colab_helpers.settings import FrameProcessor

_Results = Iterator[tuple[ByteImage, float]]


@dataclass(frozen=True, eq=False)
class FaceChanger:
    """Swaps and enhances faces, several frames' faces at a time.

    Attributes:
        swapper: Swaps faces; None leaves them unswapped.
        latent: ``(512,)`` latent of the source; needed with a swapper.
        enhancer: Restores detail; None leaves faces unenhanced.
        blend: Maximum opacity of the enhanced face, in percent; of a swapped face only as much is used as
            keeps it no sharper than the original face was.
        colour_match: Match the colours of swapped faces to those they replace.
        masks: Limits where the change shows.
        paths: Pixel paths of the steps that sample and blend faces on the GPU.
    """

    swapper: Swapper | None
    latent: FloatArray | None
    enhancer: Enhancer | None
    blend: int = 100
    colour_match: bool = False
    masks: FaceMasks = BOX
    paths: Mapping[FrameProcessor, PixelPath] = field(default_factory=dict)

    def crop(self, picture: Picture, face: Face) -> ByteImage | None:
        """Cut the aligned crop that the swapper takes; None without a swapper."""
        if self.swapper is None:
            return None
        size = self.swapper.size
        return picture.crop(similarity_transform(face.kps, self.swapper.template), size)

    def change(self, jobs: Sequence[FaceJob]) -> None:
        """Change every face in place; several jobs may share a picture."""
        if not jobs:
            return
        grains = [Grain.of(job.picture, job.face, job.visibility, self.masks) for job in jobs]
        ceilings: list[Sharpness | None] = [None] * len(jobs)
        if self.swapper is not None and self.latent is not None:
            if self.enhancer is not None:
                ceilings = [Sharpness.of(job.picture, job.face) for job in jobs]
            self._swap(jobs, self.swapper, self.latent)
        if self.enhancer is not None:
            self._enhance(jobs, self.enhancer, ceilings)
        for grain in grains:
            if grain is not None:
                grain.restore()

    def _swap(self, jobs: Sequence[FaceJob], swapper: Swapper, latent: FloatArray) -> None:
        path = self.paths.get("face_swapper")
        if path is not None and not self.colour_match:
            skipped = path.change(jobs, self.masks, extra={"vector": latent[None]})
            jobs = [jobs[number] for number in skipped]

        def swapped(crops: Sequence[ByteImage], masks: Sequence[FloatArray]) -> _Results:
            results = swapper.swap(crops, np.repeat(latent[None], len(crops), axis=0))
            for crop, mask, new in zip(crops, masks, results, strict=True):
                yield match_colours(new, crop, mask) if self.colour_match else new, 1.0

        for job, crop in zip(jobs, self._through_crops(jobs, swapped, swapper), strict=True):
            if job.on_swapped is not None:
                job.on_swapped(crop, swapper.template)

    def _enhance(self, jobs: Sequence[FaceJob], enhancer: Enhancer, ceilings: list[Sharpness | None]) -> None:
        max_share = self.blend / 100
        if (path := self.paths.get("face_enhancer")) is not None:
            extra = {"weight": enhancer.weights(1)} if enhancer.takes_weight else {}
            skipped = path.change(jobs, self.masks, extra=extra, max_share=max_share, ceilings=ceilings)
            jobs, ceilings = [jobs[number] for number in skipped], [ceilings[number] for number in skipped]

        def enhanced(crops: Sequence[ByteImage], _masks: Sequence[FloatArray]) -> _Results:
            for crop, new, ceiling in zip(crops, enhancer.enhance(crops), ceilings, strict=True):
                yield new, max_share if ceiling is None else ceiling.share(crop, new, max_share)

        self._through_crops(jobs, enhanced, enhancer)

    def _through_crops(
        self,
        jobs: Sequence[FaceJob],
        process: Callable[[Sequence[ByteImage], Sequence[FloatArray]], _Results],
        network: Swapper | Enhancer,
    ) -> list[ByteImage]:
        """Cut one aligned crop per job, process them together, paste the results back and return them.

        Args:
            jobs: The faces.
            process: Maps all crops and their masks to result crops, each with its opacity, 0 to 1.
            network: Defines size and landmarks of the crops; for a swapper, a job's own crop is used if set.
        """
        if not jobs:
            return []
        size, swapping = network.size, isinstance(network, Swapper)
        pairs = [(job, similarity_transform(job.face.kps, network.template)) for job in jobs]
        crops = [
            job.crop if swapping and job.crop is not None else job.picture.crop(matrix, size)
            for job, matrix in pairs
        ]
        masks = [self.masks.of(size, matrix, job.face, job.visibility) for job, matrix in pairs]
        changed = list(process(crops, masks))
        for (job, matrix), mask, (crop, share) in zip(pairs, masks, changed, strict=True):
            job.picture.paste(crop, matrix, scale_mask(mask, job.face.weight * share), box=job.face.box)
        return [crop for crop, _ in changed]
