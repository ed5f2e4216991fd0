from __future__ import annotations

import hashlib
import io
import os
import resource
import shutil
import stat
import struct
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from c2pa import C2paError
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from colab_helpers.__main__ import main
from colab_helpers.batch import drive, run_file
from colab_helpers.batch.keys import work_key
from colab_helpers.batch.report import KEPT
from colab_helpers.command_line import WRONG_USAGE
from colab_helpers.errors import MediaError, OutputError, SettingsError
from colab_helpers.files import hidden_name, sha256_of
from colab_helpers.machine import home
from colab_helpers.media.containers import file_tags
from colab_helpers.trust import signing
from colab_helpers.trust.certificates import read_certificates
from colab_helpers.trust.manifests import Claim, copy_with_gap, sidecar
from colab_helpers.trust.marking import (
    COMPOSITE_SOURCE_TYPE,
    DIGEST,
    NETWORKS,
    Marks,
    load_checked_credentials,
    seal_generated,
)
from colab_helpers.trust.records import ContentDecision
from colab_helpers.trust.signing import LOCAL, LOCAL_NAME, Credentials, load_credentials, local_anchor
from tests.helpers.marks import (
    FaultInjector,
    KilledError,
    actions,
    certificate,
    made,
    marks,
    media,
    published,
    read_mark,
    rsa_key,
)
from tests.helpers.processes import CPU
from tests.media.make import Sound, Spec, make

PICTURES = (".jpg", ".png", ".webp", ".gif", ".tif", ".avif", ".bmp")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", *PICTURES])
def test_mark_in_every_format_is_valid_for_its_bytes_only(suffix: str, tmp_path: Path) -> None:
    target = made(tmp_path / f"target{suffix}")
    output = published(target, tmp_path / "out" / f"result{suffix}")
    assert media(output) == media(target)
    manifest = sidecar(output)
    assert (manifest is not None) == (suffix in (".mkv", ".bmp"))
    assert {*output.parent.iterdir()} == {output, manifest or output}
    assert read_mark(output, beside=manifest)[0] == "Valid"
    state, store = read_mark(output, beside=manifest, anchor=local_anchor())
    assert state == "Trusted"
    opened, edited = actions(store)
    assert opened["parameters"][DIGEST] == sha256_of(target)
    assert store["manifests"][store["active_manifest"]]["ingredients"][0]["title"] == target.name
    assert (edited["action"], edited["digitalSourceType"]) == ("c2pa.edited", COMPOSITE_SOURCE_TYPE)
    assert edited["parameters"][NETWORKS] == ["one", "two"]
    assert edited["description"] == "Faces swapped and enhanced by AI"
    data = bytearray(output.read_bytes())
    data[len(data) - 60 if suffix != ".mp4" else data.index(b"mdat") + 90] ^= 1
    output.write_bytes(data)
    assert read_mark(output, beside=manifest, anchor=local_anchor())[0] == "Invalid"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_mark_of_the_target_is_kept_as_ingredient(suffix: str, tmp_path: Path) -> None:
    first = published(made(tmp_path / f"target{suffix}"), tmp_path / f"first{suffix}")
    by = marks(first, target_manifest=sidecar(first))
    _, store = read_mark(published(made(tmp_path / "new.mov"), tmp_path / "second.mov", by=by))
    (ingredient,) = store["manifests"][store["active_manifest"]]["ingredients"]
    kept = store["manifests"][ingredient["active_manifest"]]
    assert kept["title"] == first.name
    assert [one["title"] for one in kept["ingredients"]] == [f"target{suffix}"]


def test_target_with_wrong_suffix_is_named_in_the_mark(tmp_path: Path) -> None:
    odd = tmp_path / "odd.jpg"
    odd.write_bytes(b"\xff\xd8\xffno picture")
    output, by = tmp_path / "a.mp4", marks(odd)
    make(tmp_path / ".a.mp4", Spec(frames=2)).rename(output)
    by.seal(output, output, ["swap"])
    state, store = read_mark(output)
    assert (state, actions(store)[0]["parameters"][DIGEST]) == ("Valid", sha256_of(odd))


def test_unchanged_result_has_no_edit_action(tmp_path: Path) -> None:
    output = published(made(tmp_path / "target.mp4"), tmp_path / "a.mp4", actions=())
    assert [one["action"] for one in actions(read_mark(output)[1])] == ["c2pa.opened", "c2pa.transcoded"]
    assert (marks(output).comment(()), marks(output).parts(())) == ("", {})


