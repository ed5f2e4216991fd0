"""Exports GFPGAN's weights: ``python -m colab_helpers.models.convert_gfpgan WEIGHTS OUT [SETTINGS]``.

A process of its own, because torch is heavy and stays in memory, and because stand-ins for two names of
basicsr must not be seen by anything else: ``import gfpgan`` as a whole imports basicsr, which does not build
on Python 3.13 and imports a module that torchvision removed (``torchvision.transforms.functional_tensor``).
The network itself needs a decorator and an initialiser from it, and nothing else.

The last line on stdout is a ``Parity`` as JSON; a problem is the last line on stderr, with exit code 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import numpy as np
import torch

from colab_helpers.language import tr
from colab_helpers.models.half import SAME, Parity, compare, sample_inputs, value_range
from colab_helpers.models.session import Runtime

OPSET = 17
SAMPLES = 2
# The settings of versions 1.2 to 1.4, as gfpgan's own GFPGANer gives them for the "clean" network.
ARCHITECTURE = {
    "out_size": 512,
    "num_style_feat": 512,
    "channel_multiplier": 2,
    "decoder_load_path": None,
    "fix_decoder": False,
    "num_mlp": 8,
    "input_is_latent": True,
    "different_w": True,
    "narrow": 1,
    "sft_half": True,
}


class Picture(torch.nn.Module):  # type: ignore[misc]
    """A GFPGAN network reduced to what is exported: crops to crops, with the noise kept in the weights.

    Args:
        network: gfpgan's ``GFPGANv1Clean``.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Any) -> Any:
        """``(N, 3, S, S)`` from -1 to 1 to the same."""
        return self.network(crops, return_rgb=False, randomize_noise=False)[0]


@cache
def load_architecture() -> ModuleType:
    """The gfpgan package's module of the network.

    Raises:
        ImportError: gfpgan is not installed.
    """
    spec = importlib.util.find_spec("gfpgan")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(tr("gfpgan is not installed"))
    folders = list(spec.submodule_search_locations)
    # Empty packages with the real folders: their own __init__ would import all of basicsr and facexlib.
    _stand_in("gfpgan", path=folders)
    _stand_in("gfpgan.archs", path=[str(Path(folder) / "archs") for folder in folders])
    for name in ("basicsr", "basicsr.archs", "basicsr.utils"):
        _stand_in(name, path=[])
    # The weights are loaded over whatever was initialised.
    _stand_in("basicsr.archs.arch_util", default_init_weights=lambda *_, **__: None)
    _stand_in("basicsr.utils.registry", ARCH_REGISTRY=_Registry())
    return importlib.import_module("gfpgan.archs.gfpganv1_clean_arch")


class _Registry:
    """basicsr's registry, without a memory."""

    def register(self) -> Callable[[Any], Any]:
        return lambda item: item


def _stand_in(name: str, *, path: Sequence[str] | None = None, **names: Any) -> None:
    module = ModuleType(name)
    if path is not None:
        module.__path__ = list(path)
    for key, value in names.items():
        setattr(module, key, value)
    sys.modules[name] = module


def read_weights(path: Path) -> dict[str, Any]:
    """The weights in a ``.pth`` file; never runs code from it.

    Raises:
        ValueError: It holds anything but the weights of one network.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            tr("the file holds no plain weights: {reason}", reason=str(error).strip().splitlines()[0])
        ) from error
    for key in ("params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return dict(content[key])
    raise ValueError(tr("the file has neither 'params_ema' nor 'params'"))


def export(weights: Path, out: Path, **architecture: Any) -> Parity:
    """Write the ONNX file and compare it with gfpgan's network as it is, sample by sample.

    Args:
        weights: The ``.pth`` file.
        out: The ONNX file.
        **architecture: Other settings of the network than those of version 1.4.

    Raises:
        ImportError: gfpgan is not installed.
        ValueError: The file holds other weights.
    """
    network = load_architecture().GFPGANv1Clean(**{**ARCHITECTURE, **architecture})
    try:
        network.load_state_dict(read_weights(weights), strict=True)
    except RuntimeError as error:
        raise ValueError(tr("the weights are not GFPGAN's: {reason}", reason=_lines(error)[-1])) from error
    model = Picture(network).eval()
    size = {**ARCHITECTURE, **architecture}["out_size"]
    with torch.no_grad():
        _write(model, torch.zeros(1, 3, size, size), out)
        candidate = Runtime("cpu").open(out)
        inputs = sample_inputs(candidate, SAMPLES)
        found = candidate.run_stack(*inputs)
        expected = [model(torch.from_numpy(sample[None])).numpy() for sample in inputs[0]]
    return compare(np.concatenate(expected), found, SAME, value_range=value_range(candidate))


def _write(model: Any, example: Any, out: Path) -> None:
    # The older exporter: it needs no further package.
    torch.onnx.export(
        model,
        (example,),
        str(out),
        dynamo=False,
        opset_version=OPSET,
        input_names=["input"],
        output_names=["output"],
    )


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def main(arguments: Sequence[str]) -> int:
    """Export; return the exit code."""
    weights, out, *settings = arguments
    try:
        parity = export(Path(weights), Path(out), **json.loads(settings[0] if settings else "{}"))
    except (ImportError, ValueError, OSError) as error:
        print(_lines(error)[-1], file=sys.stderr)
        return 1
    print(parity.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
