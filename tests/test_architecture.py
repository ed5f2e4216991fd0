"""``docs/architecture.md`` matches the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import grimp
import pytest

import colab_helpers

PACKAGE = Path(colab_helpers.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
FRAME_PATH = re.findall(r"^\d+\. `([\w.]+)\.(\w+)`", TEXT, re.MULTILINE)


def test_document_is_short_and_lists_every_package() -> None:
    assert len(TEXT.splitlines()) <= 80
    packages = {path.parent.name + "/" for path in PACKAGE.glob("*/__init__.py")} - {"locale/"}
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    cells = "".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`([\w/.]+)`", cells)) - {"notebooks/"}
    assert named == packages | files


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-z_]+/[\w/]+\.py)`", TEXT))))
def test_named_files_exist(path: str) -> None:
    assert (PACKAGE / path).is_file()


def test_path_of_a_frame_follows_imports() -> None:
    graph = grimp.build_graph("colab_helpers", cache_dir=None)
    assert len(FRAME_PATH) == 11
    for module, name in FRAME_PATH:
        assert hasattr(import_module(module), name), f"{module} has no {name}"
    first, video = FRAME_PATH[0][0], FRAME_PATH[1][0]
    assert graph.find_shortest_chain(first, video), f"{first} does not import {video}"
    for module, _ in FRAME_PATH[2:]:
        assert graph.find_shortest_chain(video, module), f"{video} does not import {module}"


NETWORKS = {"cv2", "av", "onnxruntime", "numpy"}
MAP = "colab_helpers.batch.people_map"
# Needed only at the end of a run or for some files; loading them early costs time and memory.
LATE = {"c2pa", "cryptography", "pillow_heif", "numpy.ma"}


@pytest.mark.parametrize(
    ("code", "most", "without"),
    [
        ("__main__.main(['--help'])", 112, {"pydantic", "yaml", "psutil", *NETWORKS}),
        ("__main__.main(['stop', '/'])", 136, {"pydantic", "yaml", "psutil", *NETWORKS}),
        ("batch.supervisor", 295, {"jinja2", "tqdm", *NETWORKS}),
        ("pages.live", 268, {"yaml", "jinja2", "psutil", "ctypes", *NETWORKS}),
        ("pages.report", 512, {"onnxruntime", "psutil", "jinja2", *LATE}),
        ("batch.run_file", 622, {"onnx", "jinja2", "tqdm", "filelock", "asyncio", "http.client", *LATE, MAP}),
        ("batch.worker", 676, {"onnx", "scipy", "skimage", "insightface", "jinja2", "requests", *LATE}),
    ],
)
def test_process_loads_only_needed_modules(code: str, most: int, without: set[str]) -> None:
    """Counts modules instead of measuring start-up time."""
    module = code.partition(".main(")[0]
    script = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps([*sys.modules]), file=sys.stderr))\n"
        f"import colab_helpers.{module}\n"
        f"{'' if module == code else 'colab_helpers.' + code}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stderr.splitlines()[-1])
    assert not without & {*loaded}
    assert len(loaded) <= most
