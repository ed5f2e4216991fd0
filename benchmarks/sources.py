"""What it costs to put in two people in one pass instead of one: ``python -m benchmarks.sources``.

A rendered clip of two people is done by turns with one source for both and with one for each; CPU seconds of
the process, so that others on the machine matter little. The networks are the tests' small stand-ins: of
larger ones, which take the same time for either, the difference is a smaller part.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from colab_helpers.faces.cast import Cast, KnownPerson, Treatment
from colab_helpers.faces.engine import Engine
from colab_helpers.pipeline import process_video
from colab_helpers.pipeline.outcome import NothingKept
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import Scene
from tests.people.standins import write_standins


def casts(engine: Engine) -> Mapping[str, Cast]:
    """Hanna for both, and Hanna for one and Gustav for the other."""
    names = ("alma", "bruno", "hanna", "gustav")
    look = {name: engine.analyser.find(portrait(name))[0].embedding for name in names}
    known = {
        who: KnownPerson(who, np.array([look[who]], np.float32), Treatment(source=look[source]))
        for who, source in (("alma", "hanna"), ("bruno", "gustav"))
    }
    return {"one source": Cast.of(look["hanna"]), "two sources": Cast(people=known, mapped=True)}


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_standins(folder)
        scene = Scene(63, (640, 360), seconds=options.seconds, people=2, cast=("alma", "bruno"))
        write_target(folder / "in.mp4", scene, crf=18, preset="veryfast")
        settings = load_settings(
            execution_provider="cpu", execution_threads=1, output_video_encoder="libx264"
        )
        engine = Engine.open(settings, models_dir=folder)
        taken: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):
            for way, cast in casts(engine).items():
                began = time.process_time()
                result = process_video(
                    engine, cast, folder / "in.mp4", folder / "out.mp4", store=NothingKept(folder / "work")
                )
                if number:  # the first finds the faces
                    taken.setdefault(way, []).append(time.process_time() - began)
                    print(
                        f"{way:12} {taken[way][-1]:6.2f} s of CPU, {result.faces_swapped} faces", flush=True
                    )
        one, two = taken.values()
        print(f"two sources cost {np.median(np.divide(two, one)):.3f} of one")


if __name__ == "__main__":
    main()
