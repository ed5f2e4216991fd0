"""People of a library by name: in a request, on the command line, in a map."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.__main__ import main
from colab_helpers.batch.job import Source
from colab_helpers.batch.library import expand_photos, library_names
from colab_helpers.batch.photos import identity_of
from colab_helpers.command_line import SUCCESS, WRONG_USAGE
from colab_helpers.errors import MissingFileError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.request import BatchRequest
from colab_helpers.settings import load_settings
from tests.helpers.processes import UNLABELLED
from tests.people.actors import portrait

SETTINGS = load_settings(execution_provider="cpu", frame_processors=["face_swapper"], **UNLABELLED)


def write_photo(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    hanna = portrait("hanna")
    write_photo(folder / "hanna" / "1.png", hanna)
    write_photo(folder / "hanna" / "2.png", cv2.resize(hanna, (400, 400)))
    write_photo(folder / "hanna" / "3.png", portrait("bruno"))
    (folder / "hanna" / "note.txt").touch()
    write_photo(folder / "alma" / "1.png", portrait("alma"))
    (folder / ".trash").mkdir()
    (folder / "empty").mkdir()
    return folder


def test_names_folders_and_paths_expand_to_photos(library: Path, standins: Path) -> None:
    assert library_names(library) == ["alma", "empty", "hanna"]
    assert library_names(None) == []
    engine = Engine.open(SETTINGS, models_dir=standins)

    def identity(*values: str) -> Identity:
        photos = expand_photos((Source.of(value, library) for value in values), library)
        found = identity_of(engine, photos)
        assert found is not None
        return found

    hanna = identity("hanna")
    assert [Path(name).name for name in hanna.photos] == ["1.png", "2.png"]
    assert len(hanna.notes) == 1
    assert "3.png is left out: it seems to show a different person" in hanna.notes[0]
    paths = [str(library / "hanna" / f"{number}.png") for number in (1, 2, 3)]
    for values in ([str(library / "hanna")], paths):
        np.testing.assert_array_equal(identity(*values).embedding, hanna.embedding)
    assert len(identity("hanna", paths[0]).photos) == 3
    with pytest.raises(MissingFileError, match=r"hana: .*library.*name one of alma, empty, hanna"):
        identity("hana")
    with pytest.raises(MissingFileError, match="the folder contains no photo"):
        identity("empty")
    with pytest.raises(MissingFileError, match="cannot be listed"):
        library_names(library / "none")


@pytest.mark.parametrize("names", ["hanna", ["hanna"], "[hanna]"])
def test_request_resolves_names_if_it_has_a_library(library: Path, names: object) -> None:
    folder = str(library / "hanna")
    for field in ("sources", "target_person", "never"):
        assert getattr(BatchRequest(library=library, **{field: names}), field) == (folder,)
        assert getattr(BatchRequest(**{field: names}), field) == (str(Path.cwd() / "hanna"),)
    request = BatchRequest(library=library, sources=names)
    assert request.with_values(consent="x").sources == (folder,)
    assert BatchRequest(library=library, sources=["..", "hana"]).sources == (
        str(Path.cwd().joinpath("..")),
        str(Path.cwd() / "hana"),
    )


def test_batch_accepts_names_and_notes_excluded_photos(batch, library, standins, tmp_path) -> None:
    target = write_photo(tmp_path / "still.png", portrait("chidi"))
    report = batch(
        target, sources=["hanna"], library=library, settings=SETTINGS, models_dir=standins, never=["alma"]
    )
    assert report.ok
    assert [Path(name).name for name in report.files[0].source] == ["1.png", "2.png"]
    for text in ("3.png is left out", "1 .txt", f"{library / 'alma' / '1.png'} is never changed"):
        assert any(text in note for note in report.notes), text
    paths = [library / "hanna" / "1.png", library / "hanna" / "2.png"]
    batch(target, sources=paths, settings=SETTINGS, models_dir=standins, out=tmp_path / "by_path")
    by_name, by_path = (cv2.imread(str(tmp_path / out / "still.png")) for out in ("out", "by_path"))
    np.testing.assert_array_equal(by_name, by_path)


def test_command_line_accepts_names(library, standins, tmp_path, consent, capsys) -> None:
    target = write_photo(tmp_path / "still.png", portrait("chidi"))
    common = ["--models-dir", str(standins), "--consent", consent, "--library", str(library)]
    common += ["--frame-processors", "face_swapper", "-t", str(target)]
    assert main(["swap", "-s", "hanna", *common, "-o", str(tmp_path / "a.png")]) == SUCCESS
    assert "3.png is left out" in capsys.readouterr().out
    assert main(["swap", "-s", "hana", *common, "-o", str(tmp_path / "b.png")]) == WRONG_USAGE
    assert "name one of alma, empty, hanna" in capsys.readouterr().err
