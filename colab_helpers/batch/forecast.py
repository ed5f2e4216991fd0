"""How long files will take, measured on some of their own frames."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.errors import ColabHelpersError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.types import FloatArray
from colab_helpers.language import tr
from colab_helpers.media.probe import VideoInfo, is_image, probe
from colab_helpers.pipeline import Excerpt, VideoRun

CALIBRATION = Excerpt(frames=50, seconds=20.0)
"""What is done of one video of each size: fifty frames, on slow machines as many as fit twenty seconds."""
_IMAGE_SECONDS = 2.0
_USUAL_RATE = 25


@dataclass(frozen=True)
class Forecast:
    """How long each file will take.

    Attributes:
        seconds: By target; a file that cannot be read is not in it.
    """

    seconds: Mapping[Path, float]

    def shortest_first(self, targets: list[Path]) -> list[int]:
        """Positions of the targets in the order of their time; unreadable ones last."""
        return sorted(range(len(targets)), key=lambda n: self.seconds.get(targets[n], float("inf")))

    def fitting(self, targets: Iterable[Path], minutes: float) -> int:
        """How many of the targets, in their order, will be done in that time."""
        left, count = minutes * 60, 0
        for target in targets:
            left -= self.seconds.get(target, 0.0)
            if left < 0:
                break
            count += 1
        return count

    def line(self, targets: list[Path], minutes: float) -> str:
        """The forecast in a sentence."""
        total = sum(self.seconds.get(target, 0.0) for target in targets) / 60
        text = tr("{files} file(s) will take about {minutes:.0f} minutes", files=len(targets), minutes=total)
        if not minutes:
            return text
        return tr(
            "{fitting} of {files} file(s) fit the {minutes:.0f} minutes that "
            "are left; all will take about {total:.0f}. What is not done then is taken up by the next run",
            fitting=self.fitting(targets, minutes),
            files=len(targets),
            minutes=minutes,
            total=total,
        )


def forecast(
    engine: Engine, source: FloatArray | None, targets: Iterable[Path], *, beat: Callable[[], None]
) -> Forecast:
    """Measure how fast one video of each size goes, and reckon the time of all.

    Args:
        engine: The loaded networks.
        source: Embedding of the source.
        targets: What is still to do.
        beat: Called after each measurement; may raise to give up.
    """
    pace: dict[tuple[int, int, int], float] = {}
    seconds: dict[Path, float] = {}
    for target in targets:
        if is_image(target):
            seconds[target] = _IMAGE_SECONDS
            continue
        try:
            info = probe(target)
            kind = (info.width, info.height, info.bit_depth)
            if kind not in pace:
                pace[kind] = _measured(engine, source, info)
                beat()
        except ColabHelpersError:
            continue  # whoever does the file will say what is wrong with it
        seconds[target] = _frames(info) / pace[kind]
    return Forecast(seconds)


def _measured(engine: Engine, source: FloatArray | None, info: VideoInfo) -> float:
    """Frames per second on an excerpt from the middle of a video, where people are likely."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "excerpt.mkv"
        result = VideoRun(engine, source, info.path, output, excerpt=CALIBRATION).run()
    return result.frames_out / max(result.seconds, 1e-6)


def _frames(info: VideoInfo) -> float:
    return float(info.frames or info.duration * (info.average_rate or _USUAL_RATE))
