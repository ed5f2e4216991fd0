"""Write clips of rendered people with exact ground truth; ``make_demo`` writes a whole folder."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from colab_helpers.files import sha256_of
from colab_helpers.machine import cpu_count
from colab_helpers.media.encoders import repeatable_x264
from colab_helpers.trust.consent import DEMO_MANIFEST
from tests.people import actors
from tests.people.actors import U8
from tests.people.looks import IDENTITIES, look_of
from tests.people.scene import SAMPLE_RATE, Scene
from tests.people.standins import write_standins


@dataclass(frozen=True)
class DemoPaths:
    directory: Path
    sources: tuple[Path, ...]
    targets: tuple[Path, ...]
    truths: tuple[Path, ...]
    models: Path


def _video_stream(
    container: OutputContainer, codec: str, scene: Scene, pix_fmt: str, options: dict[str, str]
) -> VideoStream:
    stream = container.add_stream(codec, rate=scene.fps, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = scene.size
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = 1 / scene.fps
    return stream


def _encode(container: OutputContainer, stream: VideoStream, image: U8 | None, i: int, fps: Fraction) -> None:
    """Encode one picture, or flush with None."""
    if image is None:
        container.mux(stream.encode(None))
        return
    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
    if stream.pix_fmt == "yuv420p":
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts, frame.time_base = i, 1 / fps
    container.mux(stream.encode(frame))


class _TargetWriter:
    """Writes a scene as MP4 with H.264 and AAC."""

    def __init__(self, path: Path, scene: Scene, *, crf: int = 16, preset: str = "veryfast") -> None:
        self._scene = scene
        self._box = av.open(str(path), "w")
        options = {"crf": str(crf), "preset": preset}
        if parameters := list(repeatable_x264(scene.size[0])):
            options["x264-params"] = ":".join(parameters)
        self._video = _video_stream(self._box, "libx264", scene, "yuv420p", options)
        context = self._video.codec_context
        context.color_range, context.colorspace = 1, 1  # limited range, BT.709
        context.color_primaries, context.color_trc = 1, 1
        audio = self._box.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        assert isinstance(audio, AudioStream)
        self._audio, self._chunks, self._written = audio, scene.audio(), 0

    def put(self, image: U8, i: int) -> None:
        """Write a frame and the audio up to it."""
        _encode(self._box, self._video, image, i, self._scene.fps)
        while self._written <= (i + 1) / self._scene.fps * SAMPLE_RATE and self._put_audio():
            pass

    def _put_audio(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        frame = av.AudioFrame.from_ndarray(chunk[None, :], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._written, Fraction(1, SAMPLE_RATE)
        self._box.mux(self._audio.encode(frame))
        self._written += len(chunk)
        return True

    def close(self) -> None:
        while self._put_audio():
            pass
        _encode(self._box, self._video, None, 0, self._scene.fps)
        self._box.mux(self._audio.encode(None))
        self._box.close()


def write_target(path: Path, scene: Scene, *, crf: int, preset: str) -> None:
    """Write a scene without ground truth, with x264's CRF and preset."""
    writer = _TargetWriter(path, scene, crf=crf, preset=preset)
    for i in range(scene.frames):
        writer.put(scene.render(i)[0], i)
    writer.close()


class _TruthWriter:
    """Writes true swaps as FFV1."""

    def __init__(self, path: Path, scene: Scene) -> None:
        self._fps = scene.fps
        self._box = av.open(str(path), "w")
        self._video = _video_stream(
            self._box, "ffv1", scene, "bgr0", {"level": "3", "slices": "4", "slicecrc": "1"}
        )

    def put(self, image: U8, i: int) -> None:
        _encode(self._box, self._video, image, i, self._fps)

    def close(self) -> None:
        _encode(self._box, self._video, None, 0, self._fps)
        self._box.close()


@dataclass(frozen=True)
class _Job:
    """One worker's share of a clip: the target if ``main``, and some of the true swaps."""

    directory: Path
    name: str
    scene: Scene
    swaps: tuple[str, ...]
    main: bool


def _write_clip(job: _Job) -> None:
    cv2.setNumThreads(1)
    scene, truth = job.scene, job.directory / "truth"
    target = _TargetWriter(job.directory / "targets" / f"{job.name}.mp4", scene) if job.main else None
    writers = {who: _TruthWriter(truth / f"{job.name}.swap-{who}.mkv", scene) for who in job.swaps}
    frames = []
    for i in range(scene.frames):
        result = scene.render_all(i, job.swaps)
        frames.append({"i": i, "faces": [face.as_json() for face in result.faces]})
        if target is not None:
            target.put(result.frame, i)
        for who, writer in writers.items():
            writer.put(result.swapped[who], i)
    for writer in writers.values():
        writer.close()
    if target is not None:
        target.close()
        rate = f"{scene.fps.numerator}/{scene.fps.denominator}"
        text = json.dumps({"fps": rate, "size": list(scene.size), "frames": frames})
        (truth / f"{job.name}.json").write_text(text, encoding="utf-8")


def make_demo(
    directory: Path,
    *,
    seed: int = 0,
    seconds: float = 4.0,
    size: tuple[int, int] = (640, 360),
    fps: Fraction = Fraction(25),
    people: int = 2,
    clips: int = 2,
    cast: Sequence[str] | None = None,
    true_swaps: bool | Collection[str] = True,
    workers: int | None = None,
) -> DemoPaths:
    """Write portraits, clips, ground truth and stand-in models; files of the same names are replaced.

    Every second clip has one person fewer, so that people appear alone and in pairs. ``cast`` names the
    people of every clip instead of a seeded choice. ``true_swaps``, for every identity or those named, take
    most of the time and 60 MB per clip. ``workers``: number of processes, by default one per core, at most 8.
    """
    swaps = tuple(IDENTITIES if true_swaps is True else true_swaps or ())
    for who in swaps:
        look_of(who)  # raises for an unknown name
    for name in ("source", "targets", "truth", "models"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    write_standins(directory / "models")
    sources = tuple(directory / "source" / f"{who}.png" for who in IDENTITIES)
    for path in sources:
        cv2.imwrite(str(path), actors.portrait(path.stem))
    workers = workers or min(cpu_count(), 8)
    parts = min(max(math.ceil(workers / max(clips, 1)), 1), 4) if swaps else 1
    names, jobs = [f"clip{k + 1}" for k in range(clips)], []
    for k, name in enumerate(names):
        count = people if k % 2 == 0 else max(people - 1, min(people, 1))
        scene = Scene(seed * 1000 + k, size, fps, seconds, count, cast=cast)
        jobs += [_Job(directory, name, scene, swaps[n::parts], n == 0) for n in range(parts)]
    _run(jobs, workers)
    targets = tuple(directory / "targets" / f"{name}.mp4" for name in names)
    write_manifest(directory, (*sources, *targets))
    truths = tuple(directory / "truth" / f"{name}.json" for name in names)
    return DemoPaths(directory, sources, targets, truths, directory / "models")


def write_manifest(directory: Path, files: Sequence[Path]) -> None:
    """List the demo's sources and targets by hash; its statement of consent covers only these."""
    hashes = {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}
    (directory / DEMO_MANIFEST).write_text(json.dumps({"files": hashes}, indent=2), encoding="utf-8")


def _run(jobs: list[_Job], workers: int) -> None:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            _write_clip(job)
        return
    # Forking a process that runs threads (a notebook, an ONNX session) can deadlock; spawning cannot.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        list(pool.map(_write_clip, jobs))
