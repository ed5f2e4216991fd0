"""Create the README's screenshots of the notebooks: ``python docs/make_screenshots.py``.

Runs the browser tests that take them (``.ci/browser`` installs their requirements), and reduces the file
sizes.
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
"""File names in ``docs/screenshots``, and the tests' names for the same screenshots."""
TESTS = "start_stop or follows_batch_folder or show_table"
COLOURS = 128


def main() -> None:
    """Write ``docs/screenshots/*.png``."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, "SCREENSHOTS": folder, "REQUIRE_BROWSER": "1"}
        command = [sys.executable, "-m", "pytest", "tests/browser", "-q", "-k", TESTS]
        subprocess.run(command, cwd=ROOT, env=variables, check=True)
        FOLDER.mkdir(exist_ok=True)
        for name, screenshot in SHOTS.items():
            image = Image.open(Path(folder) / f"{screenshot}.png").convert("RGB")
            image.quantize(COLOURS).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
