"""Portraits: saving to the library, rejected images, and SDXL's pipeline with tiny networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers import errors, portraits
from colab_helpers.__main__ import main
from colab_helpers.batch.library import find_photos, library_names, synthetic_people
from colab_helpers.command_line import SUCCESS, WRONG_USAGE
from colab_helpers.demo import Demo, copy_demo
from colab_helpers.errors import ModelError, NoFaceError, OutOfMemoryError, OutputError
from colab_helpers.media.images import read_still
from colab_helpers.portraits import CONFIG, CONFIG_FILES, MODEL, PACKAGES, make_portraits, open_sdxl_lightning
from colab_helpers.trust.consent import require_consent
from colab_helpers.ui import portraits as ui_portraits
from tests.helpers.marks import actions, read_mark

needs_torch = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason="the extra portraits is not installed"
)


class Painter:
    """Returns the demo's portrait for every fifth seed, from 3 on, and unusable images for others."""

    def __init__(self, source: Path) -> None:
        self.face = cv2.imread(str(source))
        self.calls: list[tuple[str, int, int]] = []
        self.closed = False

    @contextmanager
    def __call__(self, root: Path) -> Iterator[portraits.Paint]:
        yield self.paint
        self.closed = True

    def paint(self, prompt: str, seed: int, size: int) -> np.ndarray:
        self.calls.append((prompt, seed, size))
        image = np.full((size, size, 3), 90, np.uint8)
        edge = {1: size // 2, 2: 110, 3: size}.get(seed % 5, 0)
        if edge:
            image[:edge, :edge] = face = cv2.resize(self.face, (edge, edge), interpolation=cv2.INTER_AREA)
            if seed == 1:
                image[-edge:, -edge:] = face
        return image


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return copy_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def paint(shipped: Demo) -> Painter:
    return Painter(shipped.source)


def test_portrait_is_saved_with_mark_and_consent(paint: Painter, shipped: Demo, tmp_path: Path) -> None:
    library = tmp_path / "people"
    options: dict[str, Any] = {"size": 512, "models_dir": shipped.models, "painter": paint}
    (portrait,) = make_portraits("Ana Ruiz", library, "una mujer", **options)
    assert [seed for _, seed, _ in paint.calls] == [0, 1, 2, 3]
    assert paint.calls[0][0] == portrait.prompt == portraits.improve_prompt("una mujer", "portrait")
    assert [note.partition(": ")[2].split()[0] for note in portrait.notes] == ["no", "it", "the"]
    assert "it shows 2 faces" in portrait.notes[1]
    assert "pixels wide" in portrait.notes[2]
    assert paint.closed
    assert (portrait.seed, library_names(library)) == (3, ["Ana Ruiz"])
    assert find_photos(str(library / "Ana Ruiz")) == [str(portrait.photo)]
    assert np.array_equal(read_still(portrait.photo).bgr, paint.paint("", 3, 512))
    consent = require_consent(str(portrait.consent), [], ["Ana Ruiz"])
    (named,) = consent.people
    assert named.ground == "synthetic"
    assert named.document == f"sdxl_lightning_4step, seed 3: {portrait.prompt}"
    state, store = read_mark(portrait.photo)
    (created,) = actions(store)
    assert state == "Valid"
    assert (created["action"], created["digitalSourceType"].rpartition("/")[2]) == (
        "c2pa.created",
        "trainedAlgorithmicMedia",
    )
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in portrait.photo.read_bytes().partition(b"IDAT")[0]
    kept = portrait.photo.read_bytes()
    for seeds in ([3, 8], [13]):
        crowd = list(make_portraits("crowd", library, "a man", count=len(seeds), **options))
        assert [one.seed for one in crowd] == seeds
    assert (
        synthetic_people(library) == library_names(library) == ["Ana Ruiz", "crowd-1", "crowd-2", "crowd-3"]
    )
    assert portrait.photo.read_bytes() == kept
    for real in (library / "crowd-2" / "2.png", library / "crowd-3" / "portrait.png"):
        shutil.copy(shipped.source, real)  # beside the generated portrait, or replacing it
    (library / "crowd-1" / "portrait.png").unlink()
    assert synthetic_people(library) == ["Ana Ruiz"]
    before = {path: path.read_bytes() for path in library.rglob("*") if path.is_file()}
    for name in ("Ana Ruiz", "a/b", ".x", "", ".."):
        with pytest.raises(ValueError, match="already in the library"):
            list(make_portraits(name, library, "a woman", **options))
    assert {path: path.read_bytes() for path in library.rglob("*") if path.is_file()} == before


def test_failed_signing_leaves_no_files(
    paint: Painter, shipped: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(portraits, "seal_generated", full)
    options: dict[str, Any] = {"models_dir": shipped.models, "painter": paint, "size": 512}
    with pytest.raises(OutputError, match="No space left"):
        list(make_portraits("ana", tmp_path / "people", "a woman", seed=3, **options))
    assert list((tmp_path / "people").iterdir()) == []


def test_limited_tries_fail_without_leaving_files(
    paint: Painter, shipped: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert portraits.TRIES == 5
    monkeypatch.setattr(portraits, "TRIES", 2)
    options: dict[str, Any] = {"models_dir": shipped.models, "painter": paint, "size": 512}
    with pytest.raises(NoFaceError, match=r"seed 4: no face.*seed 5: no face"):
        list(make_portraits("ana", tmp_path / "people", "a woman", seed=4, **options))
    assert len(paint.calls) == 2
    monkeypatch.setattr(portraits, "sex_and_age", lambda *_: np.array([0, 19.0]))
    with pytest.raises(NoFaceError, match="seems to be 19 years old"):
        list(make_portraits("ana", tmp_path / "people", "a woman", seed=3, **options))
    monkeypatch.setattr(portraits, "sex_and_age", lambda *_: np.array([0, np.nan]))
    with pytest.raises(NoFaceError, match="seems to be nan years old"):
        list(make_portraits("ana", tmp_path / "people", "a woman", seed=3, **options))
    with pytest.raises(ValueError, match="adults only"):
        list(make_portraits("ana", tmp_path / "people", "a girl", **options))
    assert not (tmp_path / "people").exists()


def test_missing_extra_names_install_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "diffusers" else name)
    verb = ["portraits", "ana", "a woman", "--library", str(tmp_path)]
    assert main(verb) == WRONG_USAGE
    printed = capsys.readouterr().err
    assert "not installed: diffusers" in printed
    assert "run 'bash setup.sh install portraits'" in printed
    assert main([*verb[:2], "a boy", *verb[3:]]) == WRONG_USAGE


def test_command_prints_what_it_made(
    paint: Painter,
    shipped: Demo,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: name)
    monkeypatch.setattr(ui_portraits, "open_sdxl_lightning", lambda root, **_: paint(root))
    verb = ["portraits", "ana", "a woman", "--library", str(tmp_path), "--seed", "2", "--size", "512"]
    assert main([*verb, "--models-dir", str(shipped.models)]) == SUCCESS
    printed = capsys.readouterr().out
    assert "OpenRAIL++" in printed or "Open RAIL++" in printed
    assert "note: seed 2" in printed
    assert str(tmp_path / "ana" / "portrait.png") in printed
    assert main([*verb, "--count", "2", "--models-dir", str(shipped.models)]) == SUCCESS
    assert {"ana-1", "ana-2"} < {*library_names(tmp_path)}


@pytest.fixture(scope="module")
def tiny() -> Any:
    """SDXL's parts with a few thousand random weights."""
    torch = pytest.importorskip("torch")
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=(2, 4),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=80, cross_attention_dim=64, norm_num_groups=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=8, sample_size=64, layers_per_block=1,
    )  # fmt: skip
    text = CLIPTextConfig(
        bos_token_id=0, eos_token_id=2, hidden_size=32, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=2, vocab_size=1000, projection_dim=32, hidden_act="gelu",
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline, {
        "unet": unet.eval(),
        "vae": vae.eval(),
        "text_encoder": CLIPTextModel(text).eval(),
        "text_encoder_2": CLIPTextModelWithProjection(text).eval(),
        "scheduler": diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        "tokenizer": CLIPTokenizer,
    }


def tokenizer_in(folder: Path, kind: Any) -> Any:
    """Write and load a tokenizer whose words are letters."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return kind.from_pretrained(str(folder), model_max_length=77)


@pytest.fixture
def opened(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments with which SDXL's pipeline was opened; tiny parts replace those of the file."""
    kind, parts = tiny
    arguments: dict[str, Any] = {}

    def from_single_file(path: str, **options: Any) -> Any:
        arguments.update(path=path, **options)
        words = tokenizer_in(tmp_path / "words", parts["tokenizer"])
        arguments["pipeline"] = kind(**{**parts, "tokenizer": words, "tokenizer_2": words})
        return arguments["pipeline"]

    monkeypatch.setattr(kind, "from_single_file", from_single_file)
    monkeypatch.setattr(portraits, "fetch", lambda root, entries, *_, **__: arguments.update(fetched=entries))
    for name in CONFIG_FILES:
        path = tmp_path / CONFIG / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return arguments


@needs_torch
def test_sdxl_is_run_as_in_model_card(opened: dict[str, Any], tmp_path: Path) -> None:
    import torch

    with open_sdxl_lightning(tmp_path, offline=True) as paint:
        one, again, other = paint("a woman", 5, 64), paint("a woman", 5, 64), paint("a woman", 6, 64)
        pipeline = opened.pop("pipeline")
    assert [entry.path for entry in opened["fetched"]] == [MODEL]
    assert opened["path"] == str(tmp_path / MODEL)
    assert opened["config"] == str(tmp_path / CONFIG)
    assert opened["local_files_only"] is True
    assert opened["torch_dtype"] == (torch.float16 if torch.cuda.is_available() else torch.float32)
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert len(pipeline.scheduler.timesteps) == 4
    assert pipeline.scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert pipeline.guidance_scale == 0
    assert (one.shape, one.dtype) == ((64, 64, 3), np.uint8)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    red_first = pipeline(
        "a woman", num_inference_steps=4, guidance_scale=0.0, width=64, height=64,
        generator=torch.Generator("cpu").manual_seed(5), output_type="np",
    ).images[0]  # fmt: skip
    assert np.abs(one[..., ::-1] / 255 - red_first).max() <= 1 / 255


@needs_torch
def test_cuda_out_of_memory_is_translated(opened: dict[str, Any], tmp_path: Path) -> None:
    with open_sdxl_lightning(tmp_path) as paint:

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

        opened["pipeline"].unet.forward = fail
        try:
            with pytest.raises(OutOfMemoryError, match="choose a smaller size"):
                paint("a woman", 5, 64)
        finally:
            del opened["pipeline"].unet.forward


@needs_torch
def test_missing_files_offline_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sdxl_lightning_4step"), open_sdxl_lightning(tmp_path, offline=True):
        pass
    with pytest.raises(ModelError, match="configuration files cannot be fetched"):
        portraits._fetch_config(tmp_path / CONFIG, offline=True)