def test_blurred_faces_are_not_marked_as_ai_generated(tmp_path: Path) -> None:
    output = published(made(tmp_path / "target.mp4"), tmp_path / "a.mp4", actions=["blur"])
    _, edited = actions(read_mark(output)[1])
    assert "digitalSourceType" not in edited
    assert (edited["description"], edited.get("parameters")) == ("Faces made unrecognisable", None)
    assert ("by AI" in marks(output).comment(["blur"]), marks(output).parts(["blur"])) == (False, {})
    both = marks(output).comment(["blur", "swap", "enhance"])
    assert both.startswith("Faces swapped and enhanced by AI; Faces made unrecognisable (")


def test_mark_names_only_the_used_networks(tmp_path: Path) -> None:
    output = published(made(tmp_path / "target.mp4"), tmp_path / "a.mp4", actions=["enhance"])
    _, edited = actions(read_mark(output)[1])
    assert (edited["description"], edited["parameters"][NETWORKS]) == ("Faces enhanced by AI", ["two"])
    assert COMPOSITE_SOURCE_TYPE in marks(output).parts(["enhance"])["xmp"].decode()


def test_batch_results_are_marked_and_reported(finished_batch) -> None:
    assert len(finished_batch.report.files) == 6
    for file in finished_batch.report.files:
        output = Path(str(file.output))
        state, store = read_mark(output, beside=sidecar(output), anchor=local_anchor())
        assert (state, actions(store)[0]["parameters"][DIGEST]) == ("Trusted", sha256_of(Path(file.target)))
        assert actions(store)[1]["parameters"][NETWORKS] == ["inswapper_128", "GFPGANv1.4"]
        assert file.mark is not None
        assert (file.mark.beside, file.mark.made_here) == (output.suffix in (".mkv", ".bmp"), True)
    for name, kind in (("a.png", "XML:com.adobe.xmp"), ("a.webp", "xmp"), ("a.jpg", "xmp")):
        with Image.open(finished_batch.out / name) as image:
            assert COMPOSITE_SOURCE_TYPE in str(image.info[kind])
    for name in ("a.mp4", "a.mkv"):
        with av.open(str(finished_batch.out / name)) as container:
            (comment,) = (text for key, text in container.metadata.items() if key.lower() == "comment")
        assert comment.startswith("shot in Lima; Faces swapped and enhanced by AI (colab_helpers ")
        assert file_tags({"COMMENT": comment}, comment=comment.partition("; ")[2]) == {"COMMENT": comment}
    page = (finished_batch.out / "report.html").read_text()
    assert page.count("in the file, signed with the certificate made on this machine") == 4
    assert page.count("in a sidecar file, signed with the certificate made on this machine") == 2


def test_result_without_its_manifest_is_made_again(batch, finished_batch, tmp_path: Path) -> None:
    out = shutil.copytree(finished_batch.out, tmp_path / "out")
    (out / "a.mkv.c2pa").unlink()
    shutil.copyfile(finished_batch.out / "a.mkv.c2pa", out / "a.bmp.c2pa")  # as after a crash between the two
    settings = CPU.with_overrides(segment_seconds=1.0)
    targets = [finished_batch.targets / f"a.{suffix}" for suffix in ("mkv", "bmp", "mp4")]
    again = batch(*targets, sources=finished_batch.report.files[0].source, settings=settings)
    kept = [KEPT in file.fallbacks for file in again.files]
    assert kept == [False, False, True]
    for name in ("a.mkv", "a.bmp"):
        assert read_mark(out / name, beside=sidecar(out / name))[0] == "Valid"


def test_failed_result_does_not_replace_an_earlier_manifest(
    batch, finished_batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished_batch.out, tmp_path / "out")
    targets = [finished_batch.targets / "a.bmp", made(tmp_path / "b.bmp")]
    settings = CPU.with_overrides(colour_match=False)
    seal = Marks.seal

    def broken(self: Marks, partial: Path, output: Path, actions: Sequence[str]) -> None:
        seal(self, partial, output, actions)
        raise MediaError("broken", where="", remedy="")

    with monkeypatch.context() as patch:
        patch.setattr(Marks, "seal", broken)
        failed = batch(*targets, settings=settings)
    assert [file.status for file in failed.files] == ["failed", "failed"]
    assert (out / "a.bmp.c2pa").read_bytes() == (finished_batch.out / "a.bmp.c2pa").read_bytes()
    assert not (out / "b.bmp.c2pa").exists()
    assert batch(*targets, settings=settings).ok
    for name in ("a.bmp", "b.bmp"):
        assert read_mark(out / name, beside=sidecar(out / name))[0] == "Valid"


