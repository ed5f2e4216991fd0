"""The files of a run in its report page: a row for each, and a part with pictures and every figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from colab_helpers.batch.html_parts import bullets, duration, facts_table, memory, size, text
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.thumbnails import Image, data_url, pair_of
from colab_helpers.svg import clock_text, number

MAX_PICTURES = 24
"""Files whose pictures are shown; with hundreds the page would grow to many megabytes."""
PICTURE_SECONDS = 60.0
"""How long pictures may be looked for: in long videos finding a frame takes seconds."""
_MAX_SPANS = 12
# Up to so many files, each is shown opened.
_OPEN_FILES = 8
# What a status is called, and its CSS class.
_STATUS = {"done": ("done", "good"), "failed": ("failed", "bad"), "skipped": ("skipped", "warn")}


class _Words:
    """Everything this part of the page says, apart from what the report itself holds."""

    AND_MORE = "and {count} more"
    BEFORE, AFTER = "before", "after"
    ALT = "a frame of {name}, {which}"
    NO_PICTURE = "No picture: {reason}"
    LATE = "No picture: those of the files before took too long to find."
    OTHER_FILES = "Only the first {count} finished files are shown with pictures."
    YES, NO, NO_SOUND = "yes", "no", "no sound"
    FRAMES, FPS = "{count} frames", "{fps} frames/s"
    SPAN, SPANS_NOTE = "{first}–{last} ({begin}–{end})", "frames counted from 0, times approximate"
    SIMILARITY = "mean {mean:.3f}, 95 % of {count} reach {low:.3f}"
    FLICKER = "{value} grey levels"
    KEPT = "{count}, of which {kept} were kept from an earlier run"
    MEMORY = "{before} / {after} ({difference})"


class _Facts:
    """Names of columns and of the rows of a file's table."""

    RESULT, TARGET, OUTPUT, SOURCE, ERROR = "Result", "Target", "Output", "Source", "Error"
    FRAMES, FACES, FACELESS = "Frames in / out", "Faces changed", "Frames without a face"
    SPANS, TIMES, LENGTHS = "Where no face was changed", "Times of frames kept", "Length of picture / sound"
    SIZES, SIMILARITY, FLICKER = "Size in / out", "Similarity to the source", "Flicker"
    ENCODER, PROVIDER, SPEED = "Encoder", "Networks ran on", "Speed"
    SEGMENTS, MEMORY, FALLBACKS = "Segments", "Memory before / after", "Fall-backs"


def overview_html(files: Sequence[FileReport]) -> str:
    """One row of figures for each file, which leads to the file's own part of the page."""
    if not files:
        return ""
    facts = _Facts
    heads = [facts.FRAMES, "frames/s", facts.FACES, facts.SIMILARITY, facts.FLICKER]
    head = f"<tr><th>{facts.TARGET}</th><th>{facts.RESULT}</th>"
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
    word, mood = _STATUS[file.status]
    return f'<span class="{mood}">{word}</span>'


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
        late = f'<p class="soft">{_Words.LATE}</p>' if clock() > until else None
        pictures = (late or _pictures(file)) if index in shown else ""
        sections.append(_file(index, file, pictures, opened=len(files) <= _OPEN_FILES))
    if len(pictured) > MAX_PICTURES:
        sections.insert(0, f'<p class="soft">{_Words.OTHER_FILES.format(count=MAX_PICTURES)}</p>')
    return "\n".join(sections)


def _file(index: int, file: FileReport, pictures: str, *, opened: bool) -> str:
    attribute = " open" if opened or file.status == "failed" else ""
    figures = [_Words.FRAMES.format(count=file.frames_out)] if file.frames_out else []
    tail = ", ".join([*figures, duration(file.seconds)])
    return (
        f'<details id="file-{index + 1}"{attribute}><summary>{text(_name(file))} '
        f'<span>– {_badge(file)}, <span class="soft">{tail}</span></span></summary>'
        f"{pictures}{facts_table(_file_facts(file))}</details>"
    )


