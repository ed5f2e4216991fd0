"""The files of a run in its report page: a row for each, and a part with pictures and every figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from colab_helpers.batch.html_parts import bullets, duration, facts_table, memory, size, soft, text
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.status import STATE_WORDS
from colab_helpers.batch.thumbnails import Image, data_url, pair_of
from colab_helpers.language import tr
from colab_helpers.svg import clock_text, number

MAX_PICTURES = 24
"""Files whose pictures are shown; with hundreds the page would grow to many megabytes."""
PICTURE_SECONDS = 60.0
"""How long pictures may be looked for: in long videos finding a frame takes seconds."""
_MAX_SPANS = 12
# Up to so many files, each is shown opened.
_OPEN_FILES = 8
# CSS class of a status.
_MOODS = {"done": "good", "failed": "bad", "skipped": "warn"}


def overview_html(files: Sequence[FileReport]) -> str:
    """One row of figures for each file, which leads to the file's own part of the page."""
    if not files:
        return ""
    heads = [
        tr("Frames in / out"),
        tr("frames/s"),
        tr("Faces changed"),
        tr("Similarity to the source"),
        tr("Flicker"),
    ]
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in (tr("Target"), tr("Result")))
    head += "".join(f'<th class="figure">{name}</th>' for name in heads) + "</tr>"
    rows = "".join(_overview_row(index, file) for index, file in enumerate(files))
    return f'<div class="wide"><table class="overview">{head}{rows}</table></div>'


def _overview_row(index: int, file: FileReport) -> str:
    quality = file.quality
    similarity = quality.similarity_mean if quality else None
    flicker = quality.flicker if quality else None
    figures = [
        f"{file.frames_in} / {file.frames_out}",
        number(file.fps) if file.fps else "–",
        str(file.faces_swapped),
        "–" if similarity is None else f"{similarity:.2f}",
        "–" if flicker is None else number(flicker),
    ]
    cells = "".join(f'<td class="figure">{figure}</td>' for figure in figures)
    name = f'<a href="#file-{index + 1}">{text(_name(file))}</a>'
    return f"<tr><td>{name}</td><td>{_badge(file)}</td>{cells}</tr>"


def _badge(file: FileReport) -> str:
    return f'<span class="{_MOODS[file.status]}">{tr(STATE_WORDS[file.status])}</span>'


def files_html(files: Sequence[FileReport], *, clock: Callable[[], float] = time.monotonic) -> str:
    """A part to open for each file: its pictures and all that is known of it.

    Args:
        files: Those that are not where they say go without a picture, with the reason.
        clock: Seconds that only grow, for the time that pictures may take.
    """
    until = clock() + PICTURE_SECONDS
    pictured = [index for index, file in enumerate(files) if file.status == "done" and file.output]
    shown = set(pictured[:MAX_PICTURES])
    sections = []
    for index, file in enumerate(files):
        late = tr("No picture: those of the files before took too long to find.") if clock() > until else ""
        pictures = (soft(late) if late else _pictures(file)) if index in shown else ""
        sections.append(_file(index, file, pictures, opened=len(files) <= _OPEN_FILES))
    if len(pictured) > MAX_PICTURES:
        only = tr("Only the first {count} finished files are shown with pictures.", count=MAX_PICTURES)
        sections.insert(0, soft(only))
    return "\n".join(sections)


def _file(index: int, file: FileReport, pictures: str, *, opened: bool) -> str:
    attribute = " open" if opened or file.status == "failed" else ""
    figures = [tr("{count} frames", count=file.frames_out)] if file.frames_out else []
    tail = ", ".join([*figures, duration(file.seconds)])
    return (
        f'<details id="file-{index + 1}"{attribute}><summary>{text(_name(file))} '
        f'<span>– {_badge(file)}, <span class="soft">{tail}</span></span></summary>'
        f"{pictures}{facts_table(_file_facts(file))}</details>"
    )


