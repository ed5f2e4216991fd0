from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from colab_helpers.errors import LicenceError, ModelError
from colab_helpers.models import half
from colab_helpers.models.preload import PreloadReport, preload, preview
from colab_helpers.models.session import STANDIN_KEY
from colab_helpers.models.transfer import FetchOptions
from colab_helpers.settings import Settings
from tests.helpers.gpu import pretend_gpu
from tests.helpers.networks import small_inswapper
from tests.helpers.server import FaultServer
from tests.models.conftest import BODY, QUICK, assert_right, sha256

ROLES = {
    "buffalo_l/det_10g": "detector",
    "buffalo_l/w600k_r50": "recogniser",
    "inswapper_128": "swapper",
    "GFPGANv1.4": "enhancer",
}
NAMES = list(ROLES)
RESTRICTED = {
    "name": "Research",
    "link": "https://x.example",
    "non_commercial": True,
    "forbids": "Selling.",
}


ACCEPTING = FetchOptions(accept_licences=True, limits=QUICK)
PLAIN = FetchOptions(limits=QUICK)


def body_of(name: str) -> bytes:
    return BODY + name.encode()


@pytest.fixture
def models(server: FaultServer) -> dict[str, Any]:
    """The four default models, served from this machine; inswapper with a restricted licence."""
    entries = {}
    for name, role in ROLES.items():
        body = body_of(name)
        server.add(f"/{name}", body)
        licence = RESTRICTED if name == "inswapper_128" else "mit"
        entries[name] = {
            "role": role,
            "urls": server.url(f"/{name}"),
            "sha256": sha256(body),
            "bytes": len(body),
            "licence": licence,
        }
    return entries


def test_preload(tmp_path: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLAB_HELPERS_MODELS", str(tmp_path))
    report = preload(Settings(), ACCEPTING, models_dir=tmp_path, user_models=models)
    assert [file.name for file in report.files] == NAMES
    assert {file.source for file in report.files} == {"downloaded"}
    for file in report.files:
        assert (file.path, file.sha256) == (tmp_path / f"{file.name}.onnx", sha256(body_of(file.name)))
        assert (file.licence_accepted_at is not None) == file.non_commercial == (file.name == "inswapper_128")
        assert_right(tmp_path, body_of(file.name), file.name)
    assert PreloadReport.model_validate_json(report.model_dump_json()) == report
    again = preload(Settings(), FetchOptions(offline=True), user_models=models)
    assert {file.source for file in again.files} == {"present"}


def test_swapper_only_needs_no_enhancer(tmp_path: Path, models: dict[str, Any]) -> None:
    settings = Settings(frame_processors=("face_swapper",))
    report = preload(settings, ACCEPTING, models_dir=tmp_path, user_models=models)
    assert [file.name for file in report.files] == NAMES[:3]


def test_licence_is_asked_for_before_anything_is_fetched(tmp_path: Path, models: dict[str, Any]) -> None:
    with pytest.raises(LicenceError, match="inswapper_128"):
        preload(Settings(), PLAIN, models_dir=tmp_path, user_models=models)
    assert list(tmp_path.iterdir()) == []


def test_preview(tmp_path: Path, models: dict[str, Any]) -> None:
    (tmp_path / "inswapper_128.onnx").write_bytes(body_of("inswapper_128"))
    found = preview(Settings(), models_dir=tmp_path, user_models=models)
    assert found.missing == {name: len(body_of(name)) for name in NAMES if name != "inswapper_128"}
    assert len(found.licences.splitlines()) == 4


@pytest.mark.parametrize("name", ["no_such_net", "hyperswap_1a_256"])
def test_a_model_that_cannot_be_run_is_refused_before_anything_is_planned(tmp_path: Path, name: str) -> None:
    settings = Settings(swapper_model=name)
    with pytest.raises(ModelError, match=f"{name}: there is no swapper of that name"):
        preview(settings, models_dir=tmp_path)
    with pytest.raises(ModelError, match=f"{name}: there is no swapper of that name"):
        preload(settings, PLAIN, models_dir=tmp_path)


def test_stand_ins_are_left_alone(tmp_path: Path, models: dict[str, Any]) -> None:
    path = tmp_path / "inswapper_128.onnx"
    path.write_bytes(b"\x00" * 100 + STANDIN_KEY.encode() + b"\x00" * 100)
    with pytest.raises(ModelError, match="stand-in"):
        preload(Settings(), ACCEPTING, models_dir=tmp_path, user_models=models)
    assert list(tmp_path.iterdir()) == [path]


def test_preview_of_the_shipped_catalogue(tmp_path: Path) -> None:
    found = preview(Settings(), models_dir=tmp_path)
    assert list(found.missing.items()) == list(
        zip(NAMES, (16_923_827, 174_383_860, 555_303_150, 340_299_087), strict=True)
    )
    assert "InsightFace" in found.licences


# --- files that are there without being in the catalogue ----------------------------------------------


def own_swapper(folder: Path) -> Settings:
    onnx.save(small_inswapper(), folder / "my_swapper.onnx")
    return Settings(swapper_model="my_swapper", frame_processors=("face_swapper",))


def test_an_own_file_in_the_folder_needs_no_entry(tmp_path: Path, models: dict[str, Any]) -> None:
    settings = own_swapper(tmp_path)
    report = preload(settings, PLAIN, models_dir=tmp_path, user_models=models)
    own = report.files[-1]
    assert (own.name, own.role, own.source, own.sha256) == (
        "my_swapper",
        "swapper",
        "present",
        sha256((tmp_path / "my_swapper.onnx").read_bytes()),
    )
    assert (own.licence, own.origin) == ("your own file", "")
    assert report.notes == (
        "my_swapper: not in the catalogue; the file that is there is used, its origin and licence are "
        "not known",
    )
    assert_right(tmp_path, small_inswapper().SerializeToString(), "my_swapper")
    found = preview(settings, models_dir=tmp_path, user_models=models)
    assert "my_swapper" not in found.missing
    assert "Whatever the maker of the weights forbids" in found.licences


# --- on a GPU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["auto", "cpu"])
def test_models_are_made_to_fit_a_gpu_once_for_all_machines(
    tmp_path: Path, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    pretend_gpu(monkeypatch)
    made_here = []
    write = half.write_half
    monkeypatch.setattr(half, "write_half", lambda *given: made_here.append(given) or write(*given))
    options = FetchOptions(limits=QUICK, shared_cache=tmp_path / "drive")
    for machine in ("one", "two"):
        root = tmp_path / machine
        root.mkdir()
        settings = own_swapper(root).with_overrides(execution_provider=provider)
        report = preload(settings, options, models_dir=root, user_models=models)
        made = list((root / "converted").glob("my_swapper-half-*.onnx"))
        assert len(made) == (provider == "auto")
        assert any("compared on this GPU, once" in note for note in report.notes) == (provider == "auto")
    assert len(made_here) == (provider == "auto")
