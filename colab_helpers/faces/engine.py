"""All networks of a run, loaded once and used for every file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from colab_helpers.errors import ColabHelpersError, MediaError, NoFaceError, SettingsError
from colab_helpers.faces.analyser import FaceAnalyser, sex_and_age
from colab_helpers.faces.anonymize import Anonymizer
from colab_helpers.faces.assignment import PER_PERSON_SETTINGS, Treatment
from colab_helpers.faces.changer import FaceChanger
from colab_helpers.faces.frame_enhancer import FrameEnhancer
from colab_helpers.faces.masks import FaceMasks
from colab_helpers.faces.occluder import FaceParser, Occluder
from colab_helpers.faces.path_choice import choose_paths
from colab_helpers.faces.photos import Identity, merge_identity, quality_of
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.selection import order_faces
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper, ineffective_settings
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.language import mark, tr
from colab_helpers.machine import Machine, this_machine, workers_per_machine
from colab_helpers.media.picture import BgrPicture, Picture
from colab_helpers.models.catalog import ANALYSIS_MODELS, content_models, mask_models
from colab_helpers.models.contracts import check_content, converter_of
from colab_helpers.models.inventory import origin_notes
from colab_helpers.models.model_conversion import choose, face_processor_models, wants_half
from colab_helpers.models.session import Network, Provider, Runtime, models_root
from colab_helpers.models.session_pool import SessionPool
from colab_helpers.resources.allocator import tune_allocator
from colab_helpers.resources.sampler import gpu_memory
from colab_helpers.settings import MAX_BATCH_SIZE, FrameProcessor, Settings

_MAX_FACES = 8  # of a photo that are considered, the largest first
GPU_RESERVE = 512 << 20
"""VRAM left for the encoder and other programs, in bytes."""
_CUDA_THREADS = 8  # enough to keep the GPU busy while other threads wait for copies


@dataclass(frozen=True, eq=False)
class Engine:
    """The networks of one run, with the settings resolved for this machine.

    Attributes:
        settings: Settings without ``auto``, except for the encoder, which depends on the video.
        analyser: Detects faces and computes embeddings.
        swapper: None unless ``frame_processors`` includes it; likewise ``enhancer`` and ``frame_enhancer``.
        provider: Execution provider of the networks.
        notes: Fallbacks and lowered settings, one sentence each.
        pool: Keeps sessions within the GPU's memory; None on the CPU, where networks simply stay loaded.
        occluder: None unless ``face_mask_types`` includes occlusion; likewise ``parser`` for regions.
        paths: Pixel paths of the steps that sample and blend faces on the GPU.
        frame_enhancer: Enlarges whole frames; the same for all people.
        content: Networks of the content check, by name.
        missing: First model file that the content check lacks, or None.
    """

    settings: Settings
    analyser: FaceAnalyser
    swapper: Swapper | None
    enhancer: Enhancer | None
    provider: Provider
    notes: tuple[str, ...]
    pool: SessionPool | None = None
    occluder: Occluder | None = None
    parser: FaceParser | None = None
    paths: Mapping[FrameProcessor, PixelPath] = field(default_factory=dict)
    frame_enhancer: FrameEnhancer | None = None
    content: Mapping[str, Network] = field(default_factory=dict)
    missing: Path | None = None

    @classmethod
    def open(cls, settings: Settings, *, models_dir: Path | None = None) -> Engine:
        """Load the networks that the settings need; ``models.model_conversion`` chooses float32 or float16.

        Raises:
            ModelError: A file is missing or does not have the expected inputs and outputs.
            ProviderError: The settings require CUDA, but it does not work.
        """
        tune_allocator()
        runtime = Runtime(settings.execution_provider)
        root = models_root(models_dir)
        # Must precede the pool, which measures free VRAM: converting a model takes some temporarily.
        choices = {
            step: choose(root, name, half=settings.half_precision, runtime=runtime, make=True)
            for step, name in face_processor_models(settings).items()
        }
        if runtime.provider == "cuda":
            runtime = runtime.pooled(gpu_pool(wait=settings.gpu_memory_wait), graphs=settings.cuda_graphs)
        resolved, lowered = resolve(settings, this_machine(), cuda=runtime.provider == "cuda")
        half = wants_half(settings.half_precision, runtime.provider)
        resolved = resolved.with_overrides(half_precision=half)
        resolved, mask_notes = _with_mask_types(resolved, root)
        maskers = {role: runtime.open(root / f"{name}.onnx") for role, name in mask_models(resolved).items()}
        analyser = FaceAnalyser(resolved, models_dir=root, runtime=runtime)
        networks = {step: choice.open(runtime) for step, choice in choices.items()}
        swapper, enhancer = _open_crop_networks(resolved, networks, runtime, root)
        if runtime.graphs:
            analyser.load()  # no CUDA graph may be captured once decoders and encoders are at work
        # CUDA graphs do not pay for networks that run once a second, or whose run time dwarfs the launch.
        without_graphs = runtime.pooled(runtime.pool, graphs=False)
        files = {name: root / f"{name}.onnx" for name in content_models(resolved)}
        missing = next((path for path in files.values() if not path.is_file()), None)
        present = {name: path for name, path in files.items() if path.is_file()}
        paths, path_notes = choose_paths(choices, swapper, enhancer, runtime)
        model_notes = [note for choice in choices.values() for note in choice.notes]
        model_notes += [*origin_notes(resolved, root), *ineffective_settings(resolved, swapper, enhancer)]
        return cls(
            settings=resolved,
            analyser=analyser,
            swapper=swapper,
            enhancer=enhancer,
            provider=runtime.provider,
            notes=(*runtime.notes, *lowered, *model_notes, *mask_notes, *path_notes),
            pool=runtime.pool,
            occluder=Occluder(maskers["occluder"]) if "occluder" in maskers else None,
            parser=FaceParser(maskers["parser"]) if "parser" in maskers else None,
            paths=paths,
            frame_enhancer=FrameEnhancer.open(resolved, without_graphs, root),
            content={name: _open_content(without_graphs, name, path) for name, path in present.items()},
            missing=missing,
        )

    @property
    def provider_detail(self) -> str:
        """Execution provider, with the steps that have a pixel path and the frame enhancer's tile size."""
        details = [f"pixels: {', '.join(self.paths)}"] if self.paths else []
        details += [f"tiles: {self.frame_enhancer.edge}"] if self.frame_enhancer else []
        return f"{self.provider} ({'; '.join(details)})" if details else self.provider

    @property
    def growth(self) -> int:
        """Ratio of the number of pixels of a result to that of its target."""
        return self.frame_enhancer.scale**2 if self.frame_enhancer else 1

    @property
    def networks(self) -> list[Network]:
        """Every network that affects what results look like."""
        groups = [part.networks for part in (self.analyser, self.swapper, self.enhancer) if part is not None]
        others = (self.occluder, self.parser, self.frame_enhancer)
        single = [part.network for part in others if part is not None]
        return [*(network for group in groups for network in group), *single]

    @property
    def loaded(self) -> list[Network]:
        """Every network, including those of the content check, each once."""
        return list({one.path: one for one in (*self.networks, *self.content.values())}.values())

    @property
    def masks(self) -> FaceMasks:
        """The masks that limit where a face is changed."""
        settings = self.settings
        return FaceMasks(
            box="box" in settings.face_mask_types,
            blur=settings.face_mask_blur,
            padding=settings.face_mask_padding,
            occluder=self.occluder if "occlusion" in settings.face_mask_types else None,
            parser=self.parser if "region" in settings.face_mask_types else None,
            regions=settings.face_mask_regions,
        )

    def take_memory_notes(self) -> list[str]:
        """Return and clear the notes on VRAM: unloaded networks, waits and smaller tiles, a sentence each."""
        notes: list[str] = []
        for pending in [part.notes for part in (self.pool, self.frame_enhancer) if part is not None]:
            notes += pending
            pending.clear()
        return notes

    def identity(self, photos: Sequence[tuple[str, Callable[[], ByteImage]]]) -> Identity:
        """Determine whom the photos show; photos that cannot be used are left out with a note.

        Args:
            photos: For each photo its name (for messages) and a function that reads it as ``(H, W, 3)`` BGR.
                If it shows several faces, the one that most photos share counts, else the largest.

        Raises:
            ColabHelpersError: No photo can be used; this is the error of the first.
            UsageError: The photos show different people, and no majority tells which are wrong.
        """
        embeddings: list[list[FloatArray] | ColabHelpersError] = []
        quality: list[list[float]] = []
        ages: list[list[float]] = []
        for name, read in photos:
            try:
                image = read()
                faces = self._faces(name, image)
            except (NoFaceError, MediaError) as error:
                embeddings.append(error)
                quality.append([])
                ages.append([])
                continue
            embeddings.append(list(self.analyser.features(BgrPicture(image), faces)))
            quality.append([quality_of(image, face) for face in faces])
            ages.append(self.ages(BgrPicture(image), faces))
        return merge_identity([name for name, _ in photos], embeddings, quality, ages)

    def ages(self, picture: Picture, faces: Sequence[Face]) -> list[float]:
        """Estimate the ages of faces in years; empty if the network for it is not loaded."""
        network = self.content.get(ANALYSIS_MODELS[2])
        return [float(sex_and_age(network, picture, face)[1]) for face in faces] if network else []

    def embeddings(self, name: str, image: ByteImage) -> list[FloatArray]:
        """Return the raw embeddings of a photo's largest faces; raise NoFaceError if it shows none."""
        return list(self.analyser.features(BgrPicture(image), self._faces(name, image)))

    def _faces(self, name: str, image: ByteImage) -> list[Face]:
        faces = order_faces(self.analyser.find(image, embed=False), "largest")[:_MAX_FACES]
        if not faces:
            raise NoFaceError(
                tr("no face was found in the photo"),
                where=name,
                remedy=tr("use a photo that shows the face from the front, at least 100 pixels wide"),
            )
        return faces

    def changer(self, treatment: Treatment) -> FaceChanger | Anonymizer:
        """Return the object that applies a treatment to faces.

        Raises:
            SettingsError: It overrides a setting that is not per person, or needs a network not loaded.
        """
        if treatment.action != "swap":
            return Anonymizer(treatment.action)
        engine = self._for_treatment(treatment)
        settings, swapper, enhancer = engine.settings, engine.swapper, engine.enhancer
        if enhancer is not None and settings.enhancer_weight != self.settings.enhancer_weight:
            enhancer = Enhancer(enhancer.network, weight=settings.enhancer_weight)
        source = treatment.source
        latent = swapper.latent(source) if swapper is not None and source is not None else None
        blend, match = settings.enhancer_blend, settings.colour_match
        return FaceChanger(swapper, latent, enhancer, blend, match, engine.masks, self.paths)

    def _for_treatment(self, treatment: Treatment) -> Engine:
        """Return an engine with a treatment's settings and only the face networks that these need."""
        overrides = {name: value for name, value in treatment.settings.items() if value != "auto"}
        settings = self.settings.with_overrides(**overrides)
        loaded = {
            "face_swapper": self.swapper,
            "face_enhancer": self.enhancer,
            "occlusion": self.occluder,
            "region": self.parser,
            "frame_enhancer": self.frame_enhancer,
        }
        steps = {*settings.frame_processors, *settings.face_mask_types}
        invalid = [name for name in overrides if name not in PER_PERSON_SETTINGS]
        invalid += [name for name in sorted(steps & loaded.keys()) if loaded[name] is None]
        if treatment.settings and invalid:
            allowed = ", ".join(PER_PERSON_SETTINGS)
            raise SettingsError(
                tr("{names} cannot be set for a single person", names=", ".join(invalid)),
                where=treatment.source_name,
                remedy=tr("set it for the whole run, or use one of {names}", names=allowed),
            )
        swapper = self.swapper if "face_swapper" in steps else None
        enhancer = self.enhancer if "face_enhancer" in steps else None
        return replace(self, settings=settings, swapper=swapper, enhancer=enhancer)


