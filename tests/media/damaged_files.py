"""Alters clips: damaged frames, edit lists, missing groups of pictures, files joined byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av

PICTURES: dict[str, Any] = {"codec": "png", "pix_fmt": "rgb24", "options": {}}
"""An intra-only codec."""


def damage(path: Path, frames: range) -> None:
    """Overwrite the packets of some frames with zeros."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in frames:
        position, size = packets[number]
        assert position is not None
        data[position : position + size] = bytes(size)
    path.write_bytes(data)


def joined(first: Path, second: Path) -> Path:
    """Concatenate two recordings' bytes, so that timestamps restart in the middle."""
    path = first.with_stem("joined")
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def start_edit_at(path: Path, frame: int) -> None:
    """Start the first edit at a frame, which hides the frames before it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    _version, entries, duration, media_time = struct.unpack_from(">IIIi", data, at + 4)
    assert entries == 1
    step = 512
    struct.pack_into(">Ii", data, at + 12, duration - frame * 40, media_time + frame * step)
    path.write_bytes(data)


def cut_out(path: Path, first: int, last: int) -> None:
    """Split the only edit in two, which hides frames ``first`` to ``last - 1``."""
    data = path.read_bytes()
    at = data.index(b"elst")
    duration, media_time, speed = struct.unpack_from(">IiI", data, at + 12)
    # Durations are in milliseconds, media times in 512ths of a frame.
    edits = [(first * 40, media_time, speed), (duration - last * 40, media_time + last * 512, speed)]
    table = struct.pack(">II", 0, 2) + b"".join(struct.pack(">IiI", *edit) for edit in edits)
    grown = bytearray(data[: at + 4] + table + data[at + 24 :])
    for box in (b"moov", b"trak", b"edts", b"elst"):
        position = data.rindex(box, 0, at + 4) - 4
        struct.pack_into(">I", grown, position, struct.unpack_from(">I", data, position)[0] + 12)
    path.write_bytes(grown)


def without_first_group(path: Path) -> Path:
    """Drop the first group of pictures: with open groups, the first frames lack their references."""
    target = path.with_stem("later")
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0], opaque=True)
        groups = 0
        for packet in source.demux(video=0):
            groups += packet.is_keyframe and packet.size > 0
            if groups > 1 and packet.size:
                packet.stream = copy
                out.mux(packet)
    return target
