"""People who do not exist, painted by SDXL-Lightning for the library of sources (extra ``portraits``).

The recipe is that of the model's card: four steps, Euler with trailing times, no guidance. Weights are one
safetensors file of the catalogue, by its hash; what its parts look like and how words are cut comes from the
base model's own small files at one revision. Nothing is unpickled.
"""

from __future__ import annotations

import gc
import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from colab_helpers.addresses import refuse_address
from colab_helpers.errors import ModelError, NoFaceError, OutOfMemoryError, UsageError, require_extra
from colab_helpers.faces.analyser import FaceAnalyser, sex_and_age
from colab_helpers.faces.photos import SMALLEST, examine
from colab_helpers.files import absolute, copy_atomically
from colab_helpers.language import tr
from colab_helpers.media.formats import ByteImage
from colab_helpers.media.images import Still, encode_still
from colab_helpers.media.picture import BgrPicture
from colab_helpers.models.catalog import ANALYSIS_MODELS, load_catalog
from colab_helpers.models.download import FetchOptions
from colab_helpers.models.fetching import ProgressCallback, fetch
from colab_helpers.models.session import Network, Runtime, models_root
from colab_helpers.models.session_pool import first_line, is_out_of_memory
from colab_helpers.prompts import improve_prompt, require_adult
from colab_helpers.settings import Settings
from colab_helpers.trust.content import APPARENT_AGE
from colab_helpers.trust.marking import GENERATED_SOURCE_TYPE, seal_generated, xmp_of

MODEL = "sdxl_lightning_4step.safetensors"
BASE, REVISION = "stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"
"""Where the small files are from; the weights of that repository are not fetched."""
CONFIG = "sdxl_config"
"""Folder of these below the models root."""
CONFIG_FILES = (
    "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
    *(f"text_encoder{n}/config.json" for n in ("", "_2")),
    *(f"tokenizer{n}/{part}" for n in ("", "_2") for part in (
        "merges.txt", "vocab.json", "special_tokens_map.json", "tokenizer_config.json",
    )),
)  # fmt: skip
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")
STEPS, TRIES = 4, 5
Paint = Callable[[str, int, int], ByteImage]
"""Makes a picture ``(S, S, 3)`` uint8 BGR of a prompt, a seed and its edge S."""


@dataclass(frozen=True)
class Portrait:
    """Somebody who was made up."""

    photo: Path  # their picture in the library
    consent: Path  # file that says on what ground they may be shown, for ``consent``
    prompt: str  # what was painted, as it was improved
    seed: int
    notes: tuple[str, ...]  # why earlier seeds were given up, one sentence each


def make_portraits(
    name: str,
    library: str | Path,
    prompt: str,
    *,
    count: int | None = None,
    seed: int = 0,
    size: int = 1024,
    models_dir: str | Path | None = None,
    painter: Callable[[Path], AbstractContextManager[Paint]] | None = None,
) -> Iterator[Portrait]:
    """Make up adults; yield each once the picture, marked as made by AI, is ``LIBRARY/NAME/portrait.png``.

    Args:
        name: Of somebody who is not in the library yet.
        library: Folder of people; made if missing.
        prompt: Who is shown; it is improved first, see `prompts.improve_prompt`.
        count: How many; they are called NAME-1, NAME-2 and so on, and those who are there are passed over.
            None makes one, called NAME.
        seed: The first of at most five: a picture without one large face of an adult is given up. Each of
            several has five of its own.
        size: Edge in pixels: 512, 768 or 1024, for which the model was made.
        models_dir: Folder of the model files, among them those that find faces and tell of age.
        painter: What paints, opened in the models folder; by default `open_sdxl_lightning`.

    Raises:
        UsageError: The name is no plain one or taken, or the prompt speaks of somebody younger.
        ModelError: A model or package is missing.
        NoFaceError: No picture showed what a source has to show.
    """
    require_adult(prompt)
    refuse_address(library, stored=True)
    place, wanted = absolute(library), improve_prompt(prompt, "portrait")
    new = [(name, seed)]
    if count is not None:
        numbered = ((f"{name}-{number}", seed + TRIES * (number - 1)) for number in itertools.count(1))
        new = list(itertools.islice((one for one in numbered if not _is_taken(one[0], place)), count))
    if name != Path(name).name or name[:1] in ("", ".") or any(_is_taken(one, place) for one, _ in new):
        what, remedy = tr("this is no name for somebody new in the library"), tr("choose another name")
        raise UsageError(what, where=str(place / name), remedy=remedy)
    root = models_root(absolute(models_dir) if models_dir else None)
    runtime = Runtime("cpu")
    analyser = FaceAnalyser(Settings(execution_provider="cpu"), models_dir=root, runtime=runtime)
    ages = runtime.open(root / f"{ANALYSIS_MODELS[2]}.onnx")
    with (painter or open_sdxl_lightning)(root) as paint:
        for one, first in new:
            image, used, notes = _painted(paint, wanted, first, size, partial(_problem, analyser, ages))
            photo, consent = place / one / "portrait.png", place / f"{one}.consent.yaml"
            _keep(photo, consent, image, wanted, used)
            yield Portrait(photo, consent, wanted, used, notes)


