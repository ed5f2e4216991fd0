from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from colab_helpers.__main__ import WRONG_USAGE, main
from colab_helpers.errors import MediaError, OutputError
from colab_helpers.files import sha256_of, write_whole
from colab_helpers.machine import home
from colab_helpers.media.images import read_image
from colab_helpers.settings import Settings
from colab_helpers.trust import marking
from colab_helpers.trust.marking import COMPOSITE, DIGEST, NETWORKS, Marks, checked_credentials, sidecar
from colab_helpers.trust.signing import LOCAL_NAME, credentials, local_anchor
from tests.helpers.marks import actions, certificate, media, read_mark, rsa_key
from tests.helpers.processes import CPU
from tests.media.make import Sound, Spec, make, packets_of

PICTURES = (".jpg", ".png", ".webp", ".gif", ".tif", ".avif", ".bmp")


def made(folder: Path, suffix: str) -> Path:
    """A small file of a kind."""
    path = folder / f"target{suffix}"
    if suffix not in PICTURES:
        return make(path, Spec(frames=10, sounds=(Sound(),), metadata={"comment": "shot in Lima"}))
    pictures = [Image.fromarray(np.full((40, 64, 3), level, np.uint8)) for level in (30, 90, 200)]
    moving = {"save_all": True, "append_images": pictures[1:]} if suffix == ".gif" else {}
    pictures[0].save(path, **moving)
    return path


def marks(target: Path, **given: object) -> Marks:
    usual = {"signed_by": credentials(""), "done": ("swapped", "enhanced"), "networks": ["one", "two"]}
    return Marks(target=target, **(usual | given))  # type: ignore[arg-type]


def published(target: Path, output: Path, *, changed: bool = True, by: Marks | None = None) -> Path:
    """A copy of the target, marked and published as results are."""
    by = by or marks(target)
    with target.open("rb") as content:
        write_whole(output, content, lambda partial: by.seal(partial, output, changed=changed))
    return output


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", *PICTURES])
def test_every_format_holds_a_mark_that_fits_its_bytes_only(suffix: str, tmp_path: Path) -> None:
    target = made(tmp_path, suffix)
    output = published(target, tmp_path / "out" / f"result{suffix}")
    assert media(output) == media(target)
    beside = sidecar(output)
    assert (beside is not None) == (suffix in (".mkv", ".bmp"))
    assert {path.name for path in output.parent.iterdir()} == {
        output.name,
        *([beside.name] if beside else []),
    }
    assert read_mark(output, beside=beside)[0] == "Valid"
    state, store = read_mark(output, beside=beside, anchor=local_anchor())
    assert state == "Trusted"
    opened, edited = actions(store)
    assert opened["parameters"][DIGEST] == sha256_of(target)
    assert store["manifests"][store["active_manifest"]]["ingredients"][0]["title"] == target.name
    assert (edited["action"], edited["digitalSourceType"]) == ("c2pa.edited", COMPOSITE)
    assert edited["parameters"][NETWORKS] == ["one", "two"]
    assert edited["description"] == "Faces swapped and enhanced by AI"
    data = bytearray(output.read_bytes())
    data[len(data) - 60 if suffix != ".mp4" else data.index(b"mdat") + 90] ^= 1
    output.write_bytes(data)
    assert read_mark(output, beside=beside, anchor=local_anchor())[0] == "Invalid"


def test_a_mark_of_the_target_is_kept_within(tmp_path: Path) -> None:
    first = published(made(tmp_path, ".mp4"), tmp_path / "first.mp4")
    _, store = read_mark(published(first, tmp_path / "second.mp4"))
    (ingredient,) = store["manifests"][store["active_manifest"]]["ingredients"]
    kept = store["manifests"][ingredient["active_manifest"]]
    assert kept["title"] == "first.mp4"
    assert [one["title"] for one in kept["ingredients"]] == ["target.mp4"]


def test_a_target_that_is_not_what_its_name_says_is_named_all_the_same(tmp_path: Path) -> None:
    odd = tmp_path / "odd.jpg"
    odd.write_bytes(b"\xff\xd8\xffno picture")
    output, by = tmp_path / "a.mp4", marks(odd)
    make(tmp_path / ".a.mp4", Spec(frames=2)).rename(output)
    by.seal(output, output, changed=True)
    state, store = read_mark(output)
    assert (state, actions(store)[0]["parameters"][DIGEST]) == ("Valid", sha256_of(odd))


