from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from colab_helpers import machine
from colab_helpers.__main__ import VERBS, main
from colab_helpers.command_line import FAILURE, INTERRUPTED, SUCCESS, WRONG_USAGE, build_parser
from colab_helpers.errors import WorkerError
from tests.helpers.processes import hold, resume_once_signalled
from tests.media.make import Spec, make


@pytest.fixture
def common(photo: Path, constant_models: Path, consent: str) -> list[str]:
    return [
        *("-s", str(photo), "--models-dir", str(constant_models), "--consent", consent),
        *("--execution-provider", "cpu", "--output-video-encoder", "libx264"),
    ]


def test_swap_writes_result_and_report(common: list[str], tmp_path: Path) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    report = tmp_path / "report.json"
    code = main(
        ["swap", *common, "-t", str(target), "-o", str(tmp_path / "b.mp4"), "--report", str(report), "--set",
         "output_video_quality=30", "--preset", "speed"]
    )  # fmt: skip
    assert code == SUCCESS
    assert (tmp_path / "b.mp4").exists()
    data = json.loads(report.read_text())
    assert data["settings"]["output_video_quality"] == 30
    assert data["settings"]["temp_frame_format"] == "jpg"


@pytest.mark.parametrize("name", ["a.mp4", "photo.png", "mine.json"])
def test_swap_report_does_not_overwrite_user_file(
    common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    target, path = make(tmp_path / "a.mp4", Spec(frames=5)), tmp_path / name
    if not path.exists():
        path.write_text('{"mine": 1}')
    before = path.read_bytes()
    code = main(["swap", *common, "-t", str(target), "-o", str(tmp_path / "b.mp4"), "--report", str(path)])
    assert code == WRONG_USAGE
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not (tmp_path / "b.mp4").exists()


def test_batch_exit_codes_and_target_patterns(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "in" / "a.mp4", Spec(frames=5))
    (tmp_path / "in" / "b.mp4").write_text("no video")
    assert main(["batch", *common, "-t", "in", "--output", "out"]) == FAILURE
    assert "1 of 2 files in" in capsys.readouterr().out
    assert main(["batch", *common, "-t", "in/*.mp4", "-o", "out", "--range", "1"]) == SUCCESS
    (tmp_path / "here").mkdir()
    assert main(["swap", *common, "-t", "in/a.mp4", "-o", "here"]) == SUCCESS
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("batch -t in/a.mp4 -o out --range x", "is not a range"),
        ("batch -t in/a.mp4 -o out --batch-size 99", "batch_size = 99 is not allowed"),
        ("batch -t in/a.mp4 -o out --set batch_size", "--set takes KEY=VALUE"),
        ("batch -t in/a.mp4 -o out -s none.png --models-dir none", "none.png: there is no such file"),
        ("swap -t in/a.mp4 -o out -s none.png --models-dir none", "none.png: there is no such file"),
        ("batch -t in/a.mp4 -o out -s https://host/me.png", "this is an address"),
        ("batch -t https://host/a.mp4 -o out", "this is an address"),
        ("batch -t in/*.mov -o out", "no file matches it as a pattern"),
        ("batch -t empty -o out", "the folder contains no video or image"),
        ("batch -t in/a.mp4 -o out.mp4", "name a folder in --output-dir; for one file use"),
        ("batch -t in/a.mp4 -o in/a.mp4", "this is the name of a file"),
        ("batch -t in/a.mp4 -o in", "result would overwrite"),
        ("batch -t in/a.mp4 -o out --models-dir none", "set another folder in --models-dir"),
        ("batch -t in/a.mp4 -o out --session-minutes -5", "session_minutes = '-5' is not allowed"),
        ("batch -t in/a.mp4 -o out --consent yes", 'for example --consent "Ana Ruiz'),
        ("batch -t in/a.mp4 -o out --preset fastest", "there is no preset 'fastest'"),
        ("swap -t none.mp4 -o out.mp4", "none.mp4: there is no such file"),
        ("swap -t https://host/a.mp4 -o out.mp4", "this is an address"),
        ("status none", "no batch has written its status here"),
    ],
)
def test_invalid_arguments_exit_with_2_and_one_message(
    words: str,
    error: str,
    common: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / "a.mp4", Spec(frames=5))
    verb, *rest = words.split()
    assert main([verb, *([] if verb == "status" else common), *rest]) == WRONG_USAGE
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(error) == 1
    assert printed.err.startswith("error: ")
    assert printed.err.count("What to do: ") == 1
    assert "Traceback" not in printed.err
    assert not list(tmp_path.glob("out*/*.mp4"))


