"""Cells and texts that notebooks share, word for word; a test compares them with the notebooks."""

from __future__ import annotations

REPOSITORY = "colab-helpers/colab-helpers"
"""The project's ``owner/name`` on GitHub: the only place to change when it moves.

After changing it run the tests of the notebooks: they name each badge and cell that must follow.
"""

BRANCH = "main"


def badge(notebook: str) -> str:
    """Return the "Open in Colab" badge of ``notebooks/<notebook>``, as Markdown."""
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    page = f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{notebook}"
    return f"[![Open In Colab]({image})]({page})"


NOTICE = """\
> **Before you start.** Change faces only where it is lawful and the people shown agree. Google's terms for \
Colab list "creating deepfakes" among the disallowed uses, and such sessions do get disconnected. \
This notebook runs just as well on plain Jupyter or on any machine with a GPU."""
"""Said in the first text of every notebook."""

DOCTOR_REPORT = "doctor.json"
PRELOAD_REPORT = "preload.json"
MONITOR_REPORT = "monitor.json"
"""Names of what the notebooks setup, preload and monitor leave in their output folder."""

BOOTSTRAP = f"""\
#@title Get ready: on Colab installs what is missing, elsewhere only checks {{ display-mode: "form" }}
import importlib.util, pathlib, runpy, subprocess, sys

on_colab = "google.colab" in sys.modules
if on_colab and importlib.util.find_spec("colab_helpers") is None:
    root = pathlib.Path("/content/colab-helpers")
    fetch = ["-C", str(root), "pull", "--ff-only"] if root.exists() else ["clone", "--depth=1"]
    where = [] if root.exists() else ["https://github.com/{REPOSITORY}", str(root)]
    subprocess.run(["git", *fetch, *where], check=True)
    sys.path.insert(0, str(root))
spec = importlib.util.find_spec("colab_helpers")
if spec is None:
    raise RuntimeError("Run 'bash setup.sh install' and choose the project's .venv as the kernel.")
runpy.run_path(str(pathlib.Path(spec.origin).with_name("install.py")))["ensure"](install=on_colab)"""
"""First code after the form: makes the package importable; safe to run again and again."""
