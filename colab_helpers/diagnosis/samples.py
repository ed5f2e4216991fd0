"""Made-up pictures and inputs, always the same, for networks that are tried out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from colab_helpers.settings import Settings

if TYPE_CHECKING:
    from colab_helpers.models.catalog import Role
    from colab_helpers.models.session import Network


def soft_picture(size: int) -> Any:
    """Make a picture of large soft patches, ``(size, size, 3)`` uint8: like a photo, and like nobody."""
    import cv2
    import numpy as np

    patches = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(patches, (size, size), interpolation=cv2.INTER_CUBIC)


def sample_inputs(role: Role, network: Network, settings: Settings) -> list[Any]:
    """Make a picture (and identity) as the network of a role takes it, float32."""
    import numpy as np

    size = network.session.get_inputs()[0].shape[2]
    edge = settings.face_detector_size if role == "detector" else size if isinstance(size, int) else 112
    picture = soft_picture(edge).transpose(2, 0, 1)[None].astype(np.float32) / 255
    if role == "occluder":
        return [picture.transpose(0, 2, 3, 1)]
    if role != "swapper":
        return [2 * picture - 1]
    identity = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    return [picture, identity / np.linalg.norm(identity)]