def _open_crop_networks(
    settings: Settings, networks: Mapping[FrameProcessor, Network], runtime: Runtime, root: Path
) -> tuple[Swapper | None, Enhancer | None]:
    swapper = enhancer = None
    if "face_swapper" in networks:
        name = converter_of(settings.swapper_model)
        converter = runtime.open(root / f"{name}.onnx") if name else None
        boost = settings.face_swapper_pixel_boost
        swapper = Swapper(networks["face_swapper"], converter, boost=boost)
    if "face_enhancer" in networks:
        enhancer = Enhancer(networks["face_enhancer"], weight=settings.enhancer_weight)
    return swapper, enhancer


def _open_content(runtime: Runtime, name: str, path: Path) -> Network:
    network = runtime.open(path)
    if name != ANALYSIS_MODELS[2]:
        check_content(network.session, name, where=str(path))
    return network


def _with_mask_types(settings: Settings, root: Path) -> tuple[Settings, list[str]]:
    """Resolve ``face_mask_types=auto``; also return a note if occlusion is not available."""
    if settings.face_mask_types != "auto":
        return settings, []
    if mask_models(settings, root):
        return settings.with_overrides(face_mask_types=("box", "occlusion")), []
    text = mark(
        "objects in front of a face are painted over: the occlusion model {name}.onnx is not in the models "
        "folder; 'python -m colab_helpers preload --face-mask-types box,occlusion' downloads it"
    )
    return settings.with_overrides(face_mask_types=("box",)), [tr(text, name=settings.occluder_model)]


