"""portraits.ipynb run with papermill, and the functions that its cells call, with a fake generator."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from colab_helpers import errors
from colab_helpers.batch.library import synthetic_people
from colab_helpers.demo import copy_demo
from colab_helpers.errors import UsageError
from colab_helpers.media.images import read_image
from colab_helpers.portraits import PACKAGES
from colab_helpers.prompts import improve_prompt
from colab_helpers.ui import headless, portraits
from colab_helpers.ui.host import Host
from colab_helpers.ui.portraits import PortraitsRequest, paint_portraits, show_portraits, show_prompt
from tests.test_portraits import Painter

NOTEBOOK = "portraits"
COMMAND = "bash setup.sh install portraits"


@pytest.mark.skipif(all(map(find_spec, PACKAGES)), reason="the extra portraits is installed")
def test_missing_extra_names_install_command(papermill, run, tmp_path, capfd):
    done = papermill(prompt="una mujer", size=768, library=str(tmp_path / "people"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    assert COMMAND in text
    assert improve_prompt("una mujer", "portrait") in text
    assert "Traceback" not in text
    assert run(tmp_path / "headless", size="512", library=tmp_path / "people") == headless.EXIT_USAGE
    assert f"run '{COMMAND}'" in capfd.readouterr().err
    assert not (tmp_path / "people").exists()


def test_portraits_are_generated_saved_and_shown(tmp_path: Path, monkeypatch, capsys) -> None:
    demo, library = copy_demo(tmp_path / "demo"), tmp_path / "people"
    paint, shown = Painter(demo.source), list[str]()
    monkeypatch.setattr(errors, "find_spec", lambda name: name)
    monkeypatch.setattr(portraits, "open_sdxl_lightning", lambda root, **_: paint(root))
    monkeypatch.setattr(Host, "show", lambda self, html, text, **_: shown.extend([html, text]))
    values = {"library": library, "models_dir": demo.models, "size": "512", "count": "2", "seed": 5}
    request = show_prompt(PortraitsRequest(prompt="a man with a <beard>", **values))
    assert "a man with a &lt;beard&gt;, head and shoulders portrait" in shown[0]
    assert "OpenRAIL++" in shown[1] or "Open RAIL++" in shown[1]
    painted = paint_portraits(request)
    assert [(one.photo.parent.name, one.seed) for one in painted] == [("crowd-1", 8), ("crowd-2", 13)]
    assert [size for _, _, size in paint.calls] == [512] * 8
    assert capsys.readouterr().out.count("portrait: ") == 2
    show_portraits(request, painted)
    assert shown[-2].count("data:image/jpeg;base64,") == 2
    assert "people = everybody" in shown[-1]
    assert synthetic_people(library) == ["crowd-1", "crowd-2"]
    assert np.array_equal(read_image(painted[0].photo), paint.paint("", 8, 512))
    with pytest.raises(UsageError, match="adults only"):
        show_prompt(PortraitsRequest(prompt="a boy", **values))
    with pytest.raises(UsageError, match="size = 600"):
        PortraitsRequest(size=600)
