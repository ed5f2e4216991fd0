"""Roop's command lines in this package's words: ``translate_command`` makes a swap or a batch of one.

Most options have the names that settings have here; what differs is what a value means, and what holds where
an option is absent. Sources: ``parse_args`` in roop/core.py and ``create_video`` in roop/utilities.py of roop
1.3 (github.com/s0md3v/roop), and two scripts around it: ``runbatch.py`` with its folders, and
``run_roop_with_memory_management.py``, which adds options of its own.
"""

from __future__ import annotations

import difflib
import shlex
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from colab_helpers.batch.plan import listed
from colab_helpers.command_line import option_name
from colab_helpers.errors import UsageError
from colab_helpers.language import mark, tr

RoopOptions = Mapping[str, str]
"""What a command line asks for in roop's meaning, by the names of settings; words are joined by commas."""
Translation = tuple[dict[str, str], str]
"""The settings that an option becomes, none where it has no meaning here; and why."""

BATCH = "runbatch.py"
PHOTOS, VIDEOS, RESULTS = "source", "inputVideos", "outputVideos"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""Its folders, in the working directory; its photo is the first of the first kind that is there."""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".wmv")

ROOP_DEFAULTS = {
    "frame_processors": "face_swapper",
    "keep_fps": "false",
    "many_faces": "false",
    "output_video_encoder": "libx264",
    "output_video_quality": "35",
}
"""What holds in roop where an option is absent, as far as a result shows it."""
SCRIPTS: dict[str, dict[str, str]] = {
    "run.py": ROOP_DEFAULTS,
    "run_roop_with_memory_management.py": ROOP_DEFAULTS
    | {"frame_processors": "face_swapper,face_enhancer"}
    | {"max_memory": "12", "execution_threads": "8", "gpu_memory_wait": "30"},
    BATCH: {},
}
"""What each script asks for by itself; of ``runbatch.py`` only its author knows."""

_NVENC = mark("H.264, by NVENC where a trial works, else by libx264")
_AS_THERE = mark("as in roop")
_REFERENCE = {
    "reference_face_position": mark("counted from 0, the face the detector is surest of first"),
    "reference_frame_number": mark("counted from 0 in the video as it is, also where its rate changes"),
    "similar_face_distance": mark("the same measure: squared distance of unit embeddings"),
}
_KEPT = dict.fromkeys(("temp_frame_format", "temp_frame_quality"), mark("of the frames that are kept"))
_SAME = {
    **_REFERENCE,
    **_KEPT,
    "keep_fps": mark("every frame keeps its time"),
    "keep_frames": mark("the result's frames, as pictures beside it"),
    "skip_audio": _AS_THERE,
    "max_memory": mark("GB of RAM at most; 2 GB are always left to the system"),
    "execution_threads": mark("groups of frames at a time"),
    "batch_size": mark("frames whose faces are changed together"),
    "gpu_memory_wait": mark("seconds at most, and none where enough GPU memory is free"),
    "output_video_encoder": _AS_THERE,
    "execution_provider": mark("CUDA where a trial proves it, else the CPU; what ran where is told"),
}
"""Why, for options whose values mean the same."""
_INSTEAD = {
    ("keep_fps", "false"): ("false", mark("roop makes 30 frames a second then")),
    ("max_memory", "0"): ("auto", mark("2 GB are left to the system")),
    ("output_video_encoder", "libx264"): ("libx264", mark("as in roop; auto would try NVENC first")),
    ("output_video_encoder", "h264_nvenc"): ("auto", _NVENC),
    ("output_video_encoder", "libvpx-vp9"): ("auto", _NVENC),
    ("execution_provider", "cpu"): ("cpu", _AS_THERE),
}
"""Values that become others, or for other reasons."""


class RoopJob(NamedTuple):
    """What is done to which files: by ``swap`` or by ``batch``."""

    verb: str
    sources: list[str]
    targets: list[str]
    output: str
    video_range: str = ""


def translate_command(options: Namespace) -> tuple[Namespace, list[str]]:
    """Return the options of ``swap`` or ``batch`` that do the same, and what became what, a line each.

    Raises:
        UsageError: An unknown script, a file that is not named, no photo, or a bad quality.
    """
    script, numbers = _script(options.script)
    given = {
        name.removeprefix("setting_"): ",".join(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name.startswith("setting_") and value is not None
    }
    settings, lines = _settings(given, SCRIPTS[script])
    if options.memory_optimization:
        why = tr("memory is bounded in every run, and there is nothing to switch on")
        lines.append(_line("--memory-optimization", "", why))
    files, told = _batch(options, numbers) if script == BATCH else _single(options)
    changed = {f"setting_{name}": settings.get(name) for name in {*given, *settings}}
    # Each verb takes what it has: one target or several, a file or a folder.
    places = {"target": files.targets[0], "output_dir": files.output}
    native = Namespace(**{**vars(options), **files._asdict(), **places, **changed})
    return native, [*told, *lines, _command(files, settings)]


def _script(words: Sequence[str]) -> tuple[str, str]:
    """Return the script that a command begins with, roop's own where it begins with none, and its range."""
    names = [Path(word).name for word in words]
    at = next((number for number, name in enumerate(names) if name.endswith(".py")), len(names))
    script, rest = (names[at], words[at + 1 :]) if names[at:] else ("run.py", words)
    if script in SCRIPTS and len(rest) <= (script == BATCH):
        return script, "".join(rest)
    meant = (difflib.get_close_matches(script, SCRIPTS, 1) or ["run.py"])[0]
    what = tr("{words!r} is not how a command of roop's begins", words=" ".join(words))
    remedy = tr("begin with python {script}; known: {all}", script=meant, all=", ".join(SCRIPTS))
    raise UsageError(what, remedy=remedy)


