"""Make the README's pictures of the notebooks: ``python docs/make_screenshots.py``.

Runs some of the browser tests, which take them (``.ci/browser`` installs what that needs), and makes them
small.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "screenshots"
SHOTS = {
    "batch_swap": "panel-run",
    "monitor": "monitor-run-lab",
    "setup": "setup-lab",
    "preload": "preload-lab",
}
"""Names of the pictures and of the tests' shots."""
TESTS = "start_stop or follows_batch_folder or show_table"
COLOURS = 128


def main() -> None:
    """Write ``docs/screenshots/*.png``."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, "SCREENSHOTS": folder, "REQUIRE_BROWSER": "1"}
        command = [sys.executable, "-m", "pytest", "tests/browser", "-q", "-k", TESTS]
        subprocess.run(command, cwd=ROOT, env=variables, check=True)
        FOLDER.mkdir(exist_ok=True)
        for name, shot in SHOTS.items():
            shown = Image.open(Path(folder) / f"{shot}.png").convert("RGB")
            shown.quantize(COLOURS).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
