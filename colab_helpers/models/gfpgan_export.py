"""GFPGAN's official weights as ONNX, exported in a process of its own.

torch is heavy and stays in memory, and the stand-ins for two names of basicsr must not be seen by anything
else: ``import gfpgan`` as a whole imports basicsr, which does not build on Python 3.13 and imports a module
that torchvision removed. The network itself needs a decorator and an initialiser from it, and nothing else.
The process's last line on stdout is a ``Parity`` as JSON; a problem is the last line on stderr.
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
from colab_helpers.language import VARIABLE, language, mark, tr
from colab_helpers.models.parity import SAME, Parity, compare, sample_inputs, value_range
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
_INSTALL = {
    "torch": "python -m pip install torch",
    # Its requirements are left out: basicsr does not build on new Pythons, and nothing of it is needed.
    "gfpgan": "python -m pip install --no-deps gfpgan==1.3.8",
}


def export_gfpgan(weights: Path, out: Path, architecture: Mapping[str, object] | None = None) -> Parity:
    """Write GFPGAN's official weights as ONNX, compared with torch.

    The result takes ``(1, 3, 512, 512)`` float32 RGB from -1 to 1 and gives the same. Versions 1.2 to
    1.4 have the same layout.

    ``architecture`` has settings of a network other than the official ones. ``out`` is not there where this
    raises.

    Raises:
        ModelError: torch or gfpgan is not installed, the file holds other weights or code, or the result
            does not compute the same.
    """
    missing = [name for name in _INSTALL if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            tr("exporting the weights needs {names}, not installed here", names=tr(" and ").join(missing)),
            where=str(weights),
            remedy=tr(
                "run '{commands}', or use the ready-made GFPGANv1.4.onnx",
                commands=" && ".join(_INSTALL[name] for name in missing),
            ),
        )
    try:
        parity = _run(weights, out, architecture or {})
        if parity.problem:
            text = mark("the exported network does not compute what the weights do: {reason}")
            raise ModelError(
                tr(text, reason=parity.problem),
                where=str(weights),
                remedy=tr("use the ready-made GFPGANv1.4.onnx"),
            )
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return parity


def _run(weights: Path, out: Path, architecture: Mapping[str, object]) -> Parity:
    """Export in another process."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    program = [sys.executable, "-m", "colab_helpers.models.gfpgan_export"]
    done = subprocess.run(
        [*program, str(weights), str(out), json.dumps(dict(architecture))],
        env={**os.environ, "PYTHONPATH": paths, VARIABLE: language()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        code = tr("the exporting process ended with {code}", code=done.returncode)
        last = (done.stderr.strip().splitlines() or [code])[-1]
        reason = re.sub(r"^\w+Error: ", "", last)  # the last line of a traceback
        raise ModelError(
            tr("the weights cannot be exported ({reason})", reason=reason),
            where=str(weights),
            remedy=tr("use the official GFPGANv1.4.pth, or the ready-made GFPGANv1.4.onnx"),
        )
    return Parity.model_validate_json(done.stdout.strip().splitlines()[-1])


# --- in the other process -----------------------------------------------------------------------------


def network_of(weights: Path | None, architecture: Mapping[str, Any]) -> Any:
    """Return GFPGAN's network reduced to what is exported: crops to crops, the noise kept in the weights.

    Raises:
        ImportError: gfpgan or torch is not installed.
        ValueError: The file holds other weights; without a file they stay as initialised.
    """
    import torch

    class Picture(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, crops: Any) -> Any:
            return self.network(crops, return_rgb=False, randomize_noise=False)[0]

    network = _load_architecture().GFPGANv1Clean(**{**ARCHITECTURE, **architecture})
    if weights is not None:
        try:
            network.load_state_dict(_read_weights(weights), strict=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(tr("the weights are not GFPGAN's: {reason}", reason=reason)) from None
    return Picture(network).eval()


def _load_architecture() -> ModuleType:
    """The gfpgan package's module of the network."""
    spec = importlib.util.find_spec("gfpgan")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(tr("gfpgan is not installed"))
    folders = list(spec.submodule_search_locations)
    # Empty packages with the real folders: their own __init__ would import all of basicsr and facexlib.
    _stand_in("gfpgan", __path__=folders)
    _stand_in("gfpgan.archs", __path__=[str(Path(folder) / "archs") for folder in folders])
    for name in ("basicsr", "basicsr.archs", "basicsr.utils"):
        _stand_in(name, __path__=[])
    # The weights are loaded over whatever was initialised, and nobody asks the registry.
    _stand_in("basicsr.archs.arch_util", default_init_weights=lambda *_, **__: None)
    registry = type("Registry", (), {"register": lambda _: lambda item: item})()
    _stand_in("basicsr.utils.registry", ARCH_REGISTRY=registry)
    return importlib.import_module("gfpgan.archs.gfpganv1_clean_arch")


def _stand_in(name: str, **names: Any) -> None:
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(names)


def _read_weights(path: Path) -> dict[str, Any]:
    """The weights in a ``.pth`` file; never runs code from it."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(tr("the file holds no plain weights: {reason}", reason=reason)) from None
    for key in ("params_ema", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return dict(content[key])
    raise ValueError(tr("the file has neither 'params_ema' nor 'params'"))


def _export(weights: Path, out: Path, architecture: Mapping[str, Any]) -> Parity:
    """Write the ONNX file and compare it with gfpgan's network, sample by sample."""
    import torch

    model = network_of(weights, architecture)
    size = {**ARCHITECTURE, **architecture}["out_size"]
    with torch.no_grad():
        # The older exporter: it needs no further package.
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, size, size),),
            str(out),
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
        )
        candidate = Runtime("cpu").open(out)
        samples = sample_inputs(candidate.session, 2)["input"]
        expected = [model(torch.from_numpy(sample[None])).numpy() for sample in samples]
    found = candidate.run_stack(samples)
    return compare(np.concatenate(expected), found, SAME, value_range(candidate.session))


if __name__ == "__main__":
    weights, out, settings = sys.argv[1:]
    print(_export(Path(weights), Path(out), json.loads(settings)).model_dump_json())
