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
def results(done, tmp_path: Path) -> Path:
    """A marked MP4 and a marked MKV, whose manifest lies beside it."""
    for name in ("a.mp4", "a.mkv"):
        shutil.copy(done.targets / name, tmp_path)
    return shutil.copytree(done.out, tmp_path / "out")


def verified(capsys: pytest.CaptureFixture[str], *files: Path | str) -> tuple[int, str]:
    capsys.readouterr()
    return main(["verify", *map(str, files)]), capsys.readouterr().out


def test_what_a_result_says_is_told_in_words(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "a.mkv"):
        code, told = verified(capsys, results / name)
        assert code == 0
        for part in (
            f"{name}: marked, and unchanged since it was signed",
            f"made from {name}, SHA-256 ",
            "edited (colab_helpers ",
            "Faces swapped and enhanced by AI; compositeWithTrainedAlgorithmicMedia; inswapper_128, GFPGAN",
            "signed by colab_helpers local signer (colab_helpers, made locally: cannot show who signed), ",
            "its metadata says: compositeWithTrainedAlgorithmicMedia",
        ):
            assert part in told
    code, told = verified(capsys, results / "a.mp4", results.parent / "a.mkv")
    assert code == 1
    assert "a.mkv: not marked" in told


def test_a_changed_byte_and_a_lost_manifest_are_told_apart(
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
    code, told = verified(capsys, remuxed)
    assert (code, "its metadata says: compositeWithTrainedAlgorithmicMedia" in told) == (1, True)
    for name in ("a.mp4", "a.mkv"):
        data = bytearray((results / name).read_bytes())
        data[-30] ^= 1
        (results / name).write_bytes(data)
    code, told = verified(capsys, remuxed, results / "a.mp4", results / "a.mkv")
    assert code == 2
    assert told.count("the mark is invalid") == 2
    shutil.copyfile(results / "again.mp4", results / "a.mkv.c2pa")  # no manifest at all
    assert verified(capsys, results / "a.mkv")[0] == 2


def test_a_manifest_elsewhere_is_not_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    code, told = verified(capsys, output)
    assert (code, "http://manifests.invalid/a" in told) == (1, True)


def test_what_anybody_may_sign_stays_on_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    code, told = verified(capsys, output)
    assert code == 0
    assert told.startswith("a\\x1b[2K.jpg: marked")
    assert rf"edited; x\r\n  {fake}\x1b[8m\u202e\u2028" in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_odd_and_unreadable_manifests_are_told(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = {"name": "Editor", "version": "2", "icon": {"format": "image/png"}}
    assert verify._action_text({"action": "c2pa.edited", "softwareAgent": agent}) == "edited (Editor 2)"

    def denied(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(MediaError, match="Permission denied"):
        verify.verify(results / "a.mkv", anchors=b"")


def test_who_vouches_for_the_signer_can_be_named(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    anchor = tmp_path / "anchor.pem"
    anchor.write_bytes(local_anchor())
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "other machine"))
    code, told = verified(capsys, results / "a.mp4")
    assert (code, "not vouched for by any trusted certificate" in told) == (0, True)
    assert not (home() / LOCAL_NAME).exists()
    code, told = verified(capsys, results / "a.mp4", "--trust", anchor)
    assert (code, "vouched for by a trusted certificate" in told) == (0, True)
    anchor.write_text("hello")
    assert main(["verify", str(results / "a.mp4"), "--trust", str(anchor)]) == 2


def test_all_that_a_batch_leaves_can_be_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = verified(capsys, *sorted(results.iterdir()))
    media = [path.name for path in results.iterdir() if path.stem == "a" and path.suffix != ".c2pa"]
    assert (code, len(media), told.count("marked, and unchanged")) == (0, 6, 6)
    for name in ("report.json", "a.mkv.c2pa", "faces"):
        assert f"{name} skipped: not an image or video" in told
    assert verified(capsys, results)[1].count("marked, and unchanged") == 6
    (results / "0.mp4").touch()  # empty: the others are told all the same
    code, told = verified(capsys, results / "0.mp4", *results.glob("a.*"))
    assert (code, told.count("marked, and unchanged")) == (2, 6)
    assert verified(capsys, results / "report.json")[0] == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "x.mp4")]) == 2
    assert str(tmp_path / "x.mp4") in capsys.readouterr().err
