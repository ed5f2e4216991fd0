"""Command lines from roop's documentation, and their native equivalents."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from colab_helpers.__main__ import VERBS, main
from colab_helpers.command_line import SUCCESS, WRONG_USAGE, build_parser, parse_value, settings_of
from colab_helpers.roop import translate_command
from colab_helpers.settings import load_settings
from tests.helpers.processes import content
from tests.media.make import Spec, make

ONE = "many_faces=false face_selector=reference face_order=best"
PLAIN = (
    f"{ONE} frame_processors=face_swapper keep_fps=false output_video_encoder=libx264 output_video_quality=18"
)
"""roop's defaults."""
BOTH = "frame_processors=face_swapper,face_enhancer "
MANY = "many_faces=true face_selector=one face_order=largest "
T4 = f"{PLAIN} {MANY} {BOTH} keep_fps=true max_memory=10 execution_threads=8 output_video_encoder=auto "

FILES = "-s source.jpg -t target.mp4 -o output.mp4"
GPU = "--source imagen.jpg --target video.mp4 --output resultado.mp4 --keep-fps"
ENHANCED = "--frame-processor face_swapper face_enhancer"
NVENC = "--execution-provider cuda --execution-threads 8 --output-video-encoder h264_nvenc"
ON_T4 = f"{FILES} {ENHANCED} --keep-fps --many-faces --max-memory 10 {NVENC}"
OWN = {"--source", "--target", "--output", "--overwrite", "--segment-seconds"}
ROOP_DEFAULTS = {
    "--frame-processor", "--keep-fps", "--many-faces", "--output-video-encoder", "--output-video-quality",
}  # fmt: skip
MEMORY = f"python run.py {FILES} --memory-optimization"

LINES = {
    # Forcing the GPU: the original command, the simplified one, the script.
    f"python run.py {GPU} --execution-provider cuda --max-memory 12 --execution-threads 33 {ENHANCED} "
    "--temp-frame-quality 100": f"{PLAIN} {BOTH} keep_fps=true max_memory=12 execution_threads=33",
    f"python run.py {GPU} {ENHANCED} --gpu-memory-wait 15": f"{PLAIN} {BOTH} keep_fps=true "
    "gpu_memory_wait=15",
    f"python run_roop_with_memory_management.py {GPU}": f"{PLAIN} {BOTH} keep_fps=true "
    "gpu_memory_wait=30 max_memory=12 execution_threads=8",
    # Recommendations for a T4: balanced, speed, quality (for a CPU), and minor ones.
    f"run.py {ON_T4} --output-video-quality 25": f"{T4} output_video_quality=13",
    f"run.py {ON_T4} --output-video-quality 28 --temp-frame-format jpg --temp-frame-quality 85": f"{T4} "
    "output_video_quality=14",
    f"run.py {FILES} {ENHANCED} --execution-provider cpu --execution-threads 1 --output-video-encoder "
    "libx264 --output-video-quality 18 --temp-frame-format png --temp-frame-quality 100": f"{PLAIN} {BOTH} "
    "output_video_quality=9 execution_provider=cpu execution_threads=1",
    f"{FILES} --similar-face-distance 0.75 --reference-face-position 1 --reference-frame-number 4": PLAIN
    + " similar_face_distance=0.75 reference_face_position=1 reference_frame_number=4",
    # The options for memory, and those for 8, 16 and 32 GB.
    MEMORY: PLAIN,
    **{
        f"{MEMORY} --batch-size {size} --execution-threads {threads} --max-memory {memory}": f"{PLAIN} "
        f"batch_size={size} execution_threads={threads} max_memory={memory}"
        for size, threads, memory in ((2, 10, 6), (1, 8, 6), (3, 15, 12), (5, 25, 24))
    },
    # The batch script: all videos, a range, stable, light.
    "python runbatch.py": "",
    "!python runbatch.py 31-60": "",
    "runbatch.py --max-memory 4 --execution-threads 2 --similar-face-distance 0.95": "max_memory=4 "
    "execution_threads=2",
    "runbatch.py 1-30 --temp-frame-format jpg --temp-frame-quality 75 --output-video-encoder libx264 "
    "--output-video-quality 25 --frame-processor face_swapper": "output_video_encoder=libx264 "
    "output_video_quality=13 frame_processors=face_swapper",
    # Other options of roop, and invalid values.
    f"{FILES} --keep-frames --skip-audio --temp-frame-format jpg --temp-frame-quality 90 --max-memory 0 "
    "--output-video-encoder libvpx-vp9 --output-video-quality 100 --execution-provider cuda cpu": f"{PLAIN} "
    "keep_frames=true skip_audio=true temp_frame_format=jpg temp_frame_quality=90 max_memory=auto "
    "output_video_encoder=auto output_video_quality=51",
    f"{FILES} --frame-processors face_enhancer face_swapper face_enhancer --output-video-encoder hevc_nvenc "
    "--many-faces --similar-face-distance 2": f"{PLAIN} {MANY} {BOTH} output_video_encoder=hevc_nvenc",
    f"{FILES} --frame-processor face_enhancer": f"{PLAIN} {MANY} frame_processors=face_enhancer",
    f"{FILES} --overwrite --segment-seconds 5": f"{PLAIN} overwrite=true segment_seconds=5",
}


def translate(line: str) -> tuple[Namespace, list[str]]:
    return translate_command(build_parser(VERBS).parse_args(["roop", *line.split()]))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The batch script's folders, with one photo."""
    monkeypatch.chdir(tmp_path)
    for name in ("source", "inputVideos", "outputVideos"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "me.png").touch()
    return tmp_path