def gpu_pool(*, wait: float = 0.0) -> SessionPool | None:
    """Return a pool for the VRAM now free on the first GPU, less a reserve; None without a driver."""
    memory = gpu_memory()
    if memory is None:
        return None
    used, total = memory
    return SessionPool(
        budget=max(total - used - GPU_RESERVE, 0),
        used=lambda: (gpu_memory() or memory)[0],
        free=lambda: total - (gpu_memory() or memory)[0],
        wait=wait,
        # More than the budget: VRAM that other programs hold now may be free by the time it is needed.
        ceiling=total - GPU_RESERVE,
    )


def resolve(settings: Settings, machine: Machine, *, cuda: bool) -> tuple[Settings, tuple[str, ...]]:
    """Replace every ``auto`` that depends on the machine.

    Args:
        settings: The settings of the run.
        machine: The machine's resources.
        cuda: Whether networks are known to run on CUDA.

    Returns:
        The settings with numbers for threads, batch size and memory, and a note for every value
        that was lowered because the machine has too little memory.
    """
    budget, notes = machine.memory_budget, tuple[str, ...]()
    memory = budget if settings.max_memory == "auto" else settings.max_memory / workers_per_machine()
    if memory > budget:
        text = mark(
            "max_memory lowered from {memory:g} to {budget:.1f} GB: "
            "this machine has no more besides the 2 GB reserved for the system"
        )
        notes, memory = (tr(text, memory=settings.max_memory, budget=budget),), budget
    threads, batch = settings.execution_threads, settings.batch_size
    if threads == "auto":
        threads = _CUDA_THREADS if cuda else 1
    if batch == "auto":  # on CUDA one frame per 2 GB; on the CPU one, for steady progress and little memory
        batch = max(1, min(MAX_BATCH_SIZE, int(memory // 2))) if cuda else 1
    values = {"max_memory": round(max(0.5, memory), 2), "execution_threads": threads, "batch_size": batch}
    return settings.with_overrides(**values), notes
