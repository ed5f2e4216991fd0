"""Sampling and blending of video faces on the device of their network, so that the CPU only copies pixels.

Geometry and weights of each face are computed here and passed to the graphs of ``pixel_graph`` as numbers.
OpenCV is used for all other cases: faces larger than ``EDGES``, near other faces, or so large that the crop
must average pixels; swaps in tiles or with colour matching; anything but 8 bit 4:2:0 video frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
"""Buffer sizes for a face's part of a frame, in luma samples each way; each has its own graphs."""
_MARGIN = 3  # pixels around a crop, for the rounding of its corners and the interpolation of chroma
# Distance of two faces' centres, in sums of their box sizes, within which one is in the other's crop.
_NEAR_FACTOR = 0.65
# OpenCV quantises its coefficients for 8 bit colours by 1/1024; finer ones would change every tenth pixel.
_STEPS = 1024
_FULLY_VISIBLE = np.full((VISIBILITY_SIZE, VISIBILITY_SIZE), 255, np.uint8)


@dataclass(eq=False)
class _Graphs:
    """The graphs before and after a network, bound to its buffers."""

    before: DeviceBuffers | None
    after: DeviceBuffers
    pixels: npt.NDArray[Any]  # the frame's samples, in host memory
    held: dict[str, Any]  # arrays that are on the device already, by input


@dataclass(eq=False)
class PixelPath:
    """Changes faces with the network of ``part``, which ``runtime`` opened, without OpenCV."""

    part: Swapper | Enhancer
    runtime: Runtime
    _made: bool = field(default=False, init=False)

    @property
    def step(self) -> FrameProcessor:
        """The frame processor that the network is for."""
        return "face_enhancer" if isinstance(self.part, Enhancer) else "face_swapper"

    def prepare(self, *, capture: bool) -> None:
        """Create the graphs; with ``capture`` as CUDA graphs, while nothing else may use the GPU."""

        def work(buffers: DeviceBuffers) -> None:
            self._made = True
            for edge in EDGES:
                area = Area(edge)
                graphs = buffers.cache[area] = self._graphs(area, buffers, capture=capture)
                for side in (graphs.before, graphs.after):
                    if side is not None:
                        side.run({})

        self.part.network.run_on_device(work, capturing=capture)

    def drop(self) -> None:
        """Free the graphs."""
        if self._made:
            self.part.network.run_on_device(lambda buffers: buffers.cache.clear())

    def change(
        self,
        jobs: Sequence[FaceJob],
        masks: FaceMasks,
        *,
        extra: Arrays,
        max_share: float = 1.0,
        ceilings: Sequence[Sharpness | None] = (),
    ) -> list[int]:
        """Change in place all faces that the graphs can handle; return the indices of the others.

        Args:
            jobs: The faces; a swapper takes their ``crop`` if set.
            masks: Limit where the change shows.
            extra: Further inputs of the network for one face, by kind.
            max_share: Maximum opacity of the network's output, 0 to 1.
            ceilings: Sharpness that limits each face; empty, or None for a face, for no limit.
        """
        skipped, mask = [], masks.limit(self.part.size)
        for number, job in enumerate(jobs):
            region = None if _is_near_others(job, jobs) else _FaceRegion.of(job, self.part)
            if region is None:
                skipped.append(number)
                continue
            ceiling = ceilings[number] if ceilings else None
            self._change(region, mask, extra, region.numbers(self.part.size, max_share, ceiling))
        return skipped

    def _change(self, region: _FaceRegion, mask: FloatArray, extra: Arrays, numbers: dict[str, Any]) -> None:
        part, job = self.part, region.job
        values, on_swapped = dict(extra), None
        if isinstance(part, Swapper):
            on_swapped = job.on_swapped
            crop = job.picture.crop(region.matrix, part.size) if job.crop is None else job.crop
            values["picture"] = part.blob(crop)
        pairs = zip(part.network.input_names, part.fit.inputs, strict=True)
        feed = {name: values[kind] for name, kind in pairs if kind in values}
        cover = _FULLY_VISIBLE if job.visibility is None else job.visibility
        masks: Arrays = {"mask": mask, "cover": cover}

        def work(buffers: DeviceBuffers) -> tuple[npt.NDArray[Any], Any]:
            if region.area not in buffers.cache:
                buffers.cache[region.area] = self._graphs(region.area, buffers, capture=False)
            graphs: _Graphs = buffers.cache[region.area]
            region.read(graphs.pixels)
            pixels: dict[str, Any] = {"pixels": graphs.pixels}
            if graphs.before is not None:
                graphs.before.run({**pixels, "numbers": _pack(numbers, HEAD)})
                pixels = {}  # both graphs share the buffer
            buffers.run(feed)
            changed = {name: array for name, array in masks.items() if graphs.held.get(name) is not array}
            order = tail_numbers(region.area, sharp=graphs.before is not None)
            graphs.after.run({**pixels, **changed, "numbers": _pack(numbers, order)})
            graphs.held.update(changed)
            new = buffers.read(part.network.output_names[part.fit.picture]) if on_swapped else None
            return graphs.after.read("blended"), new

        blended, new = part.network.run_on_device(work)
        region.write(blended)
        if on_swapped is not None:
            crop = np.empty((part.size, part.size, 3), np.uint8)
            part.to_bgr(new[0], crop)
            on_swapped(crop, part.template)

    def _graphs(self, area: Area, buffers: DeviceBuffers, *, capture: bool) -> _Graphs:
        part, fit, black = self.part, self.part.fit, self.part.contract.black
        sharp = isinstance(part, Enhancer)
        before, shared = None, {"picture": buffers.outputs[part.network.output_names[fit.picture]]}
        if sharp:
            picture = buffers.inputs[part.network.input_names[fit.inputs.index("picture")]]
            session = self.runtime.auxiliary_session(head(area, part.size, black), capture=capture)
            before = DeviceBuffers.of(session, buffers.device, picture=picture)
            shared |= {"pixels": before.inputs["pixels"], "crop": before.outputs["crop"]}
        session = self.runtime.auxiliary_session(
            tail(area, part.size, part.levels, sharp=sharp), capture=capture
        )
        after = DeviceBuffers.of(session, buffers.device, **shared)
        return _Graphs(before, after, np.zeros(sum(area.sizes), np.uint8), {})