def test_sidecar_is_copied_to_drive_before_the_result(
    batch, faceless_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def copy_out(source: Path, target: Path, **given: object) -> str:
        digest = drive.copy_out(source, target, **given)
        copied.append(target.name)
        return digest

    monkeypatch.setattr(run_file, "copy_out", copy_out)
    (file,) = batch(made(tmp_path / "target.mkv"), work_dir=tmp_path / "work").files
    assert copied == ["target.mkv.c2pa", "target.mkv"]
    output = Path(file.output)
    assert read_mark(output, beside=sidecar(output))[0] == "Valid"
    settings = CPU.with_overrides(frame_processors="face_enhancer")
    options = {"sources": (), "models_dir": faceless_models, "work_dir": tmp_path / "work"}
    (file,) = batch(Path(file.target), settings=settings, **options).files
    assert (file.mark, sidecar(output).exists()) == (None, False)
    assert sha256_of(output) == sha256_of(Path(file.target))


def test_copied_target_is_not_marked(batch, faceless_models: Path, tmp_path: Path) -> None:
    settings = CPU.with_overrides(frame_processors="face_enhancer", skip_audio=True)
    target, video = made(tmp_path / "target.png"), made(tmp_path / "target.mp4")
    marked = published(made(tmp_path / "own.bmp"), tmp_path / "marked.bmp")
    options = {"sources": (), "models_dir": faceless_models, "settings": settings}
    copied, stored, kept = batch(target, video, marked, **options).files
    assert read_mark(Path(kept.output), beside=sidecar(Path(kept.output)))[0] == "Valid"
    assert (kept.mark, kept.manifest) == (None, sha256_of(tmp_path / "marked.bmp.c2pa"))
    assert Path(copied.output).read_bytes() == target.read_bytes()
    assert copied.mark is None
    assert [one["action"] for one in actions(read_mark(Path(stored.output))[1])][1:] == ["c2pa.transcoded"]


def test_symbolic_links_in_the_output_folder_are_not_followed(batch, finished_batch, tmp_path: Path) -> None:
    own, out = tmp_path / "own.txt", tmp_path / "out"
    own.write_text("mine")
    out.mkdir()
    parts = [hidden_name(out / name) for name in ("a.mp4", "a.mkv", "a.png", "a.mkv.c2pa")]
    for name in (*parts, hidden_name(parts[0]), out / f".report.json.{os.getpid()}.part"):
        (out / name).symlink_to(own)
    assert batch(*(finished_batch.targets / f"a.{suffix}" for suffix in ("mp4", "mkv", "png"))).ok
    assert own.read_text() == "mine"
    for name in ("a.mp4", "a.mkv", "a.png"):
        assert read_mark(out / name, beside=sidecar(out / name))[0] == "Valid"
    (out / "journal.jsonl").rename(tmp_path / "journal.jsonl")
    (out / "journal.jsonl").symlink_to(own)
    with pytest.raises(OutputError, match="symbolic links"):
        batch(finished_batch.targets / "a.png")
    assert own.read_text() == "mine"


@pytest.fixture(scope="module")
def killer() -> FaultInjector:
    return FaultInjector()  # an audit hook cannot be removed


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_killed_run_never_leaves_an_unmarked_result(
    suffix: str, tmp_path: Path, killer: FaultInjector
) -> None:
    target, by = made(tmp_path / f"target{suffix}"), load_credentials(LOCAL)
    for step in count(1):
        output = tmp_path / str(step) / f"result{suffix}"
        try:
            with killer.before(step):
                published(target, output, by=marks(target, signed_by=by))
        except KilledError:
            if output.exists():
                assert read_mark(output, beside=sidecar(output))[0] == "Valid"
            continue
        break
    assert step > 8
    assert list((tmp_path / "7").iterdir()), "no file was written"
    assert read_mark(output, beside=sidecar(output))[0] == "Valid"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_interrupted_signing_leaves_no_file(suffix: str, tmp_path: Path) -> None:
    target, beats = made(tmp_path / f"target{suffix}"), list[None]()
    published(target, tmp_path / f"complete{suffix}", by=marks(target, heartbeat=lambda: beats.append(None)))

    def interrupt_at(at: int) -> Callable[[], None]:
        calls = count(1)

        def heartbeat() -> None:
            if next(calls) == at:
                raise KeyboardInterrupt

        return heartbeat

    for at in {1, 2, len(beats) // 2, len(beats) - 1, len(beats)}:
        with pytest.raises(KeyboardInterrupt):
            published(target, tmp_path / "out" / f"a{suffix}", by=marks(target, heartbeat=interrupt_at(at)))
        assert list((tmp_path / "out").iterdir()) == []


def test_file_that_cannot_be_marked_is_not_written(tmp_path: Path) -> None:
    broken = tmp_path / "a.mp4"
    flags = {"movflags": "frag_keyframe+empty_moov"}
    parts = make(tmp_path / "parts.mp4", Spec(container=flags)).read_bytes()
    for data in (b"no video", b"", b"\0\0\0\x10moov" + bytes(8), b"\0\0\0\x08ftyp\0\0\0\x09", parts):
        broken.write_bytes(data)
        with pytest.raises(MediaError, match="cannot be marked"):
            published(broken, tmp_path / "out" / "a.mp4")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".png"])
