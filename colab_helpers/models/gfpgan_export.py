"""GFPGAN's official weights as ONNX, exported in a process of its own.

torch is heavy and stays in memory, and the stand-ins for two names of basicsr must not be seen by anything
else: ``import gfpgan`` as a whole imports basicsr, which does not build on Python 3.13 and imports a module
that torchvision removed. The network itself needs a decorator and an initialiser from it, and nothing else.
The process's last line on stdout is a ``Verdict`` as JSON; a problem is the last line on stderr.
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
# Its requirements are left out: basicsr does not build on new Pythons, and nothing of it is needed.
_INSTALL = "python -m pip install torch && python -m pip install --no-deps gfpgan==1.3.8"


def export_gfpgan(weights: Path, out: Path, architecture: Mapping[str, object] | None = None) -> Verdict:
    """Write GFPGAN's official weights as ONNX, compared with torch.

    The result takes ``(1, 3, 512, 512)`` float32 RGB from -1 to 1 and gives the same. ``architecture`` has
    settings of a network other than the official ones. What lies at ``out`` where this raises is no model.

    Raises:
        ModelError: torch or gfpgan is not installed, the file holds other weights or code, or the result
            does not compute the same.
    """
    missing = [name for name in ("torch", "gfpgan") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            tr("exporting the weights needs {names}, not installed here", names=tr(" and ").join(missing)),
            where=str(weights),
            remedy=tr("run '{commands}', or use the ready-made GFPGANv1.4.onnx", commands=_INSTALL),
        )
    verdict = _run(weights, out, architecture or {})
    if verdict.reason:
        raise _not_exported(weights, verdict.problem)
    return verdict


def _not_exported(weights: Path, reason: str) -> ModelError:
    return ModelError(
        tr("the weights cannot be exported ({reason})", reason=reason),
        where=str(weights),
        remedy=tr("use the official GFPGANv1.4.pth, or the ready-made GFPGANv1.4.onnx"),
    )


def _run(weights: Path, out: Path, architecture: Mapping[str, object]) -> Verdict:
    """Export in another process."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(weights), str(out), json.dumps(dict(architecture))],
        env={**os.environ, "PYTHONPATH": paths, LANGUAGE_ENV: language()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [str(done.returncode)])[-1]
        raise _not_exported(weights, re.sub(r"^\w+Error: ", "", last.strip()))  # of a traceback
    return Verdict.model_validate_json(done.stdout.strip().splitlines()[-1])


# --- in the other process -----------------------------------------------------------------------------


def network_of(weights: Path | None, architecture: Mapping[str, Any]) -> Any:
    """GFPGAN's network from crops to crops, its noise kept in the weights (as initialised without a file)."""
    import torch

    class Picture(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: Any) -> Any:
            return self.network(crops, return_rgb=False, randomize_noise=False)[0]

    network = _load_architecture().GFPGANv1Clean(**{**ARCHITECTURE, **architecture})
    if weights is not None:
        network.load_state_dict(_read_weights(weights), strict=True)  # the last line of its error tells most
    return Picture(network).eval()


def _load_architecture() -> ModuleType:
    """The gfpgan package's module of the network."""
    spec = importlib.util.find_spec("gfpgan")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    # The weights are loaded over whatever was initialised, and nobody asks the registry.
    registry = type("Registry", (), {"register": lambda _: lambda item: item})()
    # Empty packages with the real folders: their own __init__ would import all of basicsr and facexlib.
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
    """The weights in a ``.pth`` file; never runs code from it."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["params_ema"])
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(tr("the file holds no plain weights: {reason}", reason=reason)) from None


def _export(weights: Path, out: Path, architecture: Mapping[str, Any]) -> Verdict:
    """Write the ONNX file and compare it with gfpgan's network, sample by sample."""
    import torch

    model = network_of(weights, architecture)
    size = {**ARCHITECTURE, **architecture}["out_size"]
    with torch.no_grad():
        # The older exporter: it needs no further package.
        names = {"input_names": ["input"], "output_names": ["output"]}
        example = (torch.zeros(1, 3, size, size),)
        torch.onnx.export(model, example, str(out), dynamo=False, opset_version=17, **names)
        candidate = Runtime("cpu").open(out)
        samples = sample_inputs(candidate.session, 2)["input"]
        expected = [model(torch.from_numpy(sample[None])).numpy() for sample in samples]
    found = candidate.run_stack(samples)
    return compare(np.concatenate(expected), found, EXACT_TOLERANCE, value_range(candidate.session))


if __name__ == "__main__":
    weights, out, settings = sys.argv[1:]
    print(_export(Path(weights), Path(out), json.loads(settings)).model_dump_json())
