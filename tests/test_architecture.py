"""What ``docs/architecture.md`` says stands in the code."""

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
WALK = re.findall(r"^\d+\. `([\w.]+)\.(\w+)`", TEXT, re.MULTILINE)


def test_it_is_short_and_names_every_room() -> None:
    assert len(TEXT.splitlines()) <= 80
    rooms = {path.parent.name + "/" for path in PACKAGE.glob("*/__init__.py")} - {"locale/"}
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    cells = "".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`([\w/.]+)`", cells)) - {"notebooks/"}
    assert named == rooms | files


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([a-z_]+/[\w/]+\.py)`", TEXT))))
def test_the_files_it_names_are_there(path: str) -> None:
    assert (PACKAGE / path).is_file()


def test_the_walk_of_a_frame_follows_the_imports() -> None:
    graph = grimp.build_graph("colab_helpers", cache_dir=None)
    assert len(WALK) == 11
    for module, name in WALK:
        assert hasattr(import_module(module), name), f"{module} has no {name}"
    first, video = WALK[0][0], WALK[1][0]
    assert graph.find_shortest_chain(first, video), f"{first} does not lead to {video}"
    for module, _ in WALK[2:]:
        assert graph.find_shortest_chain(video, module), f"{video} does not lead to {module}"


NETWORKS = {"cv2", "av", "onnxruntime", "numpy"}
MAP = "colab_helpers.batch.people_map"
# What is needed at the end of a run, or for some files: time before the first frame, and memory beside all.
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
def test_a_process_loads_no_more_than_it_needs(code: str, most: int, without: set[str]) -> None:
    """Modules are counted, not seconds: who starts a batch or watches it waits for no network."""
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
