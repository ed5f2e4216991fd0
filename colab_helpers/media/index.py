"""Where reading may begin: the frames and key frames of a video, found without decoding.

A file's packets say when each frame is shown and which frames can be decoded on their own. From that
follows where to seek so that frame n comes out exactly as if all before it had been decoded, unless the
file contradicts itself or its codec hides frames; then the index says so and why.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.stream import Discard
from numpy.typing import NDArray

from colab_helpers.language import tr
from colab_helpers.media.probe import VideoInfo, existing_file, open_source, picture_stream

IntArray = NDArray[np.int64]

# Codecs whose packets each give one frame and whose key frames need nothing that comes before them. GIF and
# animated PNG paint over the last picture, VP8 has packets that are not shown; others nobody has looked at.
_PLAIN_CODECS = frozenset((
    "h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp9", "av1", "ffv1", "png",
))  # fmt: skip
_MOST_WAITING = 16
"""Pictures H.264 and HEVC let a decoder hold back to bring them into order."""


@dataclass(frozen=True)
class KeyFrame:
    """A frame that can be decoded without those before it.

    Attributes:
        number: Which frame of the video it is.
        pts: Its time of presentation in ticks of the picture's time base.
        dts: Its decoding time in the same ticks; ``pts`` where the file does not say.
        packets: Packets of the picture that precede it in the file.
    """

    number: int
    pts: int
    dts: int
    packets: int


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a video as its packets tell them; 8 bytes a frame.

    Attributes:
        stamps: ``(frames,)`` int64: time of presentation of frame n in ticks, rising.
        doubt: Why frame numbers or key frames cannot be relied on; empty if they can.
    """

    stamps: IntArray
    doubt: str
    _keys: IntArray
    """``(keys, 4)``: the fields of `KeyFrame`, by number."""

    def keys_before(self, number: int) -> list[KeyFrame]:
        """The last two key frames before a frame, the nearer first.

        The frame itself does not count: one frame on the way to it proves that numbers and frames agree.
        """
        end = int(np.searchsorted(self._keys[:, 0], number))
        return [KeyFrame(*map(int, row)) for row in self._keys[max(0, end - 2) : end][::-1]]

    def key_at(self, pts: int) -> KeyFrame | None:
        """The key frame with this time of presentation."""
        place = int(np.searchsorted(self._keys[:, 1], pts))
        if place == len(self._keys) or self._keys[place, 1] != pts:
            return None
        return KeyFrame(*map(int, self._keys[place]))


def index_frames(info: VideoInfo) -> FrameIndex:
    """Reads all packets of the picture, decoding none.

    A picture damaged inside its packet cannot be told from a whole one here; whoever knows the stamp of a
    frame from an earlier reading can compare it with ``stamps``.

    Args:
        info: What `probe` said of the file.

    Returns:
        The frames in presentation order as `reader.read_frames` numbers them; if its ``doubt`` is not
        empty, they may be others.

    Raises:
        MissingFileError: The file has gone.
        MediaError: It cannot be opened.
    """
    pass_ = _Pass()
    with open_source(existing_file(info.path)) as container:
        stream = picture_stream(container, info.path)
        if info.in_coded_order:
            pass_.doubt = tr("the container has no presentation times")
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        codec = stream.codec_context.codec
        if codec.canonical_name not in _PLAIN_CODECS and not codec.intra_only:
            pass_.doubt = tr(
                "key frames of {codec} may need what comes before them", codec=codec.canonical_name
            )
        try:
            for packet in container.demux(stream):
                if packet.size:
                    pass_.add(packet)
        except av.FFmpegError as error:
            pass_.doubt = tr("the file cannot be read to its end ({reason})", reason=error.strerror)
    return pass_.index(int(info.start / info.time_base))


class _Pass:
    """Collects what the packets say, in the order of the file."""

    def __init__(self) -> None:
        self.doubt = ""
        self._stamps = array("q")
        self._keys = array("q")
        """Place in ``_stamps``, pts, dts, packets before: four numbers for each key frame."""
        self._packets = 0

    def add(self, packet: Packet[Any]) -> None:
        if packet.pts is None or packet.is_corrupt:
            self.doubt = tr("packets without time stamp") if packet.pts is None else tr("damaged packets")
        elif not packet.is_discard:
            if packet.is_keyframe:
                dts = packet.pts if packet.dts is None else packet.dts
                self._keys.extend((len(self._stamps), packet.pts, dts, self._packets))
            self._stamps.append(packet.pts)
        if not self._packets and not packet.is_keyframe:
            self.doubt = tr("it does not begin with a key frame")
        self._packets += 1

    def index(self, start: int) -> FrameIndex:
        """The index, given the stamp of the first frame a decoder gives out."""
        coded = np.frombuffer(self._stamps, np.int64) if self._stamps else np.zeros(0, np.int64)
        keys = np.array(self._keys, np.int64).reshape(-1, 4)
        order = np.argsort(coded, kind="stable")
        stamps = coded[order]
        numbers = np.empty_like(order)
        numbers[order] = np.arange(len(order))
        doubt = self.doubt or _contradiction(coded, numbers, keys[:, 0])
        # Pictures before the first key frame that need an earlier one are left out by decoders.
        lost = int(np.searchsorted(stamps, start))
        if not doubt and (lost == len(stamps) or stamps[lost] != start):
            doubt = tr("its first frame is not among its packets")
        keys[:, 0] = numbers[keys[:, 0]] - lost
        return FrameIndex(stamps[lost:], doubt, keys[keys[:, 0] >= 0])


def _contradiction(coded: IntArray, numbers: IntArray, keys: IntArray) -> str:
    """Why stamps in coded order cannot be those of a video a decoder brings into order; empty if they can.

    Args:
        coded: Stamps in coded order.
        numbers: Their ranks.
        keys: Places of the key frames in ``coded``.
    """
    if len(np.unique(coded)) < len(coded):
        return tr("several frames have one time stamp")
    latest = np.maximum.accumulate(coded)
    later_keys = keys[keys > 0]
    if (latest[later_keys - 1] >= coded[later_keys]).any():
        return tr("time stamps go back")
    if len(coded) and (np.arange(len(coded)) - numbers).max() > _MOST_WAITING:
        return tr("time stamps are out of order")
    return ""


__all__ = ["FrameIndex", "KeyFrame", "index_frames"]