def test_full_disk_leaves_no_result(suffix: str, tmp_path: Path) -> None:
    target, before = made(tmp_path / f"target{suffix}"), resource.getrlimit(resource.RLIMIT_FSIZE)
    by = marks(target)
    resource.setrlimit(resource.RLIMIT_FSIZE, (target.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OutputError, match="File too large"):
            published(target, tmp_path / "out" / f"b{suffix}", by=by)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("flags", [{}, {"movflags": "faststart"}])
def test_movie_box_before_and_after_the_data_can_be_marked(flags: dict[str, str], tmp_path: Path) -> None:
    tags = {"comment": "x" * 400_000}  # larger than a read block
    target = make(tmp_path / "a.mp4", Spec(frames=60, sounds=(Sound(),), metadata=tags, container=flags))
    output = published(target, tmp_path / "b.mp4")
    assert media(output) == media(target)
    assert read_mark(output)[0] == "Valid"


def test_chunk_offsets_are_shifted_by_the_gap() -> None:
    def box(kind: bytes, *parts: bytes) -> bytes:
        return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)

    def movie(*offsets: int) -> bytes:
        tables = [box(kind, struct.pack(f">II2{digits}", 0, 2, *offsets)) for kind, digits in KINDS]
        return box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd"), *(
            box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table)))) for table in tables
        )) + struct.pack(">I4sQ", 1, b"mdat", 20) + b"abcd" + box(b"mfra")  # fmt: skip

    KINDS, gap = ((b"stco", "I"), (b"co64", "Q")), 1000
    written = io.BytesIO()
    begin, digest = copy_with_gap(io.BytesIO(movie(2, 70_000)), written, gap, lambda: None)
    expected, data = movie(1002, 71_000), written.getvalue()
    assert (begin, data[:12], data[12:1012], data[1012:]) == (12, expected[:12], bytes(gap), expected[12:])
    moov, end = struct.pack(">Q", 1012), len(expected) - 28
    bound = moov + expected[12:end] + struct.pack(">Q", end + gap) + expected[end:-8]
    assert digest == hashlib.sha256(bound).digest()
    with pytest.raises(ValueError, match="overflow"):
        copy_with_gap(io.BytesIO(movie(2, 2**32 - 1000)), io.BytesIO(), gap, lambda: None)


@pytest.mark.parametrize("state", [None, "refused"])
def test_result_is_not_marked_before_its_content_is_allowed(state: str | None, tmp_path: Path) -> None:
    target = made(tmp_path / "target.png")
    check = SimpleNamespace(decision=state and ContentDecision(state=state))
    with pytest.raises(RuntimeError, match="only after its target was checked and allowed"):
        published(target, tmp_path / "out" / "a.png", by=marks(target, content=check))
    assert list((tmp_path / "out").iterdir()) == []


def test_local_key_is_readable_only_by_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "home"))
    old = os.umask(0)
    try:
        credentials = load_credentials(LOCAL)
    finally:
        os.umask(old)
    path = home() / LOCAL_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_credentials(LOCAL) == credentials
    assert credentials.key.decode().strip() in path.read_text()
    assert "PRIVATE" not in repr(credentials)
    assert credentials.local