def test_what_was_not_changed_is_not_said_to_be(tmp_path: Path) -> None:
    output = published(made(tmp_path, ".mp4"), tmp_path / "a.mp4", changed=False)
    assert [one["action"] for one in actions(read_mark(output)[1])] == ["c2pa.opened", "c2pa.transcoded"]
    assert (marks(output).comment(changed=False), marks(output).xmp(changed=False)) == ("", b"")


def test_results_of_a_batch_are_marked_and_say_so_in_the_report(batch, tmp_path: Path) -> None:
    targets = [made(tmp_path, suffix) for suffix in (".mp4", ".mkv", ".png", ".webp", ".jpg", ".bmp")]
    report = batch(*targets)
    assert report.ok, report
    for file, target in zip(report.files, targets, strict=True):
        output = Path(str(file.output))
        state, store = read_mark(output, beside=sidecar(output), anchor=local_anchor())
        assert (state, actions(store)[0]["parameters"][DIGEST]) == ("Trusted", sha256_of(target))
        assert actions(store)[1]["parameters"][NETWORKS] == ["inswapper_128", "GFPGANv1.4"]
        assert file.mark is not None
        assert (file.mark.beside, file.mark.made_here) == (output.suffix in (".mkv", ".bmp"), True)
    for name, kind in (("target.png", "XML:com.adobe.xmp"), ("target.webp", "xmp"), ("target.jpg", "xmp")):
        with Image.open(tmp_path / "out" / name) as image:
            assert COMPOSITE in str(image.info[kind])
    (tmp_path / "out" / "target.mkv.c2pa").unlink()
    again = batch(*targets)
    assert [file.segments_kept for file in again.files if file.target.endswith("mkv")] == [0]
    assert (tmp_path / "out" / "target.mkv.c2pa").is_file()


def test_a_copy_of_the_target_stays_what_it_is(batch, faceless_models: Path, tmp_path: Path) -> None:
    target, video = made(tmp_path, ".png"), made(tmp_path, ".mp4")
    copied, stored = batch(target, video, models_dir=faceless_models).files
    assert Path(copied.output).read_bytes() == target.read_bytes()
    assert copied.mark is None
    assert [one["action"] for one in actions(read_mark(Path(stored.output))[1])][1:] == ["c2pa.transcoded"]


def test_the_comment_of_a_video_is_added_to(batch, tmp_path: Path) -> None:
    import av

    first = Path(batch(made(tmp_path, ".mp4")).files[0].output)
    second = Path(batch(first, out=tmp_path / "again").files[0].output)
    with av.open(str(second)) as container:
        comment = container.metadata["comment"]
    assert comment.startswith("shot in Lima; Faces swapped and enhanced by AI (colab_helpers ")
    assert comment.count(COMPOSITE) == 1


def test_an_unmarked_result_is_never_in_place_wherever_the_run_is_killed(tmp_path: Path) -> None:
    """Killed before each of its calls of the system that Python knows of, one after another."""
    for suffix in (".mp4", ".mkv"):
        target = made(tmp_path, suffix)
        steps = 0
        while True:
            steps += 1
            output = tmp_path / f"{suffix[1:]}{steps}" / f"result{suffix}"
            if _killed(lambda: published(target, output), before=steps):  # noqa: B023 - called at once
                if output.exists():
                    assert read_mark(output, beside=sidecar(output))[0] == "Valid"
                continue
            assert read_mark(output, beside=sidecar(output))[0] == "Valid"
            break
        assert steps > 12
        assert not (tmp_path / f"{suffix[1:]}8" / f"result{suffix}").exists()


