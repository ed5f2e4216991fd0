"""Faces of video frames sampled and blended where their network runs: a processor only copies.

What a face's network is shown and where its picture goes is reckoned here, and handed as numbers to the
graphs of ``pixel_graph``. OpenCV does the rest: faces that do not fit into ``EDGES``, are near others, or so
large that a crop averages what it shows; swaps of several tiles or in matched colours; whatever is no video
frame in 4:2:0 of 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_helpers.faces.geometry import similarity_transform
from colab_helpers.faces.masks import VISIBILITY_SIZE, VISIBILITY_TEMPLATE, FaceMasks, mask_edge
from colab_helpers.faces.pixel_graph import HEAD, NO_LIMIT, Area, head, tail, tail_numbers
from colab_helpers.faces.sharpness import MAX_PIXELS, REACH, Sharpness
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import FaceJob, FloatArray
from colab_helpers.media.affine import Matrix, compose, crop_bounds, invert, resizing, zoom_of
from colab_helpers.media.blending import PlaneLayout, Region, extend_box, face_region, ramps_of
from colab_helpers.media.colour import bgr_to_yuv_matrix, yuv_to_bgr_matrix
from colab_helpers.media.picture import HALF_CHROMA_ZOOM, VideoPicture
from colab_helpers.models.cuda_graphs import DeviceBuffers
from colab_helpers.models.session import Runtime
from colab_helpers.settings import FrameProcessor

Arrays = Mapping[str, npt.NDArray[Any]]
EDGES = (512, 1024)
"""Luma samples a side that a face's part of a frame may have; there are graphs for each."""
# A crop's corners, rounded, and what lies between samples of chroma.
_MARGIN = 3
# A crop reaches so far: sizes of two faces' boxes, added, within which one is in the other's.
_NEAR = 0.65
# OpenCV's coefficients for colours of 8 bits have so many steps; with finer ones every tenth pixel is off.
_STEPS = 1024
_UNCOVERED = np.full((VISIBILITY_SIZE, VISIBILITY_SIZE), 255, np.uint8)


@dataclass(eq=False)
class _Graphs:
    """The graphs on both sides of a network in its places, and what was put there last."""

    before: DeviceBuffers | None
    behind: DeviceBuffers
    pixels: npt.NDArray[Any]
    held: dict[str, Any]


