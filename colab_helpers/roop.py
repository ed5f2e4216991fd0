"""Translation of roop's command lines: ``translate_command`` turns one into a swap or a batch.

Most options are named like settings here, but some values differ in meaning, and so do the defaults. Sources:
``parse_args`` in roop/core.py and ``create_video`` in roop/utilities.py of roop 1.3 (github.com/s0md3v/roop),
and two scripts around it: ``runbatch.py`` with its folders, and ``run_roop_with_memory_management.py``, which
adds options of its own.
"""

from __future__ import annotations

import difflib
import shlex
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from colab_helpers.batch.plan import list_targets
from colab_helpers.command_line import option_name
from colab_helpers.errors import UsageError
from colab_helpers.language import mark, tr

RoopOptions = Mapping[str, str]
"""Values with roop's meaning, by the names of settings; several words are joined by commas."""
Translation = tuple[dict[str, str], str]
"""The settings that an option is translated to (none if it has no meaning here), and the reason."""

BATCH = "runbatch.py"
PHOTOS, VIDEOS, RESULTS = "source", "inputVideos", "outputVideos"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""``runbatch.py``'s folders, in the working directory; its photo is the first of the first suffix present."""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".wmv")

ROOP_DEFAULTS = {
    "frame_processors": "face_swapper",
    "keep_fps": "false",
    "many_faces": "false",
    "output_video_encoder": "libx264",
    "output_video_quality": "35",
}
"""Roop's defaults, as far as they affect a result."""
SCRIPTS: dict[str, dict[str, str]] = {
    "run.py": ROOP_DEFAULTS,
    "run_roop_with_memory_management.py": ROOP_DEFAULTS
    | {"frame_processors": "face_swapper,face_enhancer"}
    | {"max_memory": "12", "execution_threads": "8", "gpu_memory_wait": "30"},
    BATCH: {},
}
"""Default options of each script; those inside ``runbatch.py`` are unknown."""

_NVENC = mark("H.264 by NVENC if a trial encode works, else by libx264")
_AS_IN_ROOP = mark("as in roop")
_REFERENCE = {
    "reference_face_position": mark("counted from 0, by descending detection score"),
    "reference_frame_number": mark("counted from 0 in the original video, even if the frame rate is changed"),
    "similar_face_distance": mark("the same measure: squared distance of unit embeddings"),
}
_KEPT = dict.fromkeys(("temp_frame_format", "temp_frame_quality"), mark("applies to frames that are kept"))
_SAME = {
    **_REFERENCE,
    **_KEPT,
    "keep_fps": mark("every frame keeps its timestamp"),
    "keep_frames": mark("the result's frames, as image files beside it"),
    "skip_audio": _AS_IN_ROOP,
    "max_memory": mark("maximum RAM in GB; 2 GB are always left to the system"),
    "execution_threads": mark("groups of frames processed at the same time"),
    "batch_size": mark("frames whose faces are processed together"),
    "gpu_memory_wait": mark("maximum wait in seconds; none if enough GPU memory is free"),
    "output_video_encoder": _AS_IN_ROOP,
    "execution_provider": mark("CUDA if a trial run works, else the CPU; the results say which"),
}
"""Reasons for options whose values mean the same here."""
_INSTEAD = {
    ("keep_fps", "false"): ("false", mark("roop then makes 30 frames per second")),
    ("max_memory", "0"): ("auto", mark("2 GB are left to the system")),
    ("output_video_encoder", "libx264"): ("libx264", mark("as in roop; auto would try NVENC first")),
    ("output_video_encoder", "h264_nvenc"): ("auto", _NVENC),
    ("output_video_encoder", "libvpx-vp9"): ("auto", _NVENC),
    ("execution_provider", "cpu"): ("cpu", _AS_IN_ROOP),
}
"""Translated values and reasons for values that mean something else, or have another reason."""


class RoopJob(NamedTuple):
    """Files of a translated command, and its verb: ``swap`` or ``batch``."""

    verb: str
    sources: list[str]
    targets: list[str]
    output: str
    video_range: str = ""


