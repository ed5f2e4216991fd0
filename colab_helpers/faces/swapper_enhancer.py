"""The networks that process aligned crops: swapper and enhancer."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from colab_helpers.faces.analyser import unit
from colab_helpers.faces.geometry import template_of
from colab_helpers.faces.types import AnyArray, ByteImage, FloatArray
from colab_helpers.language import mark, tr
from colab_helpers.media.colour import channels_of
from colab_helpers.models.contracts import input_kinds, require_contract, unsupported_network_error
from colab_helpers.models.emap import read_emap
from colab_helpers.models.session import Network
from colab_helpers.settings import Settings


class _CropNetwork:
    """A network that maps aligned crops to crops, by one of the contracts of ``models.contracts``.

    Raises:
        ModelError: The network matches no known contract for its role.
    """

    def __init__(self, network: Network, role: str) -> None:
        self.network = network
        self.fit = require_contract(network.session, network.name, role=role, where=str(network.path))
        self.contract = self.fit.contract
        self.size = self.fit.size  # edge of the crops, in pixels

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks in use."""
        return (self.network,)

    @property
    def template(self) -> FloatArray:
        """Reference landmarks of a crop, ``(5, 2)`` in pixels."""
        return template_of(self.contract.template, self.size)

    def _run(self, crops: Sequence[ByteImage] | ByteImage, **extra: AnyArray) -> ByteImage:
        """Run crops ``(N, S, S, 3)`` uint8 BGR, with further inputs by kind, of which each has N rows."""
        images = np.empty((len(crops), *crops[0].shape), np.uint8)
        for number, (crop, image) in enumerate(zip(crops, images, strict=True)):
            values = {kind: each[number : number + 1] for kind, each in extra.items()}
            values["picture"] = self.blob(crop)
            inputs = [values[kind] for kind in self.fit.inputs]
            (planes,) = self.network.run_stack(*inputs, output=self.fit.picture)
            self.to_bgr(planes, image)
        return images

    def blob(self, crop: ByteImage) -> FloatArray:
        """Convert a crop ``(S, S, 3)`` uint8 BGR to the network's input, ``(1, 3, S, S)`` RGB."""
        black, blob = self.contract.black, np.empty((1, 3, *crop.shape[:2]), np.float32)
        for plane, channel in zip(blob[0], reversed(channels_of(crop)), strict=True):
            # The OpenCV function that scales any type, and saturates, in a single pass.
            cv2.addWeighted(channel, (1 - black) / 255, channel, 0, black, dst=plane, dtype=cv2.CV_32F)
        return blob

    @property
    def levels(self) -> tuple[float, float]:
        """Factor and offset from the network's values (1 is white) to grey levels, before rounding."""
        scale = 255 / (1 - self.contract.black)
        return scale, -self.contract.black * scale - (0.5 if self.contract.truncates else 0.0)

    def to_bgr(self, planes: FloatArray, image: ByteImage) -> None:
        """Fill ``image``, ``(S, S, 3)`` uint8 BGR, from the network's RGB output ``(3, S, S)``."""
        scale, shift = self.levels
        channels = [cv2.addWeighted(plane, scale, plane, 0, shift, dtype=cv2.CV_8U) for plane in planes[::-1]]
        cv2.merge(channels, dst=image)


class Swapper(_CropNetwork):
    """Swaps the source's face into target crops.

    Args:
        network: Takes target crops and the latent of the source.
        converter: Converts the source's embedding, if the contract needs it.
        boost: Edge of the crops in pixels; ignored unless a multiple of the network's own, see ``swap``.
    """

    def __init__(self, network: Network, converter: Network | None = None, *, boost: int = 0) -> None:
        super().__init__(network, "swapper")
        if converter is not None and input_kinds(converter.session) != ("vector",):
            raise unsupported_network_error(converter.session, role="converter", where=str(converter.path))
        self._converter = converter
        self._emap = read_emap(network.path) if self.contract.source == "projected" else None
        self._tiles = max(boost // self.size, 1) if boost % self.size == 0 else 1
        self.size *= self._tiles

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks in use."""
        return (self.network,) if self._converter is None else (self.network, self._converter)

    @property
    def boosted(self) -> bool:
        """Whether crops are larger than the network's input."""
        return self._tiles > 1

    def latent(self, embedding: FloatArray) -> FloatArray:
        """Compute the latent ``(512,)`` of a source from its raw embedding, which is not normalised."""
        if self.contract.source == "converted":
            assert self._converter is not None
            return np.asarray(self._converter.run(embedding[None])[0], np.float32).reshape(-1)
        if self._emap is None:
            return unit(embedding)
        # As in insightface; FaceFusion omits the second normalisation.
        return unit(unit(embedding) @ self._emap)

    def swap(self, crops: Sequence[ByteImage] | ByteImage, latents: FloatArray) -> ByteImage:
        """Swap any number of crops.

        Crops larger than the network's input are split into tiles of every n-th pixel of every n-th row, so
        that each shows the whole face, as the network expects (FaceFusion's pixel boost).

        Args:
            crops: ``(N, S, S, 3)`` uint8 BGR, or a sequence of N crops.
            latents: ``(N, 512)`` float32 from ``latent``.

        Returns:
            ``(N, S, S, 3)`` uint8 BGR.
        """
        count, tiles, edge = len(crops), self._tiles, self.size // self._tiles
        parts = np.asarray(crops).reshape(count, edge, tiles, edge, tiles, 3).transpose(0, 2, 4, 1, 3, 5)
        changed = self._run(
            parts.reshape(-1, edge, edge, 3),
            vector=np.repeat(np.ascontiguousarray(latents, np.float32), tiles * tiles, axis=0),
        )
        result = changed.reshape(count, tiles, tiles, edge, edge, 3).transpose(0, 3, 1, 4, 2, 5)
        return result.reshape(count, self.size, self.size, 3)


class Enhancer(_CropNetwork):
    """Restores detail in crops.

    Args:
        network: Takes crops and, in some contracts, a weight.
        weight: 0 restores most, 1 stays closest to the input.
    """

    def __init__(self, network: Network, *, weight: float = 0.5) -> None:
        super().__init__(network, "enhancer")
        self._weight = weight

    @property
    def takes_weight(self) -> bool:
        """Whether the network takes a weight."""
        return "weight" in self.contract.inputs

    def enhance(self, crops: Sequence[ByteImage] | ByteImage) -> ByteImage:
        """Enhance any number of ``(S, S, 3)`` uint8 BGR crops; return ``(N, S, S, 3)``."""
        return self._run(crops, weight=self.weights(len(crops)))

    def weights(self, count: int) -> AnyArray:
        """Return the weight as the network's input for ``count`` crops."""
        return np.full(count, self._weight, self.fit.weight)


def ineffective_settings(settings: Settings, swapper: Swapper | None, enhancer: Enhancer | None) -> list[str]:
    """Return a note for each setting that was changed but has no effect with the chosen networks."""
    notes, default = [], Settings()
    boosting = settings.face_swapper_pixel_boost != default.face_swapper_pixel_boost
    if swapper is not None and boosting and not swapper.boosted:
        text = mark("face_swapper_pixel_boost has no effect: {name} already works at {size} pixels")
        notes.append(tr(text, name=swapper.network.name, size=swapper.size))
    weighting = settings.enhancer_weight != default.enhancer_weight
    if enhancer is not None and weighting and not enhancer.takes_weight:
        text = mark("enhancer_weight has no effect: {name} takes no weight")
        notes.append(tr(text, name=enhancer.network.name))
    return notes