@dataclass(eq=False)
class PixelPath:
    """Changes faces with the network of ``part``, which ``runtime`` opened."""

    part: Swapper | Enhancer
    runtime: Runtime
    _made: bool = field(default=False, init=False)

    @property
    def step(self) -> FrameProcessor:
        """What the network is for."""
        return "face_enhancer" if isinstance(self.part, Enhancer) else "face_swapper"

    def prepare(self, *, capture: bool) -> None:
        """Make the graphs, captured if asked: no other work may be on the GPU then."""

        def work(places: DeviceBuffers) -> None:
            self._made = True
            for edge in EDGES:
                area = Area(edge)
                graphs = places.kept[area] = self._graphs(area, places, capture=capture)
                for side in (graphs.before, graphs.behind):
                    if side is not None:
                        side.run({})

        self.part.network.run_on_device(work, capturing=capture)

    def drop(self) -> None:
        """Free what was made."""
        if self._made:
            self.part.network.run_on_device(lambda places: places.kept.clear())

    def change(
        self,
        jobs: Sequence[FaceJob],
        masks: FaceMasks,
        *,
        beside: Arrays,
        most: float = 1.0,
        ceilings: Sequence[Sharpness | None] = (),
    ) -> list[int]:
        """Change the faces that can be in place; return the numbers of the others.

        Args:
            jobs: The faces; a swapper is shown their ``crop``.
            masks: Where the change shows.
            beside: What goes beside the picture, by its kind of input, for one face.
            most: Share of the network's picture at most.
            ceilings: How sharp each face may become; None where that does not matter.
        """
        left, mask = [], masks.limit(self.part.size)
        for number, job in enumerate(jobs):
            own = None if _is_near(job, jobs) else _Part.of(job, self.part)
            if own is None:
                left.append(number)
            else:
                ceiling = ceilings[number] if ceilings else None
                numbers = own.numbers(self.part.size, most, ceiling)
                self._change(own, mask, beside, numbers)
        return left

    def _change(self, own: _Part, mask: FloatArray, beside: Arrays, numbers: Mapping[str, Any]) -> None:
        part, job = self.part, own.job
        values, on_swapped = dict(beside), None
        if isinstance(part, Swapper):
            on_swapped = job.on_swapped
            crop = job.picture.crop(own.matrix, part.size) if job.crop is None else job.crop
            values["picture"] = part.blob(crop)
        pairs = zip(part.network.input_names, part.fit.inputs, strict=True)
        feed = {name: values[kind] for name, kind in pairs if kind in values}
        still: Arrays = {"mask": mask, "cover": _UNCOVERED if job.visibility is None else job.visibility}

        def work(places: DeviceBuffers) -> tuple[npt.NDArray[Any], Any]:
            if own.area not in places.kept:
                places.kept[own.area] = self._graphs(own.area, places, capture=False)
            graphs: _Graphs = places.kept[own.area]
            own.read(graphs.pixels)
            given: dict[str, Any] = {"pixels": graphs.pixels}
            if graphs.before is not None:
                graphs.before.run({**given, "numbers": _joined(numbers, HEAD)})
                given = {}  # it lies there now
            places.run(feed)
            moved = {name: array for name, array in still.items() if graphs.held.get(name) is not array}
            order = tail_numbers(own.area, sharp=graphs.before is not None)
            graphs.behind.run({**given, **moved, "numbers": _joined(numbers, order)})
            graphs.held.update(moved)
            new = places.read(part.network.output_names[part.fit.picture]) if on_swapped else None
            return graphs.behind.read("blended"), new

        blended, new = part.network.run_on_device(work)
        own.write(blended)
        if on_swapped is not None:
            crop = np.empty((part.size, part.size, 3), np.uint8)
            part.to_bgr(new[0], crop)
            on_swapped(crop, part.template)

    def _graphs(self, area: Area, places: DeviceBuffers, *, capture: bool) -> _Graphs:
        part, fit, black = self.part, self.part.fit, self.part.contract.black
        sharp = isinstance(part, Enhancer)
        before, given = None, {"picture": places.outputs[part.network.output_names[fit.picture]]}
        if sharp:
            shown = places.inputs[part.network.input_names[fit.inputs.index("picture")]]
            session = self.runtime.beside(head(area, part.size, black), capture=capture)
            before = DeviceBuffers.of(session, places.device, picture=shown)
            given |= {"pixels": before.inputs["pixels"], "crop": before.outputs["crop"]}
        session = self.runtime.beside(tail(area, part.size, part.levels, sharp=sharp), capture=capture)
        behind = DeviceBuffers.of(session, places.device, **given)
        return _Graphs(before, behind, np.zeros(sum(area.sizes), np.uint8), {})