def _is_near_others(job: FaceJob, jobs: Sequence[FaceJob]) -> bool:
    """Return whether another face of the picture is so near that the order of changes matters."""
    boxes = np.array([each.face.box for each in jobs if each.picture is job.picture and each is not job])
    corners, others = job.face.box.reshape(2, 2), boxes.reshape(-1, 2, 2)
    distances = np.abs(others.sum(1) - corners.sum(0)) / 2
    sizes = np.diff(others, axis=1)[:, 0] + np.diff(corners, axis=0)
    return bool((distances < _NEAR_FACTOR * sizes).all(1).any())


@dataclass(frozen=True, eq=False)
class _FaceRegion:
    """One face's part of a frame.

    Attributes:
        planes: The frame's planes, which are changed in place.
        matrix: Transform from the frame's luma pixels to the crop's.
        region: Pixel rectangle in luma pixels; left and top are even, as chroma needs.
    """

    job: FaceJob
    picture: VideoPicture
    planes: list[tuple[PlaneLayout, npt.NDArray[Any]]]
    matrix: Matrix
    region: Region
    area: Area

    @classmethod
    def of(cls, job: FaceJob, part: Swapper | Enhancer) -> _FaceRegion | None:
        """Locate a face; return None if the graphs cannot change it."""
        picture, matrix = job.picture, similarity_transform(job.face.kps, part.template)
        if (
            not isinstance(picture, VideoPicture)
            or picture.layout.step != (2, 2)
            or picture.layout.depth != 8
        ):
            return None
        width, height = picture.width, picture.height
        box = extend_box(job.face.box, width, height)
        left, top, right, bottom = face_region(matrix, part.size, box, width, height)
        if left >= right or top >= bottom:
            return None
        if isinstance(part, Enhancer):  # its crop is sampled by the graphs, too
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
        """Copy the luma and chroma samples from the frame into a packed buffer."""
        for target, samples in self._components(out):
            target[...] = samples

    def write(self, blended: npt.NDArray[Any]) -> None:
        """Copy the samples of a packed buffer back into the frame."""
        for source, samples in self._components(blended):
            samples[...] = source

    def _components(self, packed: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield views of luma and of each chroma component, in the packed buffer and in the frame."""
        luma, chroma = self.area.shapes
        size = self.area.sizes[0]
        areas = iter((packed[:size].reshape(luma)[0], *packed[size:].reshape(chroma)))
        for grid, samples in self.planes:
            left, top, right, bottom = grid.region_of(self.region, samples)
            part = samples[top:bottom, left:right]
            for component in [part] if part.ndim == 2 else np.moveaxis(part, 2, 0):
                yield next(areas)[: bottom - top, : right - left], component

    def numbers(self, size: int, max_share: float, ceiling: Sharpness | None) -> dict[str, Any]:
        """Return the numbers for the graphs of a network with crops of this size, see ``pixel_graph``."""
        face, space, steps = self.job.face, self.picture.space, np.float32(_STEPS)
        to_rgb, to_yuv = yuv_to_bgr_matrix(space)[::-1], bgr_to_yuv_matrix(space)[:, [2, 1, 0, 3]]
        to_rgb, to_yuv = np.rint(to_rgb * steps) / steps, np.rint(to_yuv * steps) / steps
        visibility = np.eye(2, 3)
        if self.job.visibility is not None:
            from_mask = compose(invert(self.matrix), resizing(size / mask_edge(size)))
            visibility = compose(similarity_transform(face.kps, VISIBILITY_TEMPLATE), from_mask)
        numbers = {"to rgb": to_rgb, "to yuv": to_yuv, "cover": visibility, **_sharp_numbers(ceiling, size)}
        numbers |= {"share": max_share, "weight": min(face.weight, 1.0)}
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
    grid, inside = np.zeros((2, MAX_PIXELS + 2 * REACH), np.float32), np.zeros(MAX_PIXELS, np.float32)
    count, most = 1, NO_LIMIT
    if ceiling is not None:
        count, most = ceiling.pixels**2, ceiling.max_power
        grid[:, : ceiling.pixels + 2 * REACH] = 2 * ceiling.positions(size) / (size - 1) - 1
        inside[: ceiling.pixels] = 1
    return {"x": grid[0], "y": grid[1], "inside": inside, "count": count, "most": most}


def _pack(numbers: Mapping[str, Any], order: Mapping[str, int]) -> FloatArray:
    return np.concatenate([np.ravel(numbers[name]) for name in order]).astype(np.float32)
