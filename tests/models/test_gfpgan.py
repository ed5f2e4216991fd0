"""Exporting GFPGAN weights with gfpgan and torch; the network is small."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from colab_helpers.errors import ModelError, OutputError
from colab_helpers.models.gfpgan_export import export_gfpgan
from colab_helpers.models.model_conversion import convert
from colab_helpers.models.parity import EXACT_TOLERANCE
from colab_helpers.models.session import Runtime

MISSING = [name for name in ("torch", "gfpgan") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.xdist_group("gfpgan"),
]
ROOT = Path(__file__).resolve().parents[2]
SMALL = {"out_size": 64, "channel_multiplier": 1, "narrow": 0.125}
# In its own process, because load_network installs stand-ins for basicsr. Noise and biases start at
# zero, which would hide their loss.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
from colab_helpers.models.gfpgan_export import load_network

weights, samples, answers, settings = sys.argv[1:]
torch.manual_seed(3)
picture = load_network(None, json.loads(settings))
net = picture.network
with torch.no_grad():
    for name, value in net.named_parameters():
        if name.endswith(".bias") or (".style_conv" in name and value.numel() == 1):
            value.add_(0.5 * torch.randn_like(value))
        elif name.startswith("condition"):
            value.mul_(6)
        if ".to_rgb" in name and "modulation" not in name:
            value.mul_(0.02)  # scales the picture, their sum, to about -1 to 1
    torch.save({"params_ema": net.state_dict(), "params": {}}, weights)
    pictures = torch.from_numpy(np.load(samples))
    np.save(answers, torch.cat([picture(each[None]) for each in pictures]).numpy())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``GFPGANv1.4.pth``, ``samples.npy``, and gfpgan's results for each sample, ``answers.npy``."""
    folder = tmp_path_factory.mktemp("gfpgan")
    samples = np.random.default_rng(1).uniform(-1, 1, (5, 3, 64, 64)).astype(np.float32)
    np.save(folder / "samples.npy", samples)
    files = [str(folder / name) for name in ("GFPGANv1.4.pth", "samples.npy", "answers.npy")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SCRIPT, *files, json.dumps(SMALL)], check=True, cwd=ROOT, env=env)
    return folder


def test_exported_network_matches_gfpgan(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "GFPGANv1.4.onnx"
    parity = export_gfpgan(folder / "GFPGANv1.4.pth", out, architecture=SMALL)
    assert (parity.mean_limit, parity.max_limit) == EXACT_TOLERANCE
    assert parity.max < 0.05
    assert parity.spread > 1
    assert list(tmp_path.iterdir()) == [out]
    network = Runtime("cpu", threads=1).open(out)
    assert (network.input_names, network.output_names) == (("input",), ("output",))
    assert network.session.get_inputs()[0].shape == [1, 3, 64, 64]
    samples, answers = np.load(folder / "samples.npy"), np.load(folder / "answers.npy")
    assert np.abs(np.diff(answers, axis=0)).mean() > 0.01
    assert 0.2 < answers.std() < 2
    np.testing.assert_allclose(network.run_stack(samples), answers, atol=1e-4)
    half = convert(out, half=True, runtime=Runtime("cpu", threads=1))
    assert (half.half, half.notes) == (True, ())


def test_weights_of_another_architecture_are_refused(folder: Path) -> None:
    """``convert`` exports the full-size network."""
    with pytest.raises(ModelError, match="cannot be exported"):
        convert(folder / "GFPGANv1.4.pth", half=False, runtime=Runtime("cpu", threads=1))
    assert not list((folder / "converted").glob("*.onnx*"))


class Code:
    """Code that runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["code", "junk", "other keys"])
def test_files_without_weights_are_refused_and_run_no_code(tmp_path: Path, kind: str) -> None:
    path, trap = tmp_path / "GFPGANv1.4.pth", tmp_path / "code ran"
    if kind == "code":
        path.write_bytes(pickle.dumps({"params_ema": Code(trap)}, protocol=2))
    elif kind == "junk":
        path.write_bytes(b"no weights at all")
    else:
        path.write_bytes(pickle.dumps({"weights": {}}, protocol=2))
    with pytest.raises(ModelError, match="cannot be exported") as caught:
        export_gfpgan(path, tmp_path / "out.onnx", architecture=SMALL)
    assert "not contain plain weights" in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_weights_and_unwritable_output_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.pth"):
        export_gfpgan(tmp_path / "no.pth", tmp_path / "out.onnx", architecture=SMALL)
    with pytest.raises((ModelError, OutputError), match="nowhere"):
        export_gfpgan(folder / "GFPGANv1.4.pth", tmp_path / "nowhere" / "out.onnx", architecture=SMALL)
