"""Faces of video frames sampled and blended where their network runs: a processor only copies.

What a face's network is shown and where its picture goes is reckoned here and handed to the graphs of
``pixel_graph``. Done otherwise, by OpenCV, are faces that do not fit into ``EDGES``, that lie over each other, or
that are so large that a crop averages what it shows; swaps of several tiles or in matched colours; and
pictures that are no video frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from colab_helpers.faces.geometry import similarity_transform
from colab_helpers.faces.masks import COVER, COVER_TEMPLATE, FaceMasks
from colab_helpers.faces.pixel_graph import HEAD, NO_LIMIT, Area, head, tail, tail_numbers
from colab_helpers.faces.sharpness import MOST_PIXELS, REACH, Sharpness
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper, levels_of
from colab_helpers.faces.types import FloatArray
from colab_helpers.media.affine import Matrix, compose, crop_corners, invert
from colab_helpers.media.blending import Region, box_ramp, face_region, open_box, shrinks_by
from colab_helpers.media.colour import bgr_to_yuv_matrix, yuv_to_bgr_matrix
from colab_helpers.media.picture import Plane, VideoPicture, plane_box, plane_region
from colab_helpers.models.cuda_graphs import Places
from colab_helpers.models.pool import is_out_of_memory
from colab_helpers.models.session import Runtime
from colab_helpers.settings import FrameProcessor

if TYPE_CHECKING:
    from colab_helpers.faces.changer import FaceJob

EDGES = (512, 1024)
"""Luma samples a side that a face's part of a frame may have; there are graphs for each."""
_MARGIN = 3
_STEPS = 1024
"""OpenCV's coefficients for colours of 8 bits have so many steps; with finer ones every tenth pixel is off."""
_UNCOVERED = np.full((COVER, COVER), 255, np.uint8)