def test_local_certificate_replaced_by_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "home"))
    local = load_checked_credentials(LOCAL)
    assert Credentials(*read_certificates((home() / LOCAL_NAME).read_bytes()), True) == local

    def fail(_claim: Claim) -> bytes:
        raise C2paError("no")

    monkeypatch.setattr(Claim, "sign", fail)
    assert load_checked_credentials(LOCAL) == local
    certificate(home() / LOCAL_NAME)
    signing._read.cache_clear()
    with pytest.raises(SettingsError):
        load_checked_credentials(LOCAL)


@pytest.mark.parametrize(
    "key",
    [*(ec.generate_private_key(kind) for kind in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())),
     ed25519.Ed25519PrivateKey.generate()],
)  # fmt: skip
def test_all_key_types_can_sign(key, tmp_path: Path) -> None:
    anchor = certificate(tmp_path / "own.pem", key=key)
    target = made(tmp_path / "target.png")
    by = marks(target, signed_by=load_checked_credentials(str(tmp_path / "own.pem")))
    assert read_mark(published(target, tmp_path / "a.png", by=by), anchor=anchor)[0] == "Trusted"


def test_key_may_precede_the_certificates(tmp_path: Path) -> None:
    certificate(own := tmp_path / "own.pem")
    chain, mark, key = own.read_text().partition("-----BEGIN PRIVATE")
    (tmp_path / "other.pem").write_text(mark + key + chain)
    assert load_checked_credentials(str(tmp_path / "other.pem")).key == load_credentials(str(own)).key


def test_users_certificate_signs_with_its_name(batch, tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    anchor = certificate(own, key=rsa_key())
    settings = CPU.with_overrides(signing_certificate=str(own))
    (file,) = batch(made(tmp_path / "target.png"), settings=settings).files
    assert read_mark(Path(file.output))[0] == "Valid"
    assert read_mark(Path(file.output), anchor=anchor)[0] == "Trusted"
    assert (file.mark.signed_by, file.mark.made_here) == ("Ana Ruiz", False)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    secret = own.read_text().partition("PRIVATE KEY-----\n")[2]
    assert not any(line.encode() in written for line in secret.splitlines()[:-1])


def _mismatched(path: Path) -> None:
    certificate(path)
    chain = path.read_text().partition("-----BEGIN PRIVATE")[0]
    certificate(path)
    path.write_text(chain + "".join(path.read_text().partition("-----BEGIN PRIVATE")[1:]))


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
def test_unsuitable_certificate_is_refused_before_any_work(
    write, photo: Path, constant_models: Path, consent: str, tmp_path: Path, capsys
) -> None:
    load_checked_credentials(LOCAL)
    write(own := tmp_path / "own.pem")
    target = made(tmp_path / "target.png")
    code = main([
        *("swap", "-s", str(photo), "-t", str(target), "-o", str(tmp_path / "out.png"), "--consent", consent),
        *("--models-dir", str(constant_models), "--signing-certificate", str(own)),
    ])  # fmt: skip
    assert code == WRONG_USAGE
    assert str(own) in (error := capsys.readouterr().err)
    assert "PRIVATE" not in error
    assert not (tmp_path / "out.png").exists()


def test_work_key_does_not_depend_on_the_certificate() -> None:
    given = {"target": "", "sources": [], "person_filter": [], "models": {}, "encoder": ""}
    assert work_key(settings=CPU, **given) == work_key(
        settings=CPU.with_overrides(signing_certificate="own.pem"), **given
    )


def test_marking_changes_no_pixels_or_packets(
    batch, finished_batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Marks, "seal", lambda *_, **__: None)
    monkeypatch.setattr(Marks, "comment", lambda *_, **__: "")
    monkeypatch.setattr(Marks, "parts", lambda *_, **__: {})
    names = ["a.mp4", "a.png"]
    settings = CPU.with_overrides(segment_seconds=1.0)
    assert batch(*(finished_batch.targets / name for name in names), settings=settings).ok
    for name in names:
        assert media(finished_batch.out / name) == media(tmp_path / "out" / name)
        assert sha256_of(finished_batch.out / name) != sha256_of(tmp_path / "out" / name)


def test_generated_picture_that_cannot_be_signed_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Claim, _path: Path, signed: Path, _heartbeat: Callable[[], None]) -> None:
        signed.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Claim, "embed", full)
    (tmp_path / ".a.part.png").write_bytes(b"picture")
    with pytest.raises(OSError, match="No space left"):
        seal_generated(tmp_path / ".a.part.png", description="x", network="y")
    assert [path.name for path in tmp_path.iterdir()] == [".a.part.png"]