def _killed(action: Callable[[], object], *, before: int) -> bool:
    """Whether a process that does this dies before so many calls; it ends by itself if there are fewer."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = before

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in {"open", "os.rename", "os.remove", "os.mkdir", "os.listdir"}:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        action()
    finally:
        os._exit(0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_stop_while_it_is_signed_leaves_nothing(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = made(tmp_path, suffix)
    monkeypatch.setattr(marking, "_BEAT_BYTES", 1000)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 4:  # the first is that of the target's digest
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        published(target, tmp_path / "out" / f"a{suffix}", by=marks(target, beat=beat))
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_marked_is_not_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(MediaError, match="cannot be marked"):
        published(broken, tmp_path / "out" / "a.mp4")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(marking._Watched, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        published(made(tmp_path, ".mp4"), tmp_path / "out" / "b.mp4")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_large_file_is_spooled_beside_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marking, "_SPOOL_MB", 0)
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    seen: set[str] = set()
    target = made(tmp_path, ".mp4")
    by = marks(target, beat=lambda: seen.add(os.environ["TMPDIR"]))
    monkeypatch.setattr(marking, "_BEAT_BYTES", 1)
    published(target, tmp_path / "out" / "a.mp4", by=by)
    assert str(tmp_path / "out") in seen
    assert os.environ["TMPDIR"] == "/elsewhere"


def test_the_key_made_here_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "home"))
    old = os.umask(0)
    try:
        found = credentials("")
    finally:
        os.umask(old)
    kept = home() / LOCAL_NAME
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert credentials("") == found
    assert found.key.decode().strip() in kept.read_text()
    assert "PRIVATE" not in repr(found)
    assert found.local


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), rsa_key()])
def test_a_certificate_of_the_users_signs_for_its_name(batch, key, tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    anchor = certificate(own, key=key)
    settings = CPU.with_overrides(signing_certificate=str(own))
    (file,) = batch(made(tmp_path, ".png"), settings=settings).files
    assert read_mark(Path(file.output))[0] == "Valid"
    assert read_mark(Path(file.output), anchor=anchor)[0] == "Trusted"
    assert (file.mark.signed_by, file.mark.made_here) == ("Ana Ruiz", False)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    secret = own.read_text().partition("PRIVATE KEY-----\n")[2]
    assert not any(line.encode() in written for line in secret.splitlines()[:-1])


def _mismatched(path: Path) -> None:
    certificate(path)
    whole = path.read_text()
    certificate(path)
    path.write_text(
        whole.partition("-----BEGIN PRIVATE")[0]
        + "".join(path.read_text().partition("-----BEGIN PRIVATE")[1:])
    )


@pytest.mark.parametrize(
    "write",
    [
        lambda path: certificate(path, days=-1),
        lambda path: certificate(path, purpose=ExtendedKeyUsageOID.SERVER_AUTH),
        lambda path: certificate(path, key=ec.generate_private_key(ec.SECP256K1())),
        lambda path: path.write_text("hello"),
        lambda path: path.write_bytes(b""),
        lambda path: shutil.copyfile(home() / LOCAL_NAME, path) and path.write_text(path.read_text()[:-300]),
        _mismatched,
    ],
)
def test_a_certificate_that_will_not_do_is_refused_before_any_work(
    write,
    photo: Path,
    constant_models: Path,
    consent: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checked_credentials("")
    write(own := tmp_path / "own.pem")
    target = made(tmp_path, ".png")
    code = main([
        *("swap", "-s", str(photo), "-t", str(target), "-o", str(tmp_path / "out.png"), "--consent", consent),
        *("--models-dir", str(constant_models), "--signing-certificate", str(own)),
    ])  # fmt: skip
    assert code == WRONG_USAGE
    assert str(own) in (told := capsys.readouterr().err)
    assert "PRIVATE" not in told
    assert not (tmp_path / "out.png").exists()


def test_the_certificate_alone_makes_no_work_be_done_again(batch, tmp_path: Path) -> None:
    target = made(tmp_path, ".mp4")
    first = batch(target)
    certificate(tmp_path / "own.pem")
    again = batch(target, settings=CPU.with_overrides(signing_certificate=str(tmp_path / "own.pem")))
    assert again.files[0].mark == first.files[0].mark
    assert "signing_certificate" in Settings.model_fields


def test_pixels_and_packets_are_those_of_a_run_that_marks_nothing(
    batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [made(tmp_path, ".mp4"), made(tmp_path, ".png")]
    marked = [Path(file.output) for file in batch(*targets).files]
    monkeypatch.setattr(Marks, "seal", lambda *_, **__: None)
    monkeypatch.setattr(Marks, "comment", lambda *_, **__: "")
    monkeypatch.setattr(Marks, "xmp", lambda *_, **__: b"")
    plain = [Path(file.output) for file in batch(*targets, out=tmp_path / "plain").files]
    assert [media(path) for path in marked] == [media(path) for path in plain]
    assert packets_of(marked[0]) == packets_of(plain[0])
    assert read_image(marked[1]).shape == (40, 64, 3)