@dataclass(frozen=True, eq=False)
class _Part:
    """One face's part of a frame.

    Attributes:
        matrix: From the frame's luma pixels to the crop's.
        region: What is read, in luma pixels, from even ones on where chroma has half as many.
        changed: What of it is changed.
    """

    job: FaceJob
    picture: VideoPicture
    matrix: Matrix
    region: Region
    changed: Region
    area: Area

    def read(self, planes: Sequence[Plane], out: npt.NDArray[Any]) -> None:
        """Copy its samples, luma and both of chroma."""
        for target, (samples, plane) in zip(self._areas(out), _channels(planes), strict=True):
            part = samples[_within(self.region, plane)]
            target[: part.shape[0], : part.shape[1]] = part >> plane.shift if plane.shift else part

    def write(self, planes: Sequence[Plane], blended: npt.NDArray[Any]) -> None:
        """Put back what is changed."""
        for source, (samples, plane) in zip(self._areas(blended), _channels(planes), strict=True):
            first, inside = _within(self.region, plane), _within(self.changed, plane)
            rows, columns = (
                slice(own.start - whole.start, own.stop - whole.start)
                for own, whole in zip(inside, first, strict=True)
            )
            part = source[rows, columns]
            samples[inside] = part << plane.shift if plane.shift else part

    def _areas(self, packed: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        luma, chroma = self.area.shapes
        size = self.area.sizes[0]
        return [packed[:size].reshape(luma)[0], *packed[size:].reshape(chroma)]


def _within(region: Region, plane: Plane) -> tuple[slice, slice]:
    """Rows and columns of a plane that a region of luma pixels takes."""
    left, top, right, bottom = plane_region(region, plane)
    return slice(top, bottom), slice(left, right)


def _channels(planes: Sequence[Plane]) -> list[tuple[npt.NDArray[Any], Plane]]:
    """Each kind of sample as a plane of its own."""
    return [
        (plane.samples if plane.channels == 1 else plane.samples[..., number], plane)
        for plane in planes
        for number in range(plane.channels)
    ]


@dataclass(eq=False)
class _Graphs:
    """The graphs on both sides of a network in its places, and what was put there last."""

    before: Places | None
    behind: Places
    pixels: npt.NDArray[Any]
    held: dict[str, Any]


@dataclass(eq=False)
class PixelPath:
    """Changes faces with the network of ``part``, which ``runtime`` opened."""

    part: Swapper | Enhancer
    runtime: Runtime

    @property
    def step(self) -> FrameProcessor:
        """What the network is for."""
        return "face_enhancer" if isinstance(self.part, Enhancer) else "face_swapper"

    def prepare(self, *, capture: bool) -> None:
        """Make the graphs for the usual videos; ``capture`` them, which no other work on the GPU may disturb."""

        def work(places: Places) -> None:
            for edge in EDGES:
                area = Area(edge, (2, 2), 8)
                places.kept[area] = self._graphs(area, places, capture=capture)

        self.part.network.run_within(work, capturing=capture)

    def change(
        self,
        jobs: Sequence[FaceJob],
        masks: FaceMasks,
        *,
        beside: Mapping[str, npt.NDArray[Any]],
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
        parts = [_part_of(job, self.part) for job in jobs]
        left = [number for number, own in enumerate(parts) if own is None or _disturbed(own, parts)]
        for number, own in enumerate(parts):
            if own is not None and number not in left:
                self._change(own, masks, beside, most, ceilings[number] if ceilings else None)
        return left

    def _change(
        self,
        own: _Part,
        masks: FaceMasks,
        beside: Mapping[str, npt.NDArray[Any]],
        most: float,
        ceiling: Sharpness | None,
    ) -> None:
        part, job, planes = self.part, own.job, own.picture.writable_planes()
        names = part.network.input_names
        feed = {names[k]: beside[kind] for k, kind in enumerate(part.fit.inputs) if kind in beside}
        sharp = isinstance(part, Enhancer)
        if not sharp:
            crop = own.picture.crop(own.matrix, part.size) if job.crop is None else job.crop
            feed[names[part.fit.inputs.index("picture")]] = part.blob([crop])
        first = _head_numbers(own, planes)
        numbers = _tail_numbers(own, planes, part.size, most, ceiling, sharp=sharp)
        still = {"mask": masks.limit(part.size), "cover": _UNCOVERED if job.cover is None else job.cover}

        def work(places: Places) -> tuple[npt.NDArray[Any], Any]:
            if own.area not in places.kept:
                places.kept[own.area] = self._graphs(own.area, places, capture=False)
            graphs: _Graphs = places.kept[own.area]
            own.read(planes, graphs.pixels)
            given = {"pixels": graphs.pixels}
            if graphs.before is not None:
                graphs.before.run({**given, "numbers": first})
                given = {}  # it lies there now
            places.run(feed)
            moved = {name: array for name, array in still.items() if graphs.held.get(name) is not array}
            graphs.behind.run({**given, "numbers": numbers, **moved})
            graphs.held.update(moved)
            new = places.read(part.network.output_names[part.fit.picture]) if job.watch else None
            return graphs.behind.read("blended"), new

        blended, new = part.network.run_within(work)
        own.write(planes, blended)
        if job.watch is not None:
            job.watch(part.to_bgr(new)[0], part.template)

    def _graphs(self, area: Area, places: Places, *, capture: bool) -> _Graphs:
        """Make the graphs for an area; those that cannot be captured are run as they are."""
        if capture:
            try:
                made = self._made(area, places, capture=True)
                for side in filter(None, (made.before, made.behind)):
                    side.run({})
                return made
            except Exception as error:
                if is_out_of_memory(error):
                    raise
        return self._made(area, places, capture=False)

    def _made(self, area: Area, places: Places, *, capture: bool) -> _Graphs:
        part = self.part
        size, black, sharp = part.size, part.contract.black, isinstance(part, Enhancer)
        levels = levels_of(black, truncate=part.contract.truncates)
        picture = part.network.input_names[part.fit.inputs.index("picture")]
        given = {"picture": places.outputs[part.network.output_names[part.fit.picture]]}
        before = None
        if sharp:
            session = self.runtime.beside(head(area, size, black), capture=capture)
            before = Places.of(session, places.device, picture=places.inputs[picture])
            given |= {"pixels": before.inputs["pixels"], "crop": before.outputs["crop"]}
        session = self.runtime.beside(tail(area, size, black, levels, sharp=sharp), capture=capture)
        behind = Places.of(session, places.device, **given)
        return _Graphs(before, behind, np.zeros(sum(area.sizes), area.samples), {})


def _part_of(job: FaceJob, part: Swapper | Enhancer) -> _Part | None:
    """The part of a frame that a face needs; None where it cannot be changed in a graph."""
    picture = job.picture
    if not isinstance(picture, VideoPicture):
        return None
    matrix, width, height = similarity_transform(job.face.kps, part.template), picture.width, picture.height
    box = open_box(job.face.box, width, height)
    changed = region = face_region(matrix, part.size, box, width, height)
    if region[0] >= region[2] or region[1] >= region[3]:
        return None
    layout = picture.layout
    if isinstance(part, Enhancer):  # whose crop is read there, too
        if shrinks_by(matrix) > 1:
            return None
        corners = np.clip(crop_corners(matrix, part.size), -1e6, 1e6)
        low, high = corners.min(0).astype(int) - _MARGIN, corners.max(0).astype(int) + _MARGIN + 1
        region = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
    left, top, right, bottom = region
    across, down = layout.step
    left, top = left // across * across, top // down * down
    fitting = [edge for edge in EDGES if max(right - left, bottom - top) <= edge]
    if not fitting:
        return None
    area = Area(fitting[0], layout.step, layout.depth)
    return _Part(job, picture, matrix, (left, top, right, bottom), changed, area)


def _disturbed(own: _Part, parts: Sequence[_Part | None]) -> bool:
    """Whether another face's part of the same frame lies over this one: their order would matter."""
    left, top, right, bottom = own.region
    return any(
        other is not None
        and other is not own
        and other.picture is own.picture
        and max(left, other.region[0]) < min(right, other.region[2])
        and max(top, other.region[1]) < min(bottom, other.region[3])
        for other in parts
    )


def _to_planes(own: _Part, planes: Sequence[Plane]) -> list[tuple[Matrix, tuple[slice, slice]]]:
    """The way from samples of luma's and chroma's area to the crop, and what of each plane is in it."""
    found = []
    for plane in planes[:2]:
        rows, columns = _within(own.region, plane)
        shift = np.array([[1, 0, columns.start], [0, 1, rows.start]], np.float64)
        found.append((compose(compose(own.matrix, plane.to_luma), shift), (rows, columns)))
    return found


def _stepped(matrix: FloatArray, area: Area) -> FloatArray:
    return matrix if area.depth > 8 else np.rint(matrix * _STEPS) / np.float32(_STEPS)


def _joined(numbers: Mapping[str, Any], order: Mapping[str, int]) -> FloatArray:
    values = [np.asarray(numbers[name], np.float32).ravel() for name in order]
    assert [value.size for value in values] == list(order.values())
    return np.concatenate(values)


def _head_numbers(own: _Part, planes: Sequence[Plane]) -> FloatArray:
    colours = _stepped(yuv_to_bgr_matrix(own.picture.space)[::-1], own.area)  # red first
    numbers: dict[str, Any] = {"colours": colours[:, :3], "black": colours[:, 3]}
    for name, (matrix, inside) in zip(("luma", "chroma"), _to_planes(own, planes), strict=True):
        numbers[name] = invert(matrix)
        numbers[f"{name} to"] = [part.stop - part.start - 1 for part in inside[::-1]]
    return _joined(numbers, HEAD)


def _tail_numbers(
    own: _Part, planes: Sequence[Plane], size: int, most: float, ceiling: Sharpness | None, *, sharp: bool
) -> FloatArray:
    face, colours = own.job.face, _stepped(bgr_to_yuv_matrix(own.picture.space), own.area)
    cover = np.eye(2, 3)
    if own.job.cover is not None:
        cover = compose(similarity_transform(face.kps, COVER_TEMPLATE), invert(own.matrix))
    numbers: dict[str, Any] = {
        "cover": cover,
        "colours": colours[:, 2::-1],  # of red, green and blue
        "black": colours[:, 3],
        "share": most,
        "weight": min(face.weight, 1.0),
    }
    box = open_box(face.box, own.picture.width, own.picture.height)
    for name, shape, plane, (matrix, inside) in zip(
        ("luma", "chroma"), own.area.shapes, planes, _to_planes(own, planes), strict=False
    ):
        numbers[name], its_box = matrix, plane_box(box, plane)
        for axis, part, length, at in zip(("down", "across"), inside, shape[1:], (1, 0), strict=True):
            start = part.start
            numbers[f"{name} {axis}"] = box_ramp(start, start + length, its_box[at], its_box[at + 2], its_box)
    if sharp:
        numbers |= _sharp_numbers(ceiling, size)
    return _joined(numbers, tail_numbers(own.area, sharp=sharp))


def _sharp_numbers(ceiling: Sharpness | None, size: int) -> dict[str, Any]:
    places, inside = np.zeros((2, MOST_PIXELS + 2 * REACH), np.float32), np.zeros(MOST_PIXELS, np.float32)
    if ceiling is None:
        return {"x": places[0], "y": places[1], "inside": inside, "count": 1, "most": NO_LIMIT}
    places[:, : ceiling.pixels + 2 * REACH] = 2 * ceiling.places(size) / (size - 1) - 1
    inside[: ceiling.pixels] = 1
    return {
        "x": places[0], "y": places[1], "inside": inside, "count": ceiling.pixels**2, "most": ceiling.most,
    }  # fmt: skip