def test_dead_worker_exits_with_failure_code(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise WorkerError("it died")

    monkeypatch.setattr("colab_helpers.batch.supervisor.Supervisor.run", die)
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    assert main(["batch", *common, "-t", str(target), "-o", str(tmp_path / "out")]) == FAILURE


def test_ctrl_c_exits_with_130(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        make(tmp_path / "in" / f"{name}.mp4", Spec(frames=5))
    monkeypatch.setattr("colab_helpers.ui.progress.ProgressLine.__call__", interrupt)
    hold(monkeypatch, tmp_path, file=0, frame=1)  # so that it cannot end before the interrupt
    out = tmp_path / "out"
    files = ["-t", str(tmp_path / "in" / "a.mp4"), "-o", str(tmp_path / "b.mp4")]
    assert main(["swap", *common, *files]) == INTERRUPTED
    words = ["batch", *common, "-t", str(tmp_path / "in"), "-o", str(out)]
    resuming = Thread(target=resume_once_signalled)
    resuming.start()
    assert main(words) == INTERRUPTED
    resuming.join()
    assert main([*words, "--in-process"]) == INTERRUPTED
    monkeypatch.undo()
    assert capsys.readouterr().err.count("run the same command again to resume") == 3
    assert main(words) == SUCCESS


def test_tilde_is_expanded_by_every_command(
    common: list[str], constant_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a shell does not expand ``~``: in quotes, after ``=``, in a variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(constant_models)
    monkeypatch.setenv("COLAB_HELPERS_MODELS", "~/models")
    index = common.index("--models-dir")
    words = [*common[:index], *common[index + 2 :], "-s", "~/photo.png"]
    make(tmp_path / "a.mp4", Spec(frames=5))
    assert main(["swap", *words, "-t", "~/a.mp4", "-o", "~/b.mp4", "--report=~/report.json"]) == SUCCESS
    assert json.loads((tmp_path / "report.json").read_text())["files"][0]["output"] == str(tmp_path / "b.mp4")
    assert main(["batch", *words, "-t", "~/a.mp4", "-o", "~/out", "--work-dir=~/work"]) == SUCCESS
    assert main(["status", "~/out"]) == SUCCESS
    assert main(["stop", "~/out"]) == FAILURE  # it has already ended
    others = ["demo ~/x", "convert ~/x", "preload --models-dir ~/x", "preload --shared-cache=~/x",
              "doctor --models-dir=~/x"]  # fmt: skip
    for line in others:
        assert str(tmp_path / "x") in str(build_parser(VERBS).parse_args(line.split()))
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        ("batch --sorce me.jpg -t in -o out", "--source"),
        ("batch -s me.jpg -t in -o out --consnt self", "--consent"),
        ("batch -s me.jpg --tragets in -o out", "--targets"),
        ("swap -s me.jpg -t in -o out --many-face=true --max-memry 2", "--max-memory"),
        ("preload --accept-licence-s", "--accept-licences"),
        ("preload --accept-licences --ofline", "--offline"),
    ],
)
def test_misspelt_option_suggests_nearest(
    words: str, suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == WRONG_USAGE
    assert f"(did you mean {suggestion}?)" in capsys.readouterr().err


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, str]:
    """A Colab VM with ``/content`` as working folder; returns its mounts, at first none."""
    mounts: dict[Path, str] = {}
    content = tmp_path / "content"
    content.mkdir()
    monkeypatch.chdir(content)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.setattr(machine, "DRIVES", (content / "drive", content / "gdrive"))
    monkeypatch.setattr(machine, "mounts", lambda: mounts)
    return mounts


@pytest.mark.parametrize(
    "words",
    [
        "batch -t a.mp4 -o drive/MyDrive/out",
        "batch -t a.mp4 -o gdrive/MyDrive/out",
        "batch -t a.mp4 -o link/out",
        "batch -t drive/MyDrive/a.mp4 -o out",
        "batch -t a.mp4 -o out --models-dir drive/MyDrive/models",
        "batch -t a.mp4 -o out --work-dir drive/MyDrive/work",
        "batch -t a.mp4 -o out --report drive/MyDrive/report.json",
        "swap -t a.mp4 -o drive/MyDrive/b.mp4",
        "status drive/MyDrive/out",
        "stop drive/MyDrive/out",
        "demo drive/MyDrive/demo",
        "preload --shared-cache drive/MyDrive/models",
        "doctor --models-dir drive/MyDrive/models",
    ],
)
def test_paths_on_unmounted_drive_are_refused(
    words: str,
    common: list[str],
    colab: dict[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = Path.cwd()
    make(content / "a.mp4", Spec(frames=5))
    (content / "link").symlink_to(content / "drive" / "MyDrive")
    verb, *rest = words.split()
    line = [verb, *(common if verb in ("batch", "swap") else []), *rest]

    def error() -> str:
        assert main(line) == WRONG_USAGE
        return capsys.readouterr().err

    assert "Google Drive is not mounted at" in error()
    # Folders of these names on the VM's own disk.
    for place in machine.DRIVES:
        (place / "MyDrive").mkdir(parents=True)
    assert "drive.mount(" in error()
    # Drive is mounted at the other mount point.
    named, other = ("gdrive", "drive") if " gdrive" in words else ("drive", "gdrive")
    colab[content / other] = "fuse.drive"
    assert "use that path instead" in error()
    # A mount that no longer responds.
    colab[content / named] = "fuse.drive"
    stat = Path.stat

    def fail(path: Path, **options: bool) -> os.stat_result:
        if path.absolute().is_relative_to(content / named):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", fail)
    if "link" not in words:
        assert "the drive or disk no longer responds (Transport endpoint" in error()
    monkeypatch.undo()
    assert [path for place in machine.DRIVES for path in place.glob("MyDrive/*")] == []


def test_preload_fetches_nothing_without_accepted_licences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preload", "--models-dir", str(tmp_path)]) == WRONG_USAGE
    shown = capsys.readouterr()
    for name in ("det_10g", "w600k_r50", "inswapper_128", "GFPGANv1.4"):
        assert f"{name} (" in shown.out
    assert "non-commercial" in shown.out
    assert "--accept-licences" in shown.err
    assert main(["preload", "--models-dir", str(tmp_path), "--offline", "--accept-licenses"]) == WRONG_USAGE
    assert "nothing is fetched offline" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_exit_codes_of_closed_and_full_stdout() -> None:
    command = [sys.executable, "-m", "colab_helpers", "prompt", "a sunset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""  # no traceback with ``| head``
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False)
    end = "from colab_helpers.startup import end_process; print(1); end_process(0)"
    with Path("/dev/full").open("w") as full:
        failed = subprocess.run([sys.executable, "-c", end], stdout=full, check=False).returncode
    assert (process.returncode, closed.returncode, closed.stderr, failed) == (FAILURE, SUCCESS, b"", FAILURE)
