"""Requests: parsing, validation and defaults of values from any source."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.errors import MissingFileError, SettingsError, UsageError
from colab_helpers.request import (
    REQUESTS,
    BatchRequest,
    MonitorRequest,
    PreloadRequest,
    Request,
    SetupRequest,
    recall,
)

HERE = Path.cwd()


def test_instead_of_label_turns_label_off_unless_overridden() -> None:
    requests = [BatchRequest(), BatchRequest(instead_of_label=" in the credits ")]
    requests.append(requests[1].with_values(overrides={"visible_label": "start"}))
    shown = [(one.settings.visible_label, one.settings.disclosure) for one in requests]
    assert shown == [("always", ""), ("off", "in the credits"), ("start", "in the credits")]


def test_gpus_overrides_preset_but_not_overrides() -> None:
    cases: list[tuple[Any, dict[str, str], str]] = [("all", {}, "all"), ("", {}, ""), (0, {}, "0")]
    for raw, overrides, gpus in (*cases, ("0,1", {"gpus": "2"}, "2")):
        assert BatchRequest(gpus=raw, overrides=overrides).settings.gpus == gpus
    for raw in ("/a=/b\n\n /c=/d ", '["/a=/b", "/c=/d"]', ["/a=/b", "/c=/d"]):
        assert BatchRequest(map_paths=raw).map_paths == ("/a=/b", "/c=/d")


def test_path_with_null_character_is_refused() -> None:
    for name in ("sources", "targets", "output_dir", "library", "models_dir", "work_dir"):
        with pytest.raises(UsageError, match=rf"{name} = 'a\\x00b' is not allowed"):
            BatchRequest(**{name: "a\0b"})


@pytest.mark.parametrize(
    ("model", "name", "raw", "value"),
    [
        *(
            (PreloadRequest, "accept_licences", text, False)
            for text in ("false", "False", "no", "0", 0, "off")
        ),
        *((PreloadRequest, "accept_licences", text, True) for text in ("true", "True", "yes", "1", 1, "on")),
        (SetupRequest, "demo", "false", False),
        (PreloadRequest, "offline", "false", False),
        (BatchRequest, "headless", "no", False),
        (BatchRequest, "download", "0", False),
        (BatchRequest, "video_range", 1, "1"),
        (BatchRequest, "video_range", "007", "007"),
        (BatchRequest, "preset", 8, "8"),
        (BatchRequest, "output_dir", 2024, HERE / "2024"),
        (BatchRequest, "output_dir", "drive/MyDrive/out", HERE / "drive" / "MyDrive" / "out"),
        (BatchRequest, "output_dir", "~/x", Path.home() / "x"),
        (BatchRequest, "output_dir", "~no_such_user/x", HERE / "~no_such_user" / "x"),
        (BatchRequest, "output_dir", " ", None),
        (PreloadRequest, "shared_cache", "", None),
        (MonitorRequest, "folder", "~", Path.home()),
        (BatchRequest, "models_dir", None, None),
        (BatchRequest, "sources", "me.jpg", (str(HERE / "me.jpg"),)),
        (BatchRequest, "sources", "[a.jpg, 'b c.jpg']", (str(HERE / "a.jpg"), str(HERE / "b c.jpg"))),
        (BatchRequest, "sources", Path("/a.jpg"), ("/a.jpg",)),
        (BatchRequest, "sources", ["data:image/png;base64,AA=="], ("data:image/png;base64,AA==",)),
        (BatchRequest, "targets", [7, "~/b.mp4"], (str(HERE / "7"), str(Path.home() / "b.mp4"))),
        (BatchRequest, "targets", "", ()),
        (BatchRequest, "targets", "[]", ()),
        (BatchRequest, "session_minutes", "90", 90.0),
        (MonitorRequest, "seconds", 2, 2.0),
        (BatchRequest, "overrides", "{batch_size: 2, keep_fps: true}", {"batch_size": 2, "keep_fps": True}),
        (BatchRequest, "overrides", "", {}),
        (BatchRequest, "overrides", None, {}),
    ],
)
def test_values_are_converted_to_field_type(model: type[Request], name: str, raw: Any, value: Any) -> None:
    found = getattr(model(**{name: raw}), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("model", "name", "raw", "allowed"),
    [
        (PreloadRequest, "accept_licences", "perhaps", "true, false"),
        (PreloadRequest, "accept_licences", 2, "true, false"),
        (SetupRequest, "demo", [], "true, false"),
        (BatchRequest, "video_range", True, "text"),
        (BatchRequest, "consent", ["self"], "text"),
        (BatchRequest, "output_dir", True, "text"),
        (BatchRequest, "output_dir", ["out"], "text"),
        (BatchRequest, "sources", {"a": "b"}, "a list of text"),
        (BatchRequest, "targets", [None], "a list of text"),
        (BatchRequest, "targets", ["a.mp4", ""], "a list of text"),
        (BatchRequest, "overrides", "[batch_size]", "settings such as {batch_size: 2}"),
        (BatchRequest, "overrides", "batch_size", "settings such as {batch_size: 2}"),
        *(
            (BatchRequest, "session_minutes", wrong, "a number from 0")
            for wrong in (-5, math.nan, math.inf, "-5", "nan", "soon", True)
        ),
        *((MonitorRequest, name, -1, "a number from 0") for name in ("seconds", "refresh")),
        (BatchRequest, "language", "fr", "auto, en, es"),
    ],
)
def test_invalid_value_error_names_field_value_and_allowed(
    model: type[Request], name: str, raw: Any, allowed: str
) -> None:
    with pytest.raises(UsageError) as caught:
        model(**{name: raw})
    assert caught.value.what.startswith(f"{name} = ")
    assert caught.value.what.endswith(f" is not allowed; allowed: {allowed}")
    assert len(caught.value.what) < 250


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"preset": "fastest"}, "there is no preset 'fastest'"),
        ({"overrides": {"batchsize": 2}}, "unknown key 'batchsize'"),
        ({"sources": "https://host/me.jpg", "targets": "a.mp4"}, "https://host/me.jpg: this is an address"),
        ({"sources": "me.jpg", "targets": ["ftp://host/a.mp4"]}, "ftp://host/a.mp4: this is an address"),
        ({"output_dir": "ftp://host/out"}, "this is an address"),
        ({"models_dir": "gs://bucket/models"}, "gs://bucket/models: this is an address"),
        ({"library": "s3://bucket/people"}, "s3://bucket/people: this is an address"),
        ({"sources": "me.jpg"}, "targets is empty"),
        ({"targets": "a.mp4"}, "sources is empty"),
    ],
)
def test_inconsistent_request_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises((SettingsError, UsageError), match=complaint):
        BatchRequest(**values).check()
    BatchRequest(targets="a.mp4", overrides={"frame_processors": "face_enhancer"}).check()


def test_pattern_expands_in_natural_order(tmp_path: Path) -> None:
    for name in ("clip10.mp4", "clip2.mp4", "[1].mp4", "notes.txt"):
        (tmp_path / name).touch()
    found = BatchRequest(targets=[str(tmp_path / "clip*.mp4"), str(tmp_path / "[1].mp4")]).target_paths
    assert [path.name for path in found] == ["clip2.mp4", "clip10.mp4", "[1].mp4"]
    with pytest.raises(MissingFileError, match="no file matches it"):
        _ = BatchRequest(targets=str(tmp_path / "*.mov")).target_paths


def test_run_name_depends_on_sources_and_targets_only() -> None:
    request = BatchRequest(sources=["/in/Ana Ruíz.jpg", "/in/b.jpg"], targets=["/clips/one.mp4"])
    assert request.run_name.startswith("ana_ru_z-one-")
    others = {"preset": "stable", "session_minutes": 9, "consent": "self", "video_range": "1"}
    again = request.with_values(sources=["/in/Ana Ruíz.jpg", "/in/b.jpg"], **others)
    assert again.run_name == request.run_name
    assert request.with_values(targets=["/clips/two.mp4"]).run_name != request.run_name
    assert request.with_values(targets=["/other/one.mp4"]).run_name != request.run_name


def test_missing_form_variables_are_explained() -> None:
    for model in REQUESTS.values():
        session = {name: model.model_fields[name].default for name in model.form()}
        assert model.of({**session, "something": "else"}) == model()
        session.pop("headless")
        with pytest.raises(UsageError, match="'headless' is not defined: the kernel was restarted"):
            model.of(session)
    with pytest.raises(UsageError, match="'run' is not defined"):
        recall("run", {})
    assert recall("run", {"run": None}) is None