@pytest.mark.usefixtures("folders")
@pytest.mark.parametrize(("line", "expected"), LINES.items())
def test_line_is_translated_and_each_option_explained_once(line: str, expected: str) -> None:
    native, lines = translate(line)
    pairs = (pair.split("=") for pair in expected.split())
    settings = load_settings("balanced", **{name: parse_value(value) for name, value in pairs})
    assert settings_of(native) == settings
    # The printed native command is equivalent.
    words = shlex.split(lines[-1].partition("command: ")[2])[3:]
    assert words[0] == native.verb == ("batch" if "runbatch.py" in line else "swap")
    assert settings_of(build_parser(VERBS).parse_args(words)) == settings
    flags = {word.replace("processors", "processor") for word in line.split() if word[:2] == "--"}
    explained = [line.split()[0] for line in lines]
    assert all(explained.count(flag) == (flag not in OWN) for flag in flags)
    absent = {text.split()[1] for text in lines if text.startswith("without ")}
    assert absent & ROOP_DEFAULTS == (ROOP_DEFAULTS - flags if native.verb == "swap" else set())


@pytest.mark.parametrize(("quality", "crf"), [(0, 0), (17, 9), (23, 12), (35, 18), (90, 46), (99, 51)])
def test_quality_is_converted_to_crf_as_in_roop(quality: int, crf: int) -> None:
    assert settings_of(translate(f"{FILES} --output-video-quality {quality}")[0]).output_video_quality == crf


@pytest.mark.parametrize(("numbers", "order"), [([1, 2, 3], None), ([1, 2, 10], [1, 10, 2]), ([], None)])
def test_batch_script_order_of_videos_is_kept(
    numbers: list[int], order: list[int] | None, folders: Path
) -> None:
    for number in numbers:
        (folders / "inputVideos" / f"{number}.mp4").touch()
    for name in ("b.jpg", "a.JPG", "a.bmp", ".a.jpg"):
        (folders / "source" / name).touch()
    native, lines = translate("runbatch.py 1-30")
    targets = [f"inputVideos/{number}.mp4" for number in order] if order else ["inputVideos"]
    assert (native.verb, native.sources, native.targets) == ("batch", ["source/a.JPG"], targets)
    assert (native.output_dir, native.video_range) == ("outputVideos", "1-30")
    assert "the first of 4 photo(s)" in lines[2]


@pytest.mark.usefixtures("folders")
def test_result_in_folder_is_named_as_in_roop() -> None:
    native, lines = translate("-s a/me.jpg -t b/clip.mov -o source")
    assert lines[0].startswith(f"-o source -> -o {native.output}: ")
    assert native.output == "source/me-clip.mov"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (f"{FILES} --output-video-quality 101", "quality = '101' is not allowed; allowed: 0 to 100"),
        (f"{FILES} --output-video-quality best", "output_video_quality = 'best' is not allowed"),
        (f"{FILES} --execution-threads many --dry-run", "execution_threads = 'many' is not allowed"),
        ("python run.py -s me.jpg", "without -t -o roop opens its window"),
        (f"python runbach.py {FILES}", "start with python runbatch.py"),
        (f"python run.py 1-30 {FILES}", "'python run.py 1-30' is not the start"),
        ("runbatch.py 1-30", "source: there is no photo for runbatch.py"),
        (f"python run.py {FILES}", "no statement of consent was given"),
    ],
)
def test_invalid_lines(line: str, error: str, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "source" / "me.png").unlink()
    assert main(["roop", *line.split()]) == WRONG_USAGE
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "suggestion"), [("memory-optimisation", "memory-optimization"), ("keep-frame-s", "keep-frames")]
)
def test_unknown_option_suggests_nearest(
    wrong: str, suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["roop", *FILES.split(), f"--{wrong}"])
    assert caught.value.code == WRONG_USAGE
    assert f"(did you mean --{suggestion}?)" in capsys.readouterr().err


def test_frames_equal_those_of_native_command(
    folders: Path, photo: Path, constant_models: Path, consent: str
) -> None:
    """For a swap at 30 frames per second, the default, and a batch of two of three videos."""
    own = ["--models-dir", str(constant_models), "--consent", consent]
    for number in (1, 2, 3):
        make(folders / "inputVideos" / f"{number}.mp4", Spec(frames=5 + number))
    line = ["roop", *f"python run.py -s {photo} -t inputVideos/1.mp4 {ENHANCED} -o roop.mp4".split(), *own]
    assert main([*line, "--dry-run"]) == SUCCESS
    assert not (folders / "roop.mp4").exists()
    assert main(line) == SUCCESS
    native = (
        f"swap -s {photo} -t inputVideos/1.mp4 -o native.mp4 --many-faces false --face-selector reference "
        "--face-order best --keep-fps false --output-video-encoder libx264 --output-video-quality 18"
    )
    assert main([*native.split(), *own]) == SUCCESS
    assert content(folders / "roop.mp4") == content(folders / "native.mp4")
    assert len(content(folders / "roop.mp4")[0]) > 6  # 30 instead of 25 per second
    (folders / "source" / "me.png").write_bytes(photo.read_bytes())
    assert main(["roop", "python", "runbatch.py", "1-2", "--output-video-quality", "60", *own]) == SUCCESS
    native = "batch -s source/me.png -t inputVideos -o native --range 1-2 --output-video-quality 31"
    assert main([*native.split(), *own]) == SUCCESS
    for name in ("1.mp4", "2.mp4"):
        assert content(folders / "outputVideos" / name) == content(folders / "native" / name)
    assert len(list((folders / "outputVideos").glob("*.mp4"))) == 2
