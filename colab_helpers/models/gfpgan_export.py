"""Export GFPGAN's official weights to ONNX in a subprocess.

A subprocess, because torch is heavy and stays in memory, and because no other code may see the stubs for
basicsr: ``import gfpgan`` imports basicsr, which does not build on Python 3.13 and imports a module that
torchvision removed, although the network needs only a decorator and an initialiser from it. The last line of
the subprocess's stdout is a ``Verdict`` as JSON; after a failure, the last line of stderr is the error.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import numpy as np

from colab_helpers.errors import ModelError
from colab_helpers.language import LANGUAGE_ENV, language, tr
from colab_helpers.models.parity import EXACT_TOLERANCE, Verdict, compare, sample_inputs, value_range
from colab_helpers.models.session import Runtime

# The arguments for versions 1.2 to 1.4, as in gfpgan's own GFPGANer for the "clean" architecture.
ARCHITECTURE = {
    "out_size": 512, "num_style_feat": 512, "channel_multiplier": 2, "decoder_load_path": None,
    "fix_decoder": False, "num_mlp": 8, "input_is_latent": True, "different_w": True, "narrow": 1,
    "sft_half": True,
}  # fmt: skip
# Without dependencies: basicsr does not build on recent Python versions, and is not needed.
_INSTALL = "python -m pip install torch && python -m pip install --no-deps gfpgan==1.3.8"


def export_gfpgan(weights: Path, out: Path, architecture: Mapping[str, object] | None = None) -> Verdict:
    """Export GFPGAN's official weights to ONNX and compare the result with torch.

    The model's input and output are ``(1, 3, 512, 512)`` float32 RGB from -1 to 1. ``architecture`` overrides
    values of ``ARCHITECTURE``. If this raises, a file at ``out`` must not be used.

    Raises:
        ModelError: torch or gfpgan is not installed, the file has other weights or contains code, or the
            exported model computes other results.
    """
    missing = [name for name in ("torch", "gfpgan") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            tr("exporting the weights needs {names}, not installed here", names=tr(" and ").join(missing)),
            where=str(weights),
            remedy=tr("run '{commands}', or use the ready-made GFPGANv1.4.onnx", commands=_INSTALL),
        )
    verdict = _export_in_subprocess(weights, out, architecture or {})
    if verdict.reason:
        raise _export_error(weights, verdict.problem)
    return verdict


def _export_error(weights: Path, reason: str) -> ModelError:
    return ModelError(
        tr("the weights cannot be exported ({reason})", reason=reason),
        where=str(weights),
        remedy=tr("use the official GFPGANv1.4.pth, or the ready-made GFPGANv1.4.onnx"),
    )


def _export_in_subprocess(weights: Path, out: Path, architecture: Mapping[str, object]) -> Verdict:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    result = subprocess.run(
        [sys.executable, "-m", __name__, str(weights), str(out), json.dumps(dict(architecture))],
        env={**os.environ, "PYTHONPATH": paths, LANGUAGE_ENV: language()},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [str(result.returncode)])[-1]
        raise _export_error(weights, re.sub(r"^\w+Error: ", "", last.strip()))
    return Verdict.model_validate_json(result.stdout.strip().splitlines()[-1])


# --- in the subprocess --------------------------------------------------------------------------------


def load_network(weights: Path | None, architecture: Mapping[str, Any]) -> Any:
    """Return GFPGAN's network from crops to crops, with fixed noise; without a file, random weights."""
    import torch

    class Picture(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: Any) -> Any:
            return self.network(crops, return_rgb=False, randomize_noise=False)[0]

    network = _load_architecture().GFPGANv1Clean(**{**ARCHITECTURE, **architecture})
    if weights is not None:
        network.load_state_dict(_read_weights(weights), strict=True)
    return Picture(network).eval()


def _load_architecture() -> ModuleType:
    """Import the gfpgan module that defines the network, with stubs for basicsr."""
    spec = importlib.util.find_spec("gfpgan")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    # Stubs suffice: the initialised weights are overwritten, and the registry is never queried.
    registry = type("Registry", (), {"register": lambda _: lambda item: item})()
    # The real packages' __init__ modules would import all of basicsr and facexlib.
    packages: dict[str, dict[str, Any]] = {
        "gfpgan": {"__path__": folders},
        "gfpgan.archs": {"__path__": [str(Path(folder) / "archs") for folder in folders]},
        **{name: {"__path__": []} for name in ("basicsr", "basicsr.archs", "basicsr.utils")},
        "basicsr.archs.arch_util": {"default_init_weights": lambda *_, **__: None},
        "basicsr.utils.registry": {"ARCH_REGISTRY": registry},
    }
    for name, contents in packages.items():
        sys.modules[name] = module = ModuleType(name)
        vars(module).update(contents)
    return importlib.import_module("gfpgan.archs.gfpganv1_clean_arch")


def _read_weights(path: Path) -> dict[str, Any]:
    """Return the weights in a ``.pth`` file, without running code from it; raise ValueError if impossible."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["params_ema"])
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(tr("the file does not contain plain weights: {reason}", reason=reason)) from None


def _export(weights: Path, out: Path, architecture: Mapping[str, Any]) -> Verdict:
    """Write the ONNX file and compare it with gfpgan's network, sample by sample."""
    import torch

    model = load_network(weights, architecture)
    size = {**ARCHITECTURE, **architecture}["out_size"]
    with torch.no_grad():
        # The older, non-dynamo exporter needs no further package.
        names = {"input_names": ["input"], "output_names": ["output"]}
        example = (torch.zeros(1, 3, size, size),)
        torch.onnx.export(model, example, str(out), dynamo=False, opset_version=17, **names)
        candidate = Runtime("cpu").open(out)
        samples = sample_inputs(candidate.session, 2)["input"]
        expected = [model(torch.from_numpy(sample[None])).numpy() for sample in samples]
    actual = candidate.run_stack(samples)
    return compare(np.concatenate(expected), actual, EXACT_TOLERANCE, value_range(candidate.session))


if __name__ == "__main__":
    weights, out, settings = sys.argv[1:]
    print(_export(Path(weights), Path(out), json.loads(settings)).model_dump_json())