def _is_near(job: FaceJob, jobs: Sequence[FaceJob]) -> bool:
    """Whether another face of the frame is so near that it matters which is changed first."""
    boxes = [each.face.box for each in jobs if each.picture is job.picture and each is not job]
    middle, size = job.face.box[:2] + job.face.box[2:], job.face.box[2:] - job.face.box[:2]
    return any(
        (np.abs(box[:2] + box[2:] - middle) / 2 < _NEAR * (box[2:] - box[:2] + size)).all() for box in boxes
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One face's part of a frame.

    Attributes:
        planes: The frame's, to be changed in place.
        matrix: From the frame's luma pixels to the crop's.
        region: In luma pixels, from such on that chroma has one there.
    """

    job: FaceJob
    picture: VideoPicture
    planes: list[tuple[PlaneLayout, npt.NDArray[Any]]]
    matrix: Matrix
    region: Region
    area: Area

    @classmethod
    def of(cls, job: FaceJob, part: Swapper | Enhancer) -> _Part | None:
        """What a face needs; None where it cannot be changed in a graph."""
        picture, matrix = job.picture, similarity_transform(job.face.kps, part.template)
        if not isinstance(picture, VideoPicture):
            return None
        if (picture.layout.step, picture.layout.depth) != ((2, 2), 8):
            return None
        box, width, height = job.face.box, picture.width, picture.height
        changed = face_region(matrix, part.size, extend_box(box, width, height), width, height)
        left, top, right, bottom = changed
        if left >= right or top >= bottom:
            return None
        if isinstance(part, Enhancer):  # whose crop is read there, too
            if zoom_of(matrix) <= 0.5:
                return None
            x0, y0, x1, y1 = crop_bounds(matrix, part.size)
            left, top = (max(int(edge) - _MARGIN, 0) for edge in (x0, y0))
            right, bottom = min(int(x1) + _MARGIN, width), min(int(y1) + _MARGIN, height)
        left, top = left // 2 * 2, top // 2 * 2
        edge = next((edge for edge in EDGES if max(right - left, bottom - top) <= edge), None)
        if edge is None:
            return None
        return cls(job, picture, picture.writable_planes(), matrix, (left, top, right, bottom), Area(edge))

    def read(self, out: npt.NDArray[Any]) -> None:
        """Copy its samples, luma and both of chroma."""
        for target, part in self._samples(out):
            target[...] = part

    def write(self, blended: npt.NDArray[Any]) -> None:
        """Put them back."""
        for source, part in self._samples(blended):
            part[...] = source

    def _samples(self, packed: npt.NDArray[Any]) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Each kind of sample in the area and in the frame."""
        luma, chroma = self.area.shapes
        size = self.area.sizes[0]
        areas = iter((packed[:size].reshape(luma)[0], *packed[size:].reshape(chroma)))
        pairs = []
        for grid, samples in self.planes:
            left, top, right, bottom = grid.region_of(self.region, samples)
            part = samples[top:bottom, left:right]
            for one in [part] if part.ndim == 2 else np.moveaxis(part, 2, 0):
                pairs.append((next(areas)[: bottom - top, : right - left], one))
        return pairs

    def numbers(self, size: int, most: float, ceiling: Sharpness | None) -> dict[str, Any]:
        """What the graphs beside a network of crops of this size are told; see ``pixel_graph``."""
        face, space, steps = self.job.face, self.picture.space, np.float32(_STEPS)
        to_rgb, to_yuv = yuv_to_bgr_matrix(space)[::-1], bgr_to_yuv_matrix(space)[:, [2, 1, 0, 3]]
        to_rgb, to_yuv = np.rint(to_rgb * steps) / steps, np.rint(to_yuv * steps) / steps
        visibility = np.eye(2, 3)
        if self.job.visibility is not None:
            from_mask = compose(invert(self.matrix), resizing(size / mask_edge(size)))
            visibility = compose(similarity_transform(face.kps, VISIBILITY_TEMPLATE), from_mask)
        numbers = {"to rgb": to_rgb, "to yuv": to_yuv, "cover": visibility, **_sharp_numbers(ceiling, size)}
        numbers |= {"share": most, "weight": min(face.weight, 1.0)}
        box = extend_box(face.box, self.picture.width, self.picture.height)
        kinds = zip(("luma", "chroma"), self.area.shapes, self.planes, strict=False)
        for name, (_, rows, columns), (grid, samples) in kinds:
            left, top, right, bottom = grid.region_of(self.region, samples)
            to_crop = compose(compose(self.matrix, grid.to_luma), np.array([[1, 0, left], [0, 1, top]]))
            across, down = ramps_of(grid.box_of(box), left, top, columns, rows)
            numbers |= {
                f"{name} to crop": to_crop, f"crop to {name}": invert(to_crop),
                f"{name} end": (right - left - 1, bottom - top - 1), f"{name} cubic": zoom_of(to_crop) < 1,
                f"{name} across": across, f"{name} down": down,
            }  # fmt: skip
        numbers["chroma doubled"] = zoom_of(numbers["chroma to crop"]) >= HALF_CHROMA_ZOOM
        return numbers


def _sharp_numbers(ceiling: Sharpness | None, size: int) -> dict[str, Any]:
    places, inside = np.zeros((2, MAX_PIXELS + 2 * REACH), np.float32), np.zeros(MAX_PIXELS, np.float32)
    count, most = 1, NO_LIMIT
    if ceiling is not None:
        count, most = ceiling.pixels**2, ceiling.most
        places[:, : ceiling.pixels + 2 * REACH] = 2 * ceiling.places(size) / (size - 1) - 1
        inside[: ceiling.pixels] = 1
    return {"x": places[0], "y": places[1], "inside": inside, "count": count, "most": most}


def _joined(numbers: Mapping[str, Any], order: Mapping[str, int]) -> FloatArray:
    return np.concatenate([np.ravel(numbers[name]) for name in order]).astype(np.float32)