def _file_facts(file: FileReport) -> list[tuple[str, str | None]]:
    facts = _Facts
    return [
        (facts.RESULT, _badge(file)),
        (facts.ERROR, f'<span class="bad">{text(file.error)}</span>' if file.error else None),
        (facts.FALLBACKS, bullets(file.fallbacks)),
        (facts.FRAMES, f"{file.frames_in} / {file.frames_out}"),
        (facts.TIMES, _times_kept(file)),
        (facts.LENGTHS, _lengths(file)),
        (facts.FACES, str(file.faces_swapped)),
        (facts.FACELESS, str(file.frames_without_face)),
        (facts.SPANS, _spans(file)),
        (facts.SIMILARITY, _similarity(file)),
        (facts.FLICKER, _flicker(file)),
        (facts.SPEED, _speed(file)),
        (facts.PROVIDER, text(file.provider) if file.provider else None),
        (facts.ENCODER, text(file.encoder) if file.encoder else None),
        (facts.SEGMENTS, _segments(file)),
        (facts.MEMORY, _memory_course(file)),
        (facts.SIZES, f"{size(file.bytes_in)} / {size(file.bytes_out)}" if file.bytes_in else None),
        (facts.SOURCE, "<br>".join(map(text, file.source))),
        (facts.TARGET, text(file.target)),
        (facts.OUTPUT, text(file.output) if file.output else None),
    ]


def _name(file: FileReport) -> str:
    return Path(file.target).name


def _times_kept(file: FileReport) -> str | None:
    if file.times_kept is None:
        return None
    return _Words.YES if file.times_kept else f'<span class="warn">{_Words.NO}</span>'


def _lengths(file: FileReport) -> str | None:
    if file.video_seconds is None:
        return None
    sound = f"{file.audio_seconds:.3f} s" if file.audio_seconds else _Words.NO_SOUND
    return f"{file.video_seconds:.3f} s / {sound}"


def _spans(file: FileReport) -> str | None:
    """The stretches without a changed face, in frames and times; only the first few of many."""
    spans = file.quality.missed_spans if file.quality else []
    if not spans:
        return None
    rate = file.frames_out / file.video_seconds if file.video_seconds else 0.0
    lines = [_span(first, end, rate) for first, end in spans[:_MAX_SPANS]]
    if len(spans) > _MAX_SPANS:
        lines.append(_Words.AND_MORE.format(count=len(spans) - _MAX_SPANS))
    return f'{text(", ".join(lines))} <span class="soft">({_Words.SPANS_NOTE})</span>'


def _span(first: int, end: int, rate: float) -> str:
    if not rate:
        return f"{first}–{end - 1}"
    begin, finish = _moment(first / rate), _moment(end / rate)
    return _Words.SPAN.format(first=first, last=end - 1, begin=begin, end=finish)


def _moment(seconds: float) -> str:
    """``m:ss.t``; short spans would otherwise begin and end at the same second."""
    tenths = round(seconds * 10)
    return f"{clock_text(tenths // 10)}.{tenths % 10}"


def _similarity(file: FileReport) -> str | None:
    quality = file.quality
    if quality is None or quality.similarity_mean is None or quality.similarity_p5 is None:
        return None
    return _Words.SIMILARITY.format(
        mean=quality.similarity_mean, count=quality.similarity_samples, low=quality.similarity_p5
    )


def _flicker(file: FileReport) -> str | None:
    if file.quality is None or file.quality.flicker is None:
        return None
    return _Words.FLICKER.format(value=number(file.quality.flicker))


def _speed(file: FileReport) -> str | None:
    if not file.fps:
        return None
    return f"{_Words.FPS.format(fps=number(file.fps))}, {duration(file.seconds)}"


def _segments(file: FileReport) -> str | None:
    if not file.segments:
        return None
    return _Words.KEPT.format(count=file.segments, kept=file.segments_kept)


def _memory_course(file: FileReport) -> str | None:
    if not file.memory_before and not file.memory_after:
        return None
    difference = file.memory_difference
    sign = "+" if difference >= 0 else "−"
    return _Words.MEMORY.format(
        before=memory(file.memory_before),
        after=memory(file.memory_after),
        difference=sign + memory(abs(difference)),
    )


def _pictures(file: FileReport) -> str:
    """The most changed of a few moments before and after, or the reason why there is no picture."""
    try:
        pair = pair_of(file)
        before = _picture(pair.before, file, _Words.BEFORE)
        return f'<div class="pictures">{before}{_picture(pair.after, file, _Words.AFTER)}</div>'
    except Exception as error:  # noqa: BLE001 - files change after a run; a picture is never worth the report
        return f'<p class="soft">{text(_Words.NO_PICTURE.format(reason=error))}</p>'


def _picture(image: Image, file: FileReport, which: str) -> str:
    alt = text(_Words.ALT.format(name=_name(file), which=which))
    return f'<figure><img src="{data_url(image)}" alt="{alt}"><figcaption>{which}</figcaption></figure>'