def _settings(given: RoopOptions, absent: RoopOptions) -> tuple[dict[str, str], list[str]]:
    """Translate every option of roop's; others are settings of this package already."""
    asked = {**absent, **given}
    settings: dict[str, str] = {}
    lines = []
    for name, value in asked.items():
        flag = "--frame-processor" if name == "frame_processors" else option_name(name)
        said = flag if value == "true" else f"{flag} {value.replace(',', ' ')}"
        became, why = _became(name, asked)
        settings |= became
        if why:
            said = said if name in given else tr("without {option}", option=flag)
            lines.append(_line(said, " ".join(f"{key}={words}" for key, words in became.items()), why))
    return settings, lines


def _line(said: str, became: str, why: str) -> str:
    return f"{said} -> {became or tr('nothing')}: {why}"


def _became(name: str, asked: RoopOptions) -> Translation:
    """Return what an option becomes; without a reason where it is none of roop's."""
    value = asked[name]
    if name == "frame_processors":
        return _steps(value.split(","))
    if name == "many_faces":
        return _faces(asked)
    if name == "output_video_quality":
        return _crf(value)
    if name in _REFERENCE and asked.get("many_faces", "true") == "true":
        return {}, tr("every face is changed, and none is compared")
    if name in _KEPT and asked.get("keep_frames") != "true":
        return {}, tr("there are no temporary pictures: frames stay in memory from decoder to encoder")
    usual = "auto" if name == "execution_provider" else value, _SAME.get(name, "")
    instead, why = _INSTEAD.get((name, value), usual)
    return {name: instead}, tr(why)


def _steps(given: Sequence[str]) -> Translation:
    steps = [step for step in ("face_swapper", "face_enhancer") if step in given]
    steps += dict.fromkeys(step for step in given if step not in steps)
    once = tr("each once: the swap would paint over what was enhanced before")
    return {"frame_processors": ",".join(steps)}, tr("done to each face") if steps == given else once


def _faces(asked: RoopOptions) -> Translation:
    if asked["many_faces"] == "true":
        return {"many_faces": "true"}, tr("every face is changed")
    if asked.get("frame_processors") == "face_enhancer":
        return {"many_faces": "true"}, tr("roop enhances every face")
    face, frame = (asked.get(name, "0") for name in ("reference_face_position", "reference_frame_number"))
    text = mark("only the person of face {face} in frame {frame}, by likeness; no other is enhanced either")
    one = {"many_faces": "false", "face_selector": "reference", "face_order": "best"}
    return one, tr(text, face=face, frame=frame)


