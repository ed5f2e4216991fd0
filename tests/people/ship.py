"""Make the demo shipped with the product: ``python -m tests.people colab_helpers/demo/files --ship``."""

from __future__ import annotations

import zipfile
from fractions import Fraction
from pathlib import Path

import cv2

from colab_helpers.demo import MODELS
from tests.people.actors import portrait
from tests.people.clip import write_manifest, write_target
from tests.people.scene import Scene
from tests.people.standins import build_standins

SOURCE = "hanna"
"""The source person, unlike all people in the clips."""
SIZE, RATE, SECONDS = (640, 360), Fraction(25), 4.0
CLIPS = {
    "crossing": Scene(1, SIZE, RATE, SECONDS, 2, cast=["gustav", "fumiko"], crossing=True),
    "covered": Scene(6, SIZE, RATE, SECONDS, 1, cast=["dalia"]),
}


def ship_demo(folder: Path) -> None:
    """Write portraits, two clips, the packed networks and the manifest."""
    for name in ("source", "targets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source = folder / "source" / f"{SOURCE}.jpg"
    cv2.imwrite(str(source), portrait(SOURCE), [cv2.IMWRITE_JPEG_QUALITY, 92])
    targets = [folder / "targets" / f"{name}.mp4" for name in CLIPS]
    for path, scene in zip(targets, CLIPS.values(), strict=True):
        write_target(path, scene, crf=20, preset="slow")
    write_manifest(folder, [source, *targets])
    with zipfile.ZipFile(folder / MODELS, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, model in build_standins().items():
            # A fixed date makes the file reproducible.
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            pack.writestr(entry, model.SerializeToString(deterministic=True), compresslevel=9)
