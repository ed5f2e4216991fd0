from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from colab_helpers.__main__ import main
from colab_helpers.command_line import WRONG_USAGE
from colab_helpers.errors import LicenceError, ModelError
from colab_helpers.models.catalog import load_catalog
from colab_helpers.models.download import FetchOptions
from colab_helpers.models.preload import PreloadReport, preload
from colab_helpers.models.session import STANDIN_KEY
from colab_helpers.settings import Settings
from tests.helpers.networks import small_inswapper
from tests.helpers.server import FaultServer
from tests.models.conftest import BODY, FREE, QUICK, RESTRICTED, assert_fetched, model, put, sha256, source

NAMES = ["buffalo_l/det_10g", "buffalo_l/w600k_r50", "inswapper_128", "GFPGANv1.4"]
MASKS = ["xseg_1", "bisenet_resnet_34"]
CONTENT = ["nsfw_2", "buffalo_l/genderage"]
ACCEPTING = FetchOptions(accept_licences=True, limits=QUICK)
PLAIN = FetchOptions(limits=QUICK)


def body_of(name: str) -> bytes:
    return BODY + name.encode()


@pytest.fixture
def served(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve default, mask and content models locally; inswapper has a restricted licence."""
    known = load_catalog()
    models = dict(known.models)
    for name in NAMES + MASKS + CONTENT:
        server.add(f"/{name}", body_of(name))
        licence = RESTRICTED if name == "inswapper_128" else FREE
        local = {"sources": (source(server.url(f"/{name}"), body=body_of(name)),), "licence": licence}
        models[name] = models[name].model_copy(update=local)
    found = type(known)(known.licences, models)
    monkeypatch.setattr("colab_helpers.models.preload.load_catalog", lambda: found)


@pytest.mark.usefixtures("served")
def test_preload_fetches_the_models_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_HELPERS_MODELS", str(tmp_path))
    report = preload(Settings(), ACCEPTING, models_dir=tmp_path)
    assert [file.name for file in report.files] == NAMES + CONTENT
    assert {file.source for file in report.files} == {"downloaded"}
    for file in report.files:
        assert (file.path, file.record.sha256) == (tmp_path / f"{file.name}.onnx", sha256(body_of(file.name)))
        assert (file.record.licence_accepted_at is not None) == (file.name == "inswapper_128")
        assert_fetched(tmp_path, body_of(file.name), file.name)
    assert PreloadReport.model_validate_json(report.model_dump_json()) == report
    again = preload(Settings(frame_processors=("face_swapper",)), FetchOptions(offline=True))
    assert [(file.name, file.source) for file in again.files] == [
        (name, "present") for name in NAMES[:3] + CONTENT
    ]


@pytest.mark.usefixtures("served")
def test_mask_models_are_fetched_on_request(tmp_path: Path) -> None:
    settings = Settings(face_mask_types=("box", "occlusion", "region"))
    report = preload(settings, ACCEPTING, models_dir=tmp_path)
    assert [file.name for file in report.files] == NAMES + MASKS + CONTENT


@pytest.mark.usefixtures("served")
def test_licences_are_checked_before_any_download(tmp_path: Path) -> None:
    with pytest.raises(LicenceError, match="inswapper_128"):
        preload(Settings(), PLAIN, models_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["no_such_net", "uniface_256"])
def test_unsupported_model_is_refused_before_planning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(ModelError, match=f"{name}: the catalogue has no swapper of that name"):
        preload(Settings(swapper_model=name), PLAIN, models_dir=tmp_path)
    assert main(["preload", "--models-dir", str(tmp_path), "--swapper-model", name]) == WRONG_USAGE
    assert f"{name}: the catalogue has no swapper of that name" in capsys.readouterr().err


@pytest.mark.usefixtures("served")
def test_stand_ins_are_refused_and_kept(tmp_path: Path) -> None:
    path = put(tmp_path, b"\x00" * 100 + STANDIN_KEY.encode() + b"\x00" * 100, "inswapper_128.onnx")
    with pytest.raises(ModelError, match="stand-in"):
        preload(Settings(), ACCEPTING, models_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def own_swapper(folder: Path) -> Settings:
    onnx.save(small_inswapper(), folder / "my_swapper.onnx")
    return Settings(swapper_model="my_swapper", frame_processors=("face_swapper",))


@pytest.mark.usefixtures("served")
def test_users_own_file_needs_no_catalog_entry(tmp_path: Path) -> None:
    settings = own_swapper(tmp_path)
    report = preload(settings, PLAIN, models_dir=tmp_path)
    own = report.files[2]
    assert (own.name, own.source, own.record.licence, own.record.url) == ("my_swapper", "present", "own", "")
    assert report.notes == own.notes
    assert "origin and licence unknown" in own.notes[0]
    assert_fetched(tmp_path, small_inswapper().SerializeToString(), "my_swapper")


def test_converter_is_fetched_with_its_swapper(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = load_catalog()
    models = {}
    for name, role in (
        *((name, None) for name in NAMES[:2] + CONTENT),
        ("ghost_1_256", "swapper"),
        ("crossface_ghost", "converter"),
    ):
        server.add(f"/{name}", body_of(name))
        entry = model(source(server.url(f"/{name}"), body=body_of(name)), name=name)
        models[name] = entry.model_copy(update={"role": role or known.models[name].role})
    found = type(known)(known.licences, models)
    monkeypatch.setattr("colab_helpers.models.preload.load_catalog", lambda: found)
    settings = Settings(swapper_model="ghost_1_256", frame_processors=("face_swapper",))
    report = preload(settings, PLAIN, models_dir=tmp_path)
    assert [file.name for file in report.files] == [*NAMES[:2], "ghost_1_256", "crossface_ghost", *CONTENT]
    assert_fetched(tmp_path, body_of("crossface_ghost"), "crossface_ghost")


@pytest.mark.usefixtures("served", "gpu")
@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_models_are_converted_for_a_gpu(tmp_path: Path, provider: str) -> None:
    settings = own_swapper(tmp_path).with_overrides(execution_provider=provider)
    preload(settings, PLAIN, models_dir=tmp_path)
    made = list((tmp_path / "converted").glob("my_swapper-half-*.onnx"))
    assert len(made) == (provider == "auto")
