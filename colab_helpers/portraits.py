"""Portraits of people who do not exist, by SDXL-Lightning, for the library of sources (extra ``portraits``).

Sampling follows the model's card: four steps, Euler with trailing timesteps, no guidance. The weights are one
safetensors file of the catalogue, verified by its hash; model configuration and tokenizers come from the base
model's repository at a fixed revision. Nothing is unpickled.
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
"""Repository of the configuration files; its weights are not fetched."""
CONFIG = "sdxl_config"
"""Folder of the configuration files in the models folder."""
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
"""Paints a picture, ``(S, S, 3)`` uint8 BGR, from a prompt, a seed and the edge S in pixels."""


@dataclass(frozen=True)
class Portrait:
    """A generated portrait."""

    photo: Path  # the picture in the library
    consent: Path  # consent file that says it is synthetic, for ``consent``
    prompt: str  # as improved
    seed: int
    notes: tuple[str, ...]  # why earlier seeds were rejected, one sentence each


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
    """Generate adults; yield each when its picture, marked as made by AI, is ``LIBRARY/NAME/portrait.png``.

    Args:
        name: Name that is not in the library yet.
        library: Folder of people; made if missing.
        prompt: Description of the person; it is improved first, see `prompts.improve_prompt`.
        count: Number of people, called NAME-1, NAME-2 and so on; names that exist are skipped. None makes one
            person, called NAME.
        seed: First of up to five seeds, tried until a picture shows one large face of an adult; each of
            several people has five seeds.
        size: Edge in pixels: 512, 768 or 1024; the model was made for 1024.
        models_dir: Folder of the model files, including those that find faces and estimate ages.
        painter: Opens the painter, given the models folder; by default `open_sdxl_lightning`.

    Raises:
        UsageError: The name is not a plain one or taken, the prompt mentions somebody younger, or a package
            is not installed.
        ModelError: A model is missing.
        NoFaceError: No picture can serve as a source.
    """
    require_adult(prompt)
    refuse_address(library, stored=True)
    folder, improved = absolute(library), improve_prompt(prompt, "portrait")
    people = [(name, seed)]
    if count is not None:
        numbered = ((f"{name}-{number}", seed + TRIES * (number - 1)) for number in itertools.count(1))
        people = list(itertools.islice((one for one in numbered if not _is_taken(one[0], folder)), count))
    if name != Path(name).name or name[:1] in ("", ".") or any(_is_taken(one, folder) for one, _ in people):
        what, remedy = tr("the name is invalid or already in the library"), tr("choose another name")
        raise UsageError(what, where=str(folder / name), remedy=remedy)
    root = models_root(absolute(models_dir) if models_dir else None)
    runtime = Runtime("cpu")
    analyser = FaceAnalyser(Settings(execution_provider="cpu"), models_dir=root, runtime=runtime)
    ages = runtime.open(root / f"{ANALYSIS_MODELS[2]}.onnx")
    with (painter or open_sdxl_lightning)(root) as paint:
        for person, first in people:
            problem_of = partial(_find_problem, analyser, ages)
            image, used, notes = _paint_usable(paint, improved, first, size, problem_of)
            photo, consent = folder / person / "portrait.png", folder / f"{person}.consent.yaml"
            _save(photo, consent, image, improved, used)
            yield Portrait(photo, consent, improved, used, notes)


def _is_taken(name: str, library: Path) -> bool:
    return (library / name).exists() or (library / f"{name}.consent.yaml").exists()


def _paint_usable(
    paint: Paint, prompt: str, first: int, size: int, problem_of: Callable[[ByteImage], str]
) -> tuple[ByteImage, int, tuple[str, ...]]:
    """Paint until a picture can be a source; return it, its seed, and why others were rejected."""
    notes = list[str]()
    for seed in range(first, first + TRIES):
        image = paint(prompt, seed, size)
        if not (problem := problem_of(image)):
            return image, seed, tuple(notes)
        notes.append(tr("seed {seed}: {problem}", seed=seed, problem=problem))
    remedy = tr("describe one face from the front, or start with another seed")
    raise NoFaceError("; ".join(notes), where=prompt, remedy=remedy)


def _find_problem(analyser: FaceAnalyser, ages: Network, image: ByteImage) -> str:
    """Return why a picture cannot be a source; empty if it can."""
    report = examine(analyser, image)
    if report.face is None:
        return tr("no face was found")
    if len(report.faces) > 1:
        return tr("it shows {faces} faces", faces=len(report.faces))
    if report.face_width < SMALLEST:
        return tr("the face is only {width:.0f} pixels wide", width=report.face_width)
    age = float(sex_and_age(ages, BgrPicture(image), report.face)[1])
    return tr("the face seems to be {age:.0f} years old", age=age) if not age >= APPARENT_AGE else ""


def _save(photo: Path, consent: Path, image: ByteImage, prompt: str, seed: int) -> None:
    """Write the statement of consent, then the picture, marked as generated."""
    origin = f"{Path(MODEL).stem}, seed {seed}: {prompt}"
    statement = {"people": {photo.parent.name: {"ground": "synthetic", "document": origin}}}
    copy_atomically(consent, io.BytesIO(yaml.safe_dump(statement, allow_unicode=True).encode()))
    still = Still(image, parts={"xmp": xmp_of(origin, GENERATED_SOURCE_TYPE)})
    content = io.BytesIO(encode_still(still, photo))
    try:
        copy_atomically(photo, content, partial(seal_generated, description=origin, network=Path(MODEL).stem))
    except BaseException:  # the name stays free
        consent.unlink(missing_ok=True)
        with suppress(OSError):
            photo.parent.rmdir()
        raise


@contextmanager
def open_sdxl_lightning(
    root: Path, *, offline: bool = False, on_progress: ProgressCallback | None = None
) -> Iterator[Paint]:
    """Load SDXL-Lightning from the models folder, fetched if missing; its memory is freed after the block.

    Raises:
        UsageError: A package is not installed.
        ModelError: A file cannot be fetched.
    """
    require_extra("portraits", *PACKAGES)
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    fetch(root, [load_catalog().models[MODEL]], FetchOptions(offline=offline), on_progress=on_progress)
    _fetch_config(root / CONFIG, offline=offline)
    cuda = torch.cuda.is_available()
    dtype = torch.float16 if cuda else torch.float32
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(root / MODEL), config=str(root / CONFIG), torch_dtype=dtype, local_files_only=True
    )
    trailing = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.scheduler = trailing
    pipeline.set_progress_bar_config(disable=True)
    if cuda:
        pipeline.enable_model_cpu_offload()  # each part is on the GPU only while it works

    def paint(prompt: str, seed: int, size: int) -> ByteImage:
        noise = torch.Generator("cpu").manual_seed(seed)  # the same on every machine
        kwargs = {"width": size, "height": size, "generator": noise}
        try:
            output = pipeline(prompt, num_inference_steps=STEPS, guidance_scale=0.0, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            remedy = tr("close other programs that use the GPU, or choose a smaller size")
            raise OutOfMemoryError(tr("memory ran out"), where=MODEL, remedy=remedy) from error
        return np.ascontiguousarray(np.asarray(output.images[0].convert("RGB"), np.uint8)[..., ::-1])

    try:
        yield paint
    finally:
        pipeline = None
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()


def _fetch_config(folder: Path, *, offline: bool) -> None:
    """Fetch the base model's configuration files if missing; raise ModelError if that fails."""
    if all((folder / name).is_file() for name in CONFIG_FILES):
        return
    from huggingface_hub import snapshot_download

    options = {"revision": REVISION, "local_dir": str(folder), "local_files_only": offline}
    try:
        snapshot_download(BASE, allow_patterns=list(CONFIG_FILES), **options)
    except Exception as error:
        what = tr("the model's configuration files cannot be fetched ({reason})", reason=first_line(error))
        remedy = tr("check the network and run again")
        raise ModelError(what, where=str(folder), remedy=remedy) from error