def _file_facts(file: FileReport) -> list[tuple[str, str | None]]:
    return [
        (tr("Result"), _badge(file)),
        (tr("Error"), f'<span class="bad">{text(file.error)}</span>' if file.error else None),
        (tr("Fall-backs"), bullets(file.fallbacks)),
        (tr("Frames in / out"), f"{file.frames_in} / {file.frames_out}"),
        (tr("Times of frames kept"), _times_kept(file)),
        (tr("Length of picture / sound"), _lengths(file)),
        (tr("Faces changed"), str(file.faces_swapped)),
        (tr("Frames without a face"), str(file.frames_without_face)),
        (tr("Where no face was changed"), _spans(file)),
        (tr("Similarity to the source"), _similarity(file)),
        (tr("Flicker"), _flicker(file)),
        (tr("Speed"), _speed(file)),
        (tr("Networks ran on"), text(file.provider) if file.provider else None),
        (tr("Encoder"), text(file.encoder) if file.encoder else None),
        (tr("Segments"), _segments(file)),
        (tr("Memory before / after"), _memory_course(file)),
        (tr("Size in / out"), f"{size(file.bytes_in)} / {size(file.bytes_out)}" if file.bytes_in else None),
        (tr("Source"), "<br>".join(map(text, file.source))),
        (tr("Target"), text(file.target)),
        (tr("Output"), text(file.output) if file.output else None),
    ]


def _name(file: FileReport) -> str:
    return Path(file.target).name


def _times_kept(file: FileReport) -> str | None:
    if file.times_kept is None:
        return None
    if file.times_kept:
        return tr("yes")
    no = tr("no")
    return f'<span class="warn">{no}</span>'


def _lengths(file: FileReport) -> str | None:
    if file.video_seconds is None:
        return None
    sound = f"{file.audio_seconds:.3f} s" if file.audio_seconds else tr("no sound")
    return f"{file.video_seconds:.3f} s / {sound}"


def _spans(file: FileReport) -> str | None:
    """The stretches without a changed face, in frames and times; only the first few of many."""
    spans = file.quality.missed_spans if file.quality else []
    if not spans:
        return None
    rate = file.frames_out / file.video_seconds if file.video_seconds else 0.0
    lines = [_span(first, end, rate) for first, end in spans[:_MAX_SPANS]]
    if len(spans) > _MAX_SPANS:
        lines.append(tr("and {count} more", count=len(spans) - _MAX_SPANS))
    note = tr("frames counted from 0, times approximate")
    return f'{text(", ".join(lines))} <span class="soft">({note})</span>'


def _span(first: int, end: int, rate: float) -> str:
    if not rate:
        return f"{first}–{end - 1}"
    begin, finish = _moment(first / rate), _moment(end / rate)
    return f"{first}–{end - 1} ({begin}–{finish})"


def _moment(seconds: float) -> str:
    """``m:ss.t``; short spans would otherwise begin and end at the same second."""
    tenths = round(seconds * 10)
    return f"{clock_text(tenths // 10)}.{tenths % 10}"


def _similarity(file: FileReport) -> str | None:
    quality = file.quality
    if quality is None or quality.similarity_mean is None or quality.similarity_p5 is None:
        return None
    return tr(
        "mean {mean:.3f}, 95 % of {count} reach {low:.3f}",
        mean=quality.similarity_mean,
        count=quality.similarity_samples,
        low=quality.similarity_p5,
    )


def _flicker(file: FileReport) -> str | None:
    if file.quality is None or file.quality.flicker is None:
        return None
    return tr("{value} grey levels", value=number(file.quality.flicker))


def _speed(file: FileReport) -> str | None:
    if not file.fps:
        return None
    speed = tr("{fps} frames/s", fps=number(file.fps))
    return f"{speed}, {duration(file.seconds)}"


def _segments(file: FileReport) -> str | None:
    if not file.segments:
        return None
    return tr(
        "{count}, of which {kept} were kept from an earlier run", count=file.segments, kept=file.segments_kept
    )


def _memory_course(file: FileReport) -> str | None:
    if not file.memory_before and not file.memory_after:
        return None
    difference = file.memory_difference
    sign = "+" if difference >= 0 else "−"
    before, after = memory(file.memory_before), memory(file.memory_after)
    return f"{before} / {after} ({sign}{memory(abs(difference))})"


def _pictures(file: FileReport) -> str:
    """The most changed of a few moments before and after, or the reason why there is no picture."""
    try:
        pair = pair_of(file)
        before, after = _picture(pair.before, file, tr("before")), _picture(pair.after, file, tr("after"))
        return f'<div class="pictures">{before}{after}</div>'
    except Exception as error:  # noqa: BLE001 - files change after a run; a picture is never worth the report
        return soft(tr("No picture: {reason}", reason=error))


def _picture(image: Image, file: FileReport, which: str) -> str:
    alt = text(tr("a frame of {name}, {which}", name=_name(file), which=which))
    return f'<figure><img src="{data_url(image)}" alt="{alt}"><figcaption>{which}</figcaption></figure>'