def _is_taken(name: str, library: Path) -> bool:
    return (library / name).exists() or (library / f"{name}.consent.yaml").exists()


def _painted(
    paint: Paint, wanted: str, first: int, size: int, problem_of: Callable[[ByteImage], str]
) -> tuple[ByteImage, int, tuple[str, ...]]:
    """Paint until a picture can be a source; return it, its seed, and why others were given up."""
    notes = list[str]()
    for seed in range(first, first + TRIES):
        image = paint(wanted, seed, size)
        if not (problem := problem_of(image)):
            return image, seed, tuple(notes)
        notes.append(tr("seed {seed}: {problem}", seed=seed, problem=problem))
    remedy = tr("describe one face from the front, or begin with another seed")
    raise NoFaceError("; ".join(notes), where=wanted, remedy=remedy)


def _problem(analyser: FaceAnalyser, ages: Network, image: ByteImage) -> str:
    """Why a picture is no source; empty if it is one."""
    report = examine(analyser, image)
    if report.face is None:
        return tr("no face was found")
    if len(report.faces) > 1:
        return tr("it shows {faces} faces", faces=len(report.faces))
    if report.face_width < SMALLEST:
        return tr("the face is only {width:.0f} pixels wide", width=report.face_width)
    age = float(sex_and_age(ages, BgrPicture(image), report.face)[1])
    return tr("the face seems to be {age:.0f} years old", age=age) if not age >= APPARENT_AGE else ""


def _keep(photo: Path, consent: Path, image: ByteImage, prompt: str, seed: int) -> None:
    """Write the statement of consent, then the picture, marked."""
    told = f"{Path(MODEL).stem}, seed {seed}: {prompt}"
    ground = {"people": {photo.parent.name: {"ground": "synthetic", "document": told}}}
    copy_atomically(consent, io.BytesIO(yaml.safe_dump(ground, allow_unicode=True).encode()))
    still = Still(image, parts={"xmp": xmp_of(told, GENERATED_SOURCE_TYPE)})
    content = io.BytesIO(encode_still(still, photo))
    try:
        copy_atomically(photo, content, partial(seal_generated, told=told, network=Path(MODEL).stem))
    except BaseException:  # the name stays free
        consent.unlink(missing_ok=True)
        with suppress(OSError):
            photo.parent.rmdir()
        raise


@contextmanager
def open_sdxl_lightning(
    root: Path, *, offline: bool = False, on_progress: ProgressCallback | None = None
) -> Iterator[Paint]:
    """Open SDXL-Lightning in the models folder, fetched if missing; its memory is free after the block.

    Raises:
        ModelError: A package is not installed, or a file cannot be had.
    """
    require_extra("portraits", *PACKAGES)
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    fetch(root, [load_catalog().models[MODEL]], FetchOptions(offline=offline), on_progress=on_progress)
    _fetch_config(root / CONFIG, offline=offline)
    cuda = torch.cuda.is_available()
    kind = torch.float16 if cuda else torch.float32
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(root / MODEL), config=str(root / CONFIG), torch_dtype=kind, local_files_only=True
    )
    scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.scheduler = scheduler
    pipeline.set_progress_bar_config(disable=True)
    if cuda:
        pipeline.enable_model_cpu_offload()  # each part is on the GPU while it works, and no longer

    def paint(prompt: str, seed: int, size: int) -> ByteImage:
        noise = torch.Generator("cpu").manual_seed(seed)  # the same on every machine
        asked = {"width": size, "height": size, "generator": noise}
        try:
            made = pipeline(prompt, num_inference_steps=STEPS, guidance_scale=0.0, **asked)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            remedy = tr("close other programs that use the GPU, or take a smaller size")
            raise OutOfMemoryError(tr("memory ran out"), where=MODEL, remedy=remedy) from error
        return np.ascontiguousarray(np.asarray(made.images[0].convert("RGB"), np.uint8)[..., ::-1])

    try:
        yield paint
    finally:
        pipeline = None
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()


def _fetch_config(folder: Path, *, offline: bool) -> None:
    """Bring the base model's small files, once; ModelError where they cannot be had."""
    if all((folder / name).is_file() for name in CONFIG_FILES):
        return
    from huggingface_hub import snapshot_download

    files, place = list(CONFIG_FILES), str(folder)
    try:
        snapshot_download(
            BASE, revision=REVISION, allow_patterns=files, local_dir=place, local_files_only=offline
        )
    except Exception as error:
        raise ModelError(
            tr("the model's small files cannot be had ({reason})", reason=first_line(error)),
            where=str(folder),
            remedy=tr("check the network and run again"),
        ) from error
