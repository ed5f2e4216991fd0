"""Measure complete batches on rendered people against the exact truth.

    python -m benchmarks.main_job [SEED ...] [--seconds 4] [--size 1280x720]

For each seed: renders a demo, swaps one identity into every clip with the stand-in models through the Python
API, and measures the outputs: identity (cosine similarity to source and original), image quality inside the
faces (PSNR to the true swapped frame, and its gain over the unchanged frame) and outside them (PSNR to the
input, compared with a plain re-encode at the same settings), frames, timestamps, audio, and the offset
between flashes and clicks. Without seeds, three are drawn at random.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from colab_helpers.api import run_batch
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.types import Face
from colab_helpers.media.encoders import choose_encoder
from colab_helpers.media.images import read_image
from colab_helpers.media.join import join_segments
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.media.segments import Segment, SegmentWriter
from colab_helpers.settings import Settings, load_settings
from tests.people.clip import make_demo
from tests.people.looks import IDENTITIES
from tests.people.scene import FaceTruth, Scene

Image = npt.NDArray[np.uint8]
CONSENT = "The rendered people of the demo: synthetic."
# Minimum quality of the stand-in models; checked by a test.
MIN_TO_SOURCE, MAX_TO_ORIGINAL = 0.7, 0.4
MIN_PSNR, MIN_GAIN, MAX_OUTSIDE = 20.0, 5.0, 0.2
_INSIDE, _MIN_VISIBLE, _MIN_SIZE = 0.98, 0.95, 80


@dataclass
class Outcome:
    """Measurements of one clip; PSNR in dB, offsets in frames."""

    clip: str
    frames_in: int
    frames_out: int
    same_times: bool
    same_sound: bool
    flash_offsets: list[float]
    to_source: list[float] = field(default_factory=list)
    to_original: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    outside: float = float("nan")
    outside_plain: float = float("nan")


def images(path: Path) -> Iterator[Image]:
    """Yield every frame, ``(H, W, 3)`` uint8 BGR."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)


def times_and_sound(path: Path) -> tuple[list[Fraction], list[tuple[bytes, Fraction]]]:
    """Return the timestamps of all frames, and every audio packet with its timestamp, in seconds."""
    with av.open(str(path)) as container:
        frames: Iterator[Any] = container.decode(video=0)
        times = [frame.pts * frame.time_base for frame in frames]
    with av.open(str(path)) as container:
        packets: list[Any] = [packet for packet in container.demux(audio=0) if packet.size]
        return times, [(bytes(packet), packet.pts * packet.time_base) for packet in packets]


