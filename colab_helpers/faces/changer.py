"""Changing faces in pictures: crops out, through a network as one stack, and back into their boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from colab_helpers.faces.colour import colour_matched
from colab_helpers.faces.geometry import similarity_transform
from colab_helpers.faces.grain import Grain
from colab_helpers.faces.masks import BOX, FaceMasks, weighted
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.sharpness import Sharpness
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import ByteImage, Face, FaceJob, FloatArray
from colab_helpers.media.picture import Picture
from colab_helpers.settings import FrameProcessor


@dataclass(frozen=True, eq=False)
class FaceChanger:
    """Swaps and enhances faces, several frames' faces at a time.

    Attributes:
        swapper: Paints the source's face; None leaves faces as they are.
        latent: ``(512,)`` latent of the source, where there is a swapper.
        enhancer: Restores detail; None leaves crops as they are.
        blend: How much of the enhanced face is used at most, in percent; of a swapped one no more than leaves
            it as sharp as the face in the shot was.
        colour_match: Give swapped faces the colours of those they replace.
        masks: Where the change shows.
        paths: Of the steps whose faces are done where the network runs.
    """

    swapper: Swapper | None
    latent: FloatArray | None
    enhancer: Enhancer | None
    blend: int = 100
    colour_match: bool = False
    masks: FaceMasks = BOX
    paths: Mapping[FrameProcessor, PixelPath] = field(default_factory=dict)

    def crop(self, picture: Picture, face: Face) -> ByteImage | None:
        """Cut out what the swapper sees of a face; None where there is no swapper."""
        if self.swapper is None:
            return None
        size = self.swapper.size
        return picture.crop(similarity_transform(face.kps, self.swapper.template), size)

    def change(self, jobs: Sequence[FaceJob]) -> None:
        """Change every face in place; pictures may appear several times."""
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
            left = path.change(jobs, self.masks, beside={"vector": latent[None]})
            jobs = [jobs[number] for number in left]

        def swapped(
            crops: Sequence[ByteImage], masks: Sequence[FloatArray]
        ) -> Iterator[tuple[ByteImage, float]]:
            news = swapper.swap(crops, np.repeat(latent[None], len(crops), axis=0))
            for crop, mask, new in zip(crops, masks, news, strict=True):
                yield colour_matched(new, crop, mask) if self.colour_match else new, 1.0

        news = self._through_crops(
            jobs,
            swapped,
            template=swapper.template,
            size=swapper.size,
            crops=[job.crop for job in jobs],
        )
        for job, crop in zip(jobs, news, strict=True):
            if job.on_swapped is not None:
                job.on_swapped(crop, swapper.template)

    def _enhance(
        self, jobs: Sequence[FaceJob], enhancer: Enhancer, ceilings: Sequence[Sharpness | None]
    ) -> None:
        most = self.blend / 100
        if (path := self.paths.get("face_enhancer")) is not None:
            beside = {"weight": enhancer.weights(1)} if enhancer.weighted else {}
            left = path.change(jobs, self.masks, beside=beside, most=most, ceilings=ceilings)
            jobs, ceilings = [jobs[number] for number in left], [ceilings[number] for number in left]

        def enhanced(
            crops: Sequence[ByteImage], _masks: Sequence[FloatArray]
        ) -> Iterator[tuple[ByteImage, float]]:
            for crop, new, ceiling in zip(crops, enhancer.enhance(crops), ceilings, strict=True):
                yield new, most if ceiling is None else ceiling.share(crop, new, most)

        self._through_crops(
            jobs,
            enhanced,
            template=enhancer.template,
            size=enhancer.size,
        )

    def _through_crops(
        self,
        jobs: Sequence[FaceJob],
        network: Callable[[Sequence[ByteImage], Sequence[FloatArray]], Iterable[tuple[ByteImage, float]]],
        *,
        template: FloatArray,
        size: int,
        crops: Sequence[ByteImage | None] = (),
    ) -> list[ByteImage]:
        """Cut one aligned crop per job, run them as one stack, and blend each back.

        Args:
            jobs: The faces.
            network: Gives for all crops and their masks new ones, each with the share at which it is blended.
            template: Where a face's points belong in a crop.
            size: A crop's edge.
            crops: Those that are cut already.

        Returns:
            The new crops.
        """
        if not jobs:
            return []
        matrices = [similarity_transform(job.face.kps, template) for job in jobs]
        pairs = list(zip(jobs, matrices, strict=True))
        shown = [
            job.picture.crop(matrix, size) if crop is None else crop
            for (job, matrix), crop in zip(pairs, crops or [None] * len(jobs), strict=True)
        ]
        masks = [self.masks.of(size, matrix, job.face, job.visibility) for job, matrix in pairs]
        changed = list(network(shown, masks))
        for (job, matrix), mask, (crop, share) in zip(pairs, masks, changed, strict=True):
            job.picture.paste(crop, matrix, weighted(mask, job.face.weight * share), box=job.face.box)
        return [crop for crop, _ in changed]
