"""Videos that play inside a page: small results as they are, of others a short clip."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.container

from colab_helpers.errors import MediaError
from colab_helpers.faces.types import ByteImage
from colab_helpers.language import tr
from colab_helpers.media.probe import VideoInfo, is_image, probe

ROOM = 1_500_000
"""Bytes of video in one page at most: Jupyter drops what comes faster than some megabytes in seconds."""
MOST = 6
"""Players in one page."""
CLIP_SECONDS = 4.0
_CLIP_EDGE = 480
_RATE = 30
# No clip takes more than its share of the room, whatever it shows.
_ENCODING = {"preset": "veryfast", "crf": "26", "maxrate": "400k", "bufsize": "400k"}
_TICK = Fraction(1, 1000)
_PLAYABLE = (".mp4", ".m4v", ".mov")


def players_html(results: list[Path], *, room: int = ROOM) -> str:
    """A player for each of the first videos among some results.

    Args:
        results: Files that are there.
        room: Bytes that all of them may take together.

    Returns:
        HTML that needs no other file; it names the videos that are not shown.
    """
    videos = [path for path in results if not is_image(path) and path.suffix.lower() != ".gif"]
    players, left_out = [], [path.name for path in videos[MOST:]]
    for path in videos[:MOST]:
        share = room // min(len(videos), MOST)
        try:
            content, told = _content(path, share)
        except (MediaError, OSError) as error:
            left_out.append(f"{path.name} ({error})")
            continue
        if len(content) <= share:
            players.append(_player(path, content, told))
        else:
            left_out.append(path.name)
    style = "display:flex;flex-wrap:wrap;gap:12px;margin:12px 0"
    row = f'<div style="{style}">{"".join(players)}</div>' if players else ""
    rest = tr("Not shown here: {names}", names=", ".join(left_out)) if left_out else ""
    return row + (f"<p>{html.escape(rest)}</p>" if rest else "")


def _content(path: Path, share: int) -> tuple[bytes, str]:
    """The file itself where a browser can play it and it is small; else a clip, and a word on that."""
    if path.suffix.lower() in _PLAYABLE and path.stat().st_size <= share and probe(path).codec == "h264":
        return path.read_bytes(), ""
    return clip_of(path), tr("the first {seconds:.0f} seconds, made smaller", seconds=CLIP_SECONDS)


def _player(path: Path, content: bytes, told: str) -> str:
    name = html.escape(f"{path.name} ({told})" if told else path.name)
    url = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    return (
        f'<figure style="margin:0"><video controls loop muted playsinline preload="auto" src="{url}" '
        f'title="{html.escape(str(path), quote=True)}" style="width:400px;max-width:100%;max-height:300px">'
        f"</video><figcaption>{name}</figcaption></figure>"
    )


def clip_of(path: Path, *, seconds: float = CLIP_SECONDS) -> bytes:
    """The beginning of a video as a small MP4 that any browser plays, upright and without sound.

    Raises:
        MediaError: It cannot be decoded.
    """
    info, made = probe(path), io.BytesIO()
    try:
        with av.open(path) as source, av.open(made, "w", format="mp4") as clip:
            track = clip.add_stream("libx264", rate=_RATE, options=_ENCODING)
            track.pix_fmt, track.codec_context.time_base = "yuv420p", _TICK
            for image, passed in _images(source, seconds, info):
                if not track.codec_context.is_open:
                    track.height, track.width = image.shape[:2]
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = round(passed / _TICK), _TICK
                clip.mux(track.encode(frame))
            clip.mux(track.encode(None))
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(tr("no clip could be made of it"), where=str(path)) from error
    return made.getvalue()


def _images(
    source: av.container.InputContainer, seconds: float, info: VideoInfo
) -> Iterator[tuple[ByteImage, float]]:
    """Small upright pictures and their times from the first on; frames that come very fast are left out."""
    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    first, due = None, 0.0
    for frame in source.decode(stream):
        first = (frame.time or 0.0) if first is None else first
        passed = (frame.time or 0.0) - first
        if passed >= seconds:
            return
        if passed < due:
            continue
        due = passed + 0.9 / _RATE
        scale = min(1.0, _CLIP_EDGE / max(frame.width, frame.height))
        # The encoder's colour planes are half as wide and high: no odd sizes.
        width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
        small = frame.reformat(width=width, height=height, format="bgr24").to_ndarray()
        yield info.upright(small), passed
