"""Encoding and decoding, on the CPU and on the GPU, each proved by doing it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from colab_helpers.diagnosis.findings import Check, finding
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.language import mark, tr

WIDTH, HEIGHT, FRAMES = 640, 352, 8
"""Of the trial video; whole macroblocks, and above every chip's least size."""
TOLERANCE = 2.0
"""Grey levels on average between two decoders' pictures: H.264 is exact, format conversions are not."""
_GPU_REMEDY = mark(
    "nothing fails without it, the CPU does the work; in a container the driver shows its video parts with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
)


def encoder(subject: Subject) -> Iterator[Check]:
    """Check the encoder that a run would take, and NVENC."""
    from colab_helpers.media.encoders import usable_encoders

    problems = usable_encoders()
    working = [name for name, problem in problems.items() if problem is None]
    wanted = subject.settings.output_video_encoder
    good = bool(working) if wanted == "auto" else wanted in working
    what, remedy = tr("a trial encode works with none"), ""
    if working:
        what = tr("a trial encode works with {names}", names=", ".join(working))
    if "h264_nvenc" not in working:
        what += tr("; NVENC is not usable ({problem})", problem=problems["h264_nvenc"])
        remedy = tr(_GPU_REMEDY) if subject.machine.gpu is not None else ""
    if not good:
        remedy = tr("set output_video_encoder to auto or libx264")
    yield finding("encoder", what, remedy, warns=good)


def decoder(subject: Subject) -> Iterator[Check]:
    """Check decoding on the CPU, and NVDEC by its pictures."""
    video = trial_video()
    reference = decode(video)
    if len(reference) != FRAMES:
        what = tr(
            "of {frames} frames of a trial video {decoded} were decoded",
            frames=FRAMES,
            decoded=len(reference),
        )
        remedy = tr("install av again: python -m pip install --force-reinstall --no-deps av")
        yield finding("decoder", what, remedy)
        return
    problem, remedy = nvdec_problem(video, reference), ""
    if problem is None:
        what = tr(
            "{frames} frames of H.264 decoded on the CPU and by NVDEC, with equal pictures", frames=FRAMES
        )
    else:
        what = tr(
            "{frames} frames of H.264 decoded on the CPU; NVDEC is not usable ({problem})",
            frames=FRAMES,
            problem=problem,
        )
        remedy = tr(_GPU_REMEDY) if subject.machine.gpu is not None else ""
    yield finding("decoder", what, remedy, warns=True)


def trial_video() -> bytes:
    """Make a short H.264 video of a moving gradient with x264."""
    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        ramp = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 4
        for number in range(FRAMES):
            picture = np.repeat((ramp + 9 * number)[..., None] % 256, 3, axis=2).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode(video: bytes, hwaccel: Any = None) -> list[Any]:
    """Return every frame's brightness, ``(H, W)`` uint8.

    Raises:
        av.FFmpegError: It cannot be decoded, or not with that accelerator.
    """
    import av

    with av.open(io.BytesIO(video), "r", hwaccel=hwaccel) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def nvdec_problem(video: bytes, reference: list[Any]) -> str | None:
    """Return why NVDEC cannot be used, or None if it gave the same pictures."""
    import av
    import numpy as np
    from av.codec.hwaccel import HWAccel

    try:
        # The fallback to software would succeed on every machine and prove nothing.
        frames = decode(video, HWAccel(device_type="cuda", allow_software_fallback=False))
    except (av.FFmpegError, RuntimeError, ValueError, NotImplementedError) as error:
        return str(getattr(error, "strerror", None) or error or type(error).__name__)
    if len(frames) != len(reference):
        return tr("of {frames} frames it gave {decoded}", frames=len(reference), decoded=len(frames))
    off = max(np.abs(a.astype(int) - b).mean() for a, b in zip(frames, reference, strict=True))
    if off > TOLERANCE:
        return tr("its pictures are off by {off:.1f} grey levels on average", off=off)
    return None
