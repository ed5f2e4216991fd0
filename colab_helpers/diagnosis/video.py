"""Encoding and decoding, on the CPU and on the GPU, each proved by doing it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from colab_helpers.diagnosis.findings import Check
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.language import mark, tr

WIDTH, HEIGHT, FRAMES = 640, 352, 8
"""Of the trial video; whole macroblocks, and above every chip's least size."""
_TOLERANCE = 2.0
"""Grey levels on average between two decoders' pictures: H.264 is exact, format conversions are not."""
_GPU_REMEDY = mark(
    "nothing fails without it, the CPU does the work; in a container the driver shows its video parts with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
)


def encoder(subject: Subject) -> Iterator[Check]:
    """The encoder that a run would take, and NVENC."""
    from colab_helpers.media.encoders import usable_encoders

    problems = usable_encoders()
    working = [name for name, problem in problems.items() if problem is None]
    wanted = subject.settings.output_video_encoder
    good = bool(working) if wanted == "auto" else wanted in working
    slow = subject.machine.gpu is not None and "h264_nvenc" not in working
    detail = (
        tr("a trial encode works with {names}", names=", ".join(working))
        if working
        else tr("a trial encode works with none")
    )
    if "h264_nvenc" not in working:
        detail += tr("; NVENC is not usable ({problem})", problem=problems["h264_nvenc"])
    remedy = "" if good else tr("set output_video_encoder to auto or libx264")
    yield Check(
        name="encoder",
        status="fail" if not good else "warn" if slow else "pass",
        detail=detail,
        remedy=remedy or (tr(_GPU_REMEDY) if slow else ""),
    )


def decoder(subject: Subject) -> Iterator[Check]:
    """Decoding on the CPU, and NVDEC held to its pictures."""
    video = trial_video()
    reference = decode(video)
    if len(reference) != FRAMES:
        yield Check(
            name="decoder",
            status="fail",
            detail=tr(
                "of {frames} frames of a trial video {decoded} were decoded",
                frames=FRAMES,
                decoded=len(reference),
            ),
            remedy=tr("install av again: python -m pip install --force-reinstall --no-deps av"),
        )
        return
    problem = nvdec_problem(video, reference)
    if problem is None:
        detail = tr(
            "{frames} frames of H.264 decoded on the CPU and by NVDEC, with equal pictures", frames=FRAMES
        )
        yield Check(name="decoder", status="pass", detail=detail)
        return
    missed = subject.machine.gpu is not None
    yield Check(
        name="decoder",
        status="warn" if missed else "pass",
        detail=tr(
            "{frames} frames of H.264 decoded on the CPU; NVDEC is not usable ({problem})",
            frames=FRAMES,
            problem=problem,
        ),
        remedy=tr(_GPU_REMEDY) if missed else "",
    )


def trial_video() -> bytes:
    """A short H.264 video of a moving gradient, made by x264."""
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
    """Every frame's brightness, ``(H, W)`` uint8.

    Raises:
        av.FFmpegError: It cannot be decoded, or not with that accelerator.
    """
    import av

    with av.open(io.BytesIO(video), "r", hwaccel=hwaccel) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def nvdec_problem(video: bytes, reference: list[Any]) -> str | None:
    """Why NVDEC cannot be used, or None if it gave the same pictures."""
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
    return (
        None if off <= _TOLERANCE else tr("its pictures are off by {off:.1f} grey levels on average", off=off)
    )