def squared_error(first: Image, second: Image, where: npt.NDArray[np.bool_]) -> float:
    """Return the mean squared difference of two images inside a mask."""
    return float(np.square(first[where].astype(np.float32) - second[where]).mean())


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio in dB for a mean squared error of 8-bit images."""
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def plain_re_encode(target: Path, output: Path, settings: Settings) -> None:
    """Decode and encode with the encoder of the settings, without any change."""
    info = probe(target)
    choice = choose_encoder(info, wanted=settings.output_video_encoder, quality=settings.output_video_quality)
    segments: list[Segment] = []
    with tempfile.TemporaryDirectory() as folder:
        writer = SegmentWriter(
            Path(folder), info, choice=choice, length=info.frames or 1, on_segment=segments.append
        )
        with read_frames(info) as frames, writer:
            for frame in frames:
                writer.write(frame.video, pts=frame.pts, duration=frame.duration)
        join_segments(segments, info, output, choice=choice)


def flash_offsets(path: Path, scene: Scene) -> list[float]:
    """Return click time minus flash time, in frames, for every flash."""
    left, top, right, bottom = scene.flash_box()
    bright = [image[top:bottom, left:right].mean() > 200 for image in images(path)]
    starts = [i for i, lit in enumerate(bright) if lit and (i == 0 or not bright[i - 1])]
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames: Iterator[Any] = container.decode(stream)
        parts = [(frame.pts * frame.time_base, frame.to_ndarray()[0]) for frame in frames]
        rate = stream.rate
    signal = np.abs(np.concatenate([samples for _, samples in parts]).astype(np.float32))
    loud = np.flatnonzero(signal > 0.5 * signal.max())
    clicks = loud[np.insert(np.diff(loud) > rate // 4, 0, True)] / rate + float(parts[0][0])
    if len(clicks) != len(starts):
        raise AssertionError(f"{len(starts)} flashes but {len(clicks)} clicks in {path}")
    return [float((click - i / scene.fps) * scene.fps) for click, i in zip(clicks, starts, strict=True)]


def matching_face(faces: list[Face], box: npt.NDArray[np.float32]) -> Face | None:
    """Return the first face whose centre lies in the inner half of a true box, or None."""
    quarter = (box[2:] - box[:2]) / 4
    for face in faces:
        centre = np.array(face.centre)
        if np.all(centre > box[:2] + quarter) and np.all(centre < box[2:] - quarter):
            return face
    return None


def measure_clip(demo: Path, clip: str, source: str, output: Path, scene: Scene, every: int) -> Outcome:
    """Measure one output against the truth; image quality in every ``every``-th frame only."""
    target, plain = demo / "targets" / f"{clip}.mp4", demo / f"{clip}.plain.mp4"
    settings = load_settings(execution_provider="cpu")
    plain_re_encode(target, plain, load_settings(output_video_encoder="libx264"))
    analyser = FaceAnalyser(settings, models_dir=demo / "models")
    portraits: dict[str, Any] = {
        path.stem: analyser.find(read_image(path))[0].embedding for path in (demo / "source").glob("*.png")
    }
    (times_in, sound_in), (times_out, sound_out) = times_and_sound(target), times_and_sound(output)
    same = times_in == times_out, sound_in == sound_out
    outcome = Outcome(clip, len(times_in), len(times_out), *same, flash_offsets(output, scene))
    outside: list[tuple[float, float]] = []
    for i, (old, new, encoded) in enumerate(zip(*map(images, (target, output, plain)), strict=True)):
        if i % every:
            continue
        truth = scene.render_all(i, [source])
        clear = ~_boxes(old.shape, truth.faces)
        outside.append((squared_error(old, new, clear), squared_error(old, encoded, clear)))
        detections = analyser.find(new)
        for face in truth.faces:
            width = face.box[2] - face.box[0]
            if face.who == source or face.visible < _MIN_VISIBLE or width < _MIN_SIZE:
                continue
            inside = (truth.mask > _INSIDE) & _boxes(old.shape, [face])
            if inside.sum() > 400:
                swapped, unchanged = (
                    psnr(squared_error(image, truth.swapped[source], inside)) for image in (new, old)
                )
                outcome.inside.append(swapped)
                outcome.gain.append(swapped - unchanged)
            match = matching_face(detections, face.box)
            if match is not None and match.embedding is not None:
                outcome.to_source.append(float(match.embedding @ portraits[source]))
                outcome.to_original.append(float(match.embedding @ portraits[face.who]))
    outcome.outside, outcome.outside_plain = (psnr(float(np.mean(e))) for e in zip(*outside, strict=True))
    return outcome


def _boxes(shape: tuple[int, ...], faces: Sequence[FaceTruth]) -> npt.NDArray[np.bool_]:
    """Return the mask of all face boxes with a margin of 10 % of the width."""
    mask = np.zeros(shape[:2], bool)
    for face in faces:
        left, top, right, bottom = (max(0, round(float(value))) for value in face.box)
        margin = round(0.1 * (right - left))  # detected boxes differ slightly from the true ones
        mask[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    return mask


def measure_seed(
    folder: Path, seed: int, *, seconds: float, size: tuple[int, int], every: int = 5
) -> list[Outcome]:
    """Render, swap and measure the two clips of one seed."""
    source = sorted(IDENTITIES)[seed % len(IDENTITIES)]
    make_demo(folder, seed=seed, seconds=seconds, size=size, true_swaps=False)
    settings = load_settings(
        "balanced", execution_provider="cpu", output_video_encoder="libx264",
        visible_label="off", disclosure="a benchmark",
    )  # fmt: skip
    report = run_batch(
        [folder / "source" / f"{source}.png"],
        [folder / "targets"],
        folder / "out",
        consent=CONSENT,
        settings=settings,
        models_dir=folder / "models",
    )
    if not report.ok:
        raise AssertionError([file.error for file in report.files])
    outcomes = []
    for number, file in enumerate(report.files):
        scene = Scene(seed=seed * 1000 + number, size=size, seconds=seconds, people=2 - number % 2)
        output = Path(file.output or "")
        outcomes.append(measure_clip(folder, Path(file.target).stem, source, output, scene, every))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="*", help="random seeds of the demos")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--size", default="1280x720")
    options = parser.parse_args()
    width, height = (int(part) for part in options.size.split("x"))
    for seed in options.seeds or random.sample(range(10_000), 3):
        with tempfile.TemporaryDirectory() as name:
            for outcome in measure_seed(Path(name), seed, seconds=options.seconds, size=(width, height)):
                print(f"seed {seed} {describe(outcome)}", flush=True)


def describe(outcome: Outcome) -> str:
    """Format the measurements of one clip."""
    names = ("to_source", "to_original", "inside", "gain")
    mean = {name: np.mean(getattr(outcome, name) or [np.nan]) for name in names}
    worst = max((abs(offset) for offset in outcome.flash_offsets), default=float("nan"))
    return (
        f"{outcome.clip}: {outcome.frames_in} frames in, {outcome.frames_out} out, "
        f"timestamps {'equal' if outcome.same_times else 'DIFFER'}, "
        f"audio {'equal' if outcome.same_sound else 'DIFFERS'}, "
        f"audio offset at most {worst:.2f} frames\n"
        f"    identity: {mean['to_source']:.2f} to the source, {mean['to_original']:.2f} to the original "
        f"({len(outcome.to_source)} faces)\n"
        f"    inside the faces {mean['inside']:.1f} dB, {mean['gain']:+.1f} dB over the unchanged frame; "
        f"outside {outcome.outside:.2f} dB, plain re-encode {outcome.outside_plain:.2f} dB"
    )


if __name__ == "__main__":
    main()
