from __future__ import annotations

import shutil
from pathlib import Path

import av
import pytest
from c2pa import Builder, Context

from colab_helpers.__main__ import main
from colab_helpers.errors import MediaError
from colab_helpers.machine import home
from colab_helpers.trust import marking, verify
from colab_helpers.trust.signing import LOCAL, LOCAL_NAME, load_credentials, local_anchor
from tests.helpers.marks import made


@pytest.fixture
def results(finished_batch, tmp_path: Path) -> Path:
    """Results of a batch; the MKV's manifest is a sidecar file."""
    for name in ("a.mp4", "a.mkv"):
        shutil.copy(finished_batch.targets / name, tmp_path)
    return shutil.copytree(finished_batch.out, tmp_path / "out")


def run_verify(capsys: pytest.CaptureFixture[str], *files: Path | str) -> tuple[int, str]:
    capsys.readouterr()
    return main(["verify", *map(str, files)]), capsys.readouterr().out


def test_contents_of_a_mark_are_printed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "a.mkv"):
        code, text = run_verify(capsys, results / name)
        assert code == 0
        for part in (
            f"{name}: marked, and unchanged since it was signed",
            f"made from {name}, SHA-256 ",
            "edited (colab_helpers ",
            "Faces swapped and enhanced by AI; compositeWithTrainedAlgorithmicMedia; inswapper_128, GFPGAN",
            "signed by colab_helpers local signer (colab_helpers, made locally: cannot show who signed), ",
            "its metadata says: compositeWithTrainedAlgorithmicMedia",
        ):
            assert part in text
    code, text = run_verify(capsys, results / "a.mp4", results.parent / "a.mkv")
    assert code == 1
    assert "a.mkv: not marked" in text


def test_changed_file_and_lost_manifest_are_distinguished(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remuxed = results / "again.mp4"
    with av.open(str(results / "a.mp4")) as source, av.open(str(remuxed), "w") as target:
        target.metadata.update(source.metadata)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    code, text = run_verify(capsys, remuxed)
    assert (code, "its metadata says: compositeWithTrainedAlgorithmicMedia" in text) == (1, True)
    for name in ("a.mp4", "a.mkv"):
        data = bytearray((results / name).read_bytes())
        data[-30] ^= 1
        (results / name).write_bytes(data)
    code, text = run_verify(capsys, remuxed, results / "a.mp4", results / "a.mkv")
    assert code == 2
    assert text.count("the mark is invalid") == 2
    shutil.copyfile(results / "again.mp4", results / "a.mkv.c2pa")  # not a manifest
    assert run_verify(capsys, results / "a.mkv")[0] == 2


def test_remote_manifest_is_not_requested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, output = made(tmp_path / "target.jpg"), tmp_path / "a.jpg"
    created = {"action": "c2pa.created", "digitalSourceType": marking._EMPTY_SOURCE_TYPE}
    with (
        Builder(marking._definition("a", [created]), context=Context.from_dict({})) as builder,
        load_credentials(LOCAL).signer() as signer,
    ):
        builder.set_no_embed()
        builder.set_remote_url("http://manifests.invalid/a")
        with target.open("rb") as source, output.open("w+b") as written:
            builder.sign(signer, "image/jpeg", source, written)
    code, text = run_verify(capsys, output)
    assert (code, "http://manifests.invalid/a" in text) == (1, True)


def test_control_characters_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, output = made(tmp_path / "target.jpg"), tmp_path / "a\x1b[2K.jpg"
    fake = "signed by Ana, vouched for by a trusted certificate"
    created = {"action": "c2pa.created", "digitalSourceType": marking._EMPTY_SOURCE_TYPE}
    edited = {"action": "c2pa.edited", "description": f"x\r\n  {fake}\x1b[8m\u202e\u2028"}
    definition = marking._definition("a", [created, edited])
    with (
        Builder(definition, context=Context.from_dict({})) as builder,
        load_credentials(LOCAL).signer() as signer,
        target.open("rb") as source,
        output.open("w+b") as written,
    ):
        builder.sign(signer, "image/jpeg", source, written)
    code, text = run_verify(capsys, output)
    assert code == 0
    assert text.startswith("a\\x1b[2K.jpg: marked")
    assert rf"edited; x\r\n  {fake}\x1b[8m\u202e\u2028" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_unusual_and_unreadable_manifests(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = {"name": "Editor", "version": "2", "icon": {"format": "image/png"}}
    assert verify._action_text({"action": "c2pa.edited", "softwareAgent": agent}) == "edited (Editor 2)"

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(MediaError, match="Permission denied"):
        verify.verify(results / "a.mkv", anchors=b"")


def test_trusted_certificates_can_be_given(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    anchor = tmp_path / "anchor.pem"
    anchor.write_bytes(local_anchor())
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "other machine"))
    code, text = run_verify(capsys, results / "a.mp4")
    assert (code, "not vouched for by any trusted certificate" in text) == (0, True)
    assert not (home() / LOCAL_NAME).exists()
    code, text = run_verify(capsys, results / "a.mp4", "--trust", anchor)
    assert (code, "vouched for by a trusted certificate" in text) == (0, True)
    anchor.write_text("hello")
    assert main(["verify", str(results / "a.mp4"), "--trust", str(anchor)]) == 2


def test_verify_takes_all_files_of_a_batch(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run_verify(capsys, *sorted(results.iterdir()))
    media = [path.name for path in results.iterdir() if path.stem == "a" and path.suffix != ".c2pa"]
    assert (code, len(media), text.count("marked, and unchanged")) == (0, 6, 6)
    for name in ("report.json", "a.mkv.c2pa", "faces"):
        assert f"{name} skipped: not an image or video" in text
    assert run_verify(capsys, results)[1].count("marked, and unchanged") == 6
    (results / "0.mp4").touch()  # empty; the others are still verified
    code, text = run_verify(capsys, results / "0.mp4", *results.glob("a.*"))
    assert (code, text.count("marked, and unchanged")) == (2, 6)
    assert run_verify(capsys, results / "report.json")[0] == 1


def test_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "x.mp4")]) == 2
    assert str(tmp_path / "x.mp4") in capsys.readouterr().err