def _crf(value: str) -> Translation:
    if not (value.isdecimal() and int(value) <= 100):
        text = mark("{key} = {value!r} is not allowed; allowed: {allowed}")
        allowed = tr("{low:g} to {high:g}", low=0, high=100)
        what = tr(text, key="output_video_quality", value=value, allowed=allowed)
        raise UsageError(what, remedy=tr("correct the value"))
    why = tr("the CRF or CQ that roop makes of it: ({quality} + 1) * 51 // 100", quality=int(value))
    return {"output_video_quality": str((int(value) + 1) * 51 // 100)}, why


def _single(options: Namespace) -> tuple[RoopJob, list[str]]:
    """The files of one swap, and a line where roop names the result."""
    named = {"-s": options.sources, "-t": options.target, "-o": options.output}
    if missing := " ".join(flag for flag, value in named.items() if not value):
        what = tr("without {missing} roop opens its window, and there is none here", missing=missing)
        raise UsageError(what, remedy=tr("name all three, or open notebooks/batch_swap.ipynb"))
    target, output, lines = Path(options.target), options.output, []
    if Path(output).is_dir():
        output = str(Path(output) / f"{Path(options.sources[0]).stem}-{target.name}")
        lines = [_line(f"-o {options.output}", f"-o {output}", tr("the name that roop gives in a folder"))]
    return RoopJob("swap", options.sources, [options.target], output), lines


def _batch(options: Namespace, numbers: str) -> tuple[RoopJob, list[str]]:
    """What ``runbatch.py`` works on: a photo, and videos in its own order, by which its range counts."""
    photos = [name for kind in PHOTO_SUFFIXES for name in _of_kind(PHOTOS, (kind,))]
    folder, output = options.target or VIDEOS, options.output or RESULTS
    sources = options.sources or photos[:1]
    if not sources:
        place, what = str(Path(PHOTOS).absolute()), tr("there is no photo for {script}", script=BATCH)
        raise UsageError(what, where=place, remedy=tr("put one there, or name it in -s"))
    videos = _of_kind(folder, VIDEO_SUFFIXES)
    # A folder is taken in natural order, with its pictures.
    alike = not videos or [str(path) for path in listed(Path(folder))] == videos
    unseen = tr("what stands in the script cannot be seen here; options written after it count, too")
    named = tr("results have the names of their videos, not <photo>_<number>.mp4")
    places = f"-t {folder} -o {output}"
    lines = [_line(BATCH, f"--preset {options.preset}", unseen), _line(f"{folder}/", places, named)]
    if not options.sources:
        first = tr("the first of {count} photo(s)", count=len(photos))
        lines.append(_line(f"{PHOTOS}/", f"-s {sources[0]}", first))
    if numbers:
        counted = tr("of {count} video(s), in the script's order", count=len(videos))
        lines.append(_line(numbers, f"--range {numbers}", counted))
    return RoopJob("batch", sources, [folder] if alike else videos, output, numbers), lines


def _of_kind(folder: str, suffixes: Collection[str]) -> list[str]:
    """The visible files in a folder of some suffixes, in the order of their characters: 10 before 2."""
    found = sorted(str(path) for path in Path(folder).glob("[!.]*"))
    return [name for name in found if Path(name).suffix.lower() in suffixes]


def _command(files: RoopJob, settings: RoopOptions) -> str:
    """The same as a command line of this package's, without the options that are its own already."""
    words = ["python", "-m", "colab_helpers", files.verb, "-s", *files.sources, "-t", *files.targets]
    words += ["-o", files.output, *(("--range", files.video_range) if files.video_range else ())]
    words += [word for name, value in settings.items() for word in (option_name(name), value)]
    return tr("in this package's words: {command}", command=shlex.join(words))
