"""Batch face swap for consented video: the public API.

Every name is imported on first use, since ONNX Runtime, insightface and PyAV load slowly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from colab_helpers.startup import VERSION

if TYPE_CHECKING:
    from colab_helpers.api import run_batch, swap_image, swap_video
    from colab_helpers.diagnosis import diagnose
    from colab_helpers.faces.analyser import FaceAnalyser
    from colab_helpers.settings import Settings, load_settings

__version__ = VERSION
__all__ = ["FaceAnalyser", "Settings", "diagnose", "load_settings", "run_batch", "swap_image", "swap_video"]

_MODULES = {
    "FaceAnalyser": "colab_helpers.faces.analyser",
    "Settings": "colab_helpers.settings",
    "diagnose": "colab_helpers.diagnosis",
    "load_settings": "colab_helpers.settings",
    "run_batch": "colab_helpers.api",
    "swap_image": "colab_helpers.api",
    "swap_video": "colab_helpers.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