def translate_command(options: Namespace) -> tuple[Namespace, list[str]]:
    """Return equivalent options of ``swap`` or ``batch``, and lines that explain the translation.

    Raise UsageError if the script is unknown, a file is not named, no photo exists, or the quality is bad.
    """
    script, numbers = _script(options.script)
    explicit = {
        name.removeprefix("setting_"): ",".join(value) if isinstance(value, list) else value
        for name, value in vars(options).items()
        if name.startswith("setting_") and value is not None
    }
    settings, lines = _translate(explicit, SCRIPTS[script])
    if options.memory_optimization:
        why = tr("memory is bounded in every run; there is nothing to switch on")
        lines.append(_line("--memory-optimization", "", why))
    job, job_lines = _batch(options, numbers) if script == BATCH else _single(options)
    changed = {f"setting_{name}": settings.get(name) for name in {*explicit, *settings}}
    # ``swap`` reads target and output, ``batch`` targets and output_dir.
    paths = {"target": job.targets[0], "output_dir": job.output}
    native = Namespace(**{**vars(options), **job._asdict(), **paths, **changed})
    return native, [*job_lines, *lines, _command(job, settings)]


def _script(words: Sequence[str]) -> tuple[str, str]:
    """Return the script that a command starts with (roop's own if none) and its range."""
    names = [Path(word).name for word in words]
    index = next((number for number, name in enumerate(names) if name.endswith(".py")), len(names))
    script, rest = (names[index], words[index + 1 :]) if names[index:] else ("run.py", words)
    if script in SCRIPTS and len(rest) <= (script == BATCH):
        return script, "".join(rest)
    nearest = (difflib.get_close_matches(script, SCRIPTS, 1) or ["run.py"])[0]
    what = tr("{words!r} is not the start of a roop command", words=" ".join(words))
    remedy = tr("start with python {script}; known: {all}", script=nearest, all=", ".join(SCRIPTS))
    raise UsageError(what, remedy=remedy)


def _translate(explicit: RoopOptions, defaults: RoopOptions) -> tuple[dict[str, str], list[str]]:
    """Translate all options; those that roop does not have are settings of this package already."""
    options = {**defaults, **explicit}
    settings: dict[str, str] = {}
    lines = []
    for name, value in options.items():
        flag = "--frame-processor" if name == "frame_processors" else option_name(name)
        translated, why = _translate_option(name, options)
        settings |= translated
        if why:
            option = flag if value == "true" else f"{flag} {value.replace(',', ' ')}"
            option = option if name in explicit else tr("without {option}", option=flag)
            lines.append(_line(option, " ".join(f"{key}={words}" for key, words in translated.items()), why))
    return settings, lines


def _line(option: str, translated: str, why: str) -> str:
    return f"{option} -> {translated or tr('nothing')}: {why}"


def _translate_option(name: str, options: RoopOptions) -> Translation:
    """Translate one option; the reason is empty if roop does not have it."""
    value = options[name]
    if name == "frame_processors":
        return _steps(value.split(","))
    if name == "many_faces":
        return _faces(options)
    if name == "output_video_quality":
        return _crf(value)
    if name in _REFERENCE and options.get("many_faces", "true") == "true":
        return {}, tr("every face is changed, so none is compared")
    if name in _KEPT and options.get("keep_frames") != "true":
        return {}, tr("there are no temporary image files: frames stay in memory from decoder to encoder")
    default = "auto" if name == "execution_provider" else value, _SAME.get(name, "")
    translated, why = _INSTEAD.get((name, value), default)
    return {name: translated}, tr(why)


def _steps(names: Sequence[str]) -> Translation:
    steps = [step for step in ("face_swapper", "face_enhancer") if step in names]
    steps += dict.fromkeys(step for step in names if step not in steps)
    once = tr("each once, the swap first: it would overwrite an enhanced face")
    return {"frame_processors": ",".join(steps)}, tr("done to each face") if steps == names else once


def _faces(options: RoopOptions) -> Translation:
    if options["many_faces"] == "true":
        return {"many_faces": "true"}, tr("every face is changed")
    if options.get("frame_processors") == "face_enhancer":
        return {"many_faces": "true"}, tr("roop enhances every face")
    face, frame = (options.get(name, "0") for name in ("reference_face_position", "reference_frame_number"))
    text = mark("only the person of face {face} in frame {frame}, by similarity; no other is enhanced either")
    one = {"many_faces": "false", "face_selector": "reference", "face_order": "best"}
    return one, tr(text, face=face, frame=frame)


def _crf(value: str) -> Translation:
    if not (value.isdecimal() and int(value) <= 100):
        text = mark("{key} = {value!r} is not allowed; allowed: {allowed}")
        allowed = tr("{low:g} to {high:g}", low=0, high=100)
        what = tr(text, key="output_video_quality", value=value, allowed=allowed)
        raise UsageError(what, remedy=tr("correct the value"))
    why = tr("the CRF or CQ that roop computes: ({quality} + 1) * 51 // 100", quality=int(value))
    return {"output_video_quality": str((int(value) + 1) * 51 // 100)}, why


def _single(options: Namespace) -> tuple[RoopJob, list[str]]:
    """Return the job of a single swap, and a line if roop would choose the result's name."""
    files = {"-s": options.sources, "-t": options.target, "-o": options.output}
    if missing := " ".join(flag for flag, value in files.items() if not value):
        what = tr("without {missing} roop opens its window, which does not exist here", missing=missing)
        raise UsageError(what, remedy=tr("give -s, -t and -o, or open notebooks/batch_swap.ipynb"))
    target, output, lines = Path(options.target), options.output, []
    if Path(output).is_dir():
        output = str(Path(output) / f"{Path(options.sources[0]).stem}-{target.name}")
        lines = [_line(f"-o {options.output}", f"-o {output}", tr("the name that roop gives in a folder"))]
    return RoopJob("swap", options.sources, [options.target], output), lines


def _batch(options: Namespace, numbers: str) -> tuple[RoopJob, list[str]]:
    """Return the batch of ``runbatch.py``: a photo, and videos in its order, to which its range refers."""
    photos = [name for suffix in PHOTO_SUFFIXES for name in _list_files(PHOTOS, (suffix,))]
    folder, output = options.target or VIDEOS, options.output or RESULTS
    sources = options.sources or photos[:1]
    if not sources:
        where, what = str(Path(PHOTOS).absolute()), tr("there is no photo for {script}", script=BATCH)
        raise UsageError(what, where=where, remedy=tr("put one there, or name it with -s"))
    videos = _list_files(folder, VIDEO_SUFFIXES)
    # ``batch`` takes a folder in natural order, and its images, too.
    same_order = not videos or [str(path) for path in list_targets(Path(folder))] == videos
    preset_why = tr("options inside the script are not known here; those written after it apply")
    paths_why = tr("results have the names of their videos, not <photo>_<number>.mp4")
    lines = [_line(BATCH, f"--preset {options.preset}", preset_why)]
    lines.append(_line(f"{folder}/", f"-t {folder} -o {output}", paths_why))
    if not options.sources:
        why = tr("the first of {count} photo(s)", count=len(photos))
        lines.append(_line(f"{PHOTOS}/", f"-s {sources[0]}", why))
    if numbers:
        why = tr("of {count} video(s), in the script's order", count=len(videos))
        lines.append(_line(numbers, f"--range {numbers}", why))
    return RoopJob("batch", sources, [folder] if same_order else videos, output, numbers), lines


def _list_files(folder: str, suffixes: Collection[str]) -> list[str]:
    """Return the visible files in a folder with some suffixes, in lexical order (10 before 2)."""
    paths = sorted(str(path) for path in Path(folder).glob("[!.]*"))
    return [path for path in paths if Path(path).suffix.lower() in suffixes]


def _command(job: RoopJob, settings: RoopOptions) -> str:
    """Return the equivalent command line, without options such as --consent, which stay the same."""
    words = ["python", "-m", "colab_helpers", job.verb, "-s", *job.sources, "-t", *job.targets]
    words += ["-o", job.output, *(("--range", job.video_range) if job.video_range else ())]
    words += [word for name, value in settings.items() for word in (option_name(name), value)]
    return tr("equivalent command: {command}", command=shlex.join(words))
