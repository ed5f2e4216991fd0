"""The networks of one run, loaded once and used for every file."""

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

_MAX_FACES = 8
GPU_RESERVE = 512 << 20
"""VRAM left to the encoder and to other programs, in bytes."""
_CUDA_THREADS = 8  # enough to keep the GPU fed while others wait for copies (requirement A2)


@dataclass(frozen=True, eq=False)
class Engine:
    """The networks of one run, with the settings resolved for this machine.

    Attributes:
        settings: Nothing in them is ``auto`` but the encoder, which depends on the video.
        analyser: Finds faces.
        swapper: None unless ``frame_processors`` asks for it; likewise ``enhancer``.
        paths: Of the steps whose faces are done where the network runs.
        occluder: None unless ``face_mask_types`` asks for it; likewise ``parser``.
        provider: Where the networks run.
        notes: Fall-backs and lowered values, each said once.
        pool: Where the networks are kept on a GPU; None on the CPU, where they simply stay loaded.
        frame_enhancer: Enlarges whole frames, likewise; not part of what is one person's own.
        content: What checks the content of targets, by name; ``missing`` is the first file that it lacks.
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
        """Load the networks that the settings ask for; see ``models.half`` for which files.

        Raises:
            ModelError: A file is missing or does not keep its contract.
            ProviderError: CUDA was insisted on but does not work.
        """
        tune_allocator()
        runtime = Runtime(settings.execution_provider)
        root = models_root(models_dir)
        # Before the pool measures what is free: making a copy takes memory, which is given back.
        choices = {
            step: choose(root, name, half=settings.half_precision, runtime=runtime, make=True)
            for step, name in face_processor_models(settings).items()
        }
        if runtime.provider == "cuda":
            runtime = runtime.pooled(gpu_pool(wait=settings.gpu_memory_wait), graphs=settings.cuda_graphs)
        resolved, lowered = resolve(settings, this_machine(), cuda=runtime.provider == "cuda")
        half = wants_half(settings.half_precision, runtime.provider)
        resolved = resolved.with_overrides(half_precision=half)
        resolved, unmasked = _with_mask_types(resolved, root)
        masking = {role: runtime.open(root / f"{name}.onnx") for role, name in mask_models(resolved).items()}
        analyser = FaceAnalyser(resolved, models_dir=root, runtime=runtime)
        networks = {step: choice.open(runtime) for step, choice in choices.items()}
        swapper, enhancer = _open_crop_networks(resolved, networks, runtime, root)
        if runtime.graphs:
            analyser.load()  # next come decoders and encoders, beside which nothing may be captured
        # Nothing is captured of those asked once a second, nor of what takes long whoever launches it.
        seldom = runtime.pooled(runtime.pool, graphs=False)
        files = {name: root / f"{name}.onnx" for name in content_models(resolved)}
        paths, by_processor = choose_paths(choices, swapper, enhancer, runtime)
        chosen = [note for choice in choices.values() for note in choice.notes]
        chosen += [*origin_notes(resolved, root), *ineffective_settings(resolved, swapper, enhancer)]
        return cls(
            settings=resolved,
            analyser=analyser,
            swapper=swapper,
            enhancer=enhancer,
            provider=runtime.provider,
            notes=(*runtime.notes, *lowered, *chosen, *unmasked, *by_processor),
            pool=runtime.pool,
            occluder=Occluder(masking["occluder"]) if "occluder" in masking else None,
            parser=FaceParser(masking["parser"]) if "parser" in masking else None,
            paths=paths,
            frame_enhancer=FrameEnhancer.open(resolved, seldom, root),
            content={
                name: _open_content_network(seldom, name, path)
                for name, path in files.items()
                if path.is_file()
            },
            missing=next((path for path in files.values() if not path.is_file()), None),
        )

    @property
    def place(self) -> str:
        """Where the networks run, whose pixels are done there, too, and what tiles frames are enlarged in."""
        told = [f"pixels: {', '.join(self.paths)}"] if self.paths else []
        told += [f"tiles: {self.frame_enhancer.edge}"] if self.frame_enhancer else []
        return f"{self.provider} ({'; '.join(told)})" if told else self.provider

    @property
    def growth(self) -> int:
        """How many times more pixels results have than targets."""
        return self.frame_enhancer.scale**2 if self.frame_enhancer else 1

    @property
    def networks(self) -> list[Network]:
        """Every network that has a part in what results look like."""
        changers = [part.networks for part in (self.swapper, self.enhancer) if part is not None]
        others = (self.occluder, self.parser, self.frame_enhancer)
        single = [part.network for part in others if part is not None]
        return [*self.analyser.networks, *(network for part in changers for network in part), *single]

    @property
    def loaded(self) -> list[Network]:
        """All of these, and those that check content; each once."""
        return list({one.path: one for one in (*self.networks, *self.content.values())}.values())

    @property
    def masks(self) -> FaceMasks:
        """What limits the change of a face."""
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
        """What was unloaded or waited for since this was last asked, one sentence each."""
        notes: list[str] = []
        for told in [part.notes for part in (self.pool, self.frame_enhancer) if part is not None]:
            notes += told
            del told[:]
        return notes

    def identity(self, photos: Sequence[tuple[str, Callable[[], ByteImage]]]) -> Identity:
        """Who one or more photos show; those that cannot be used are left out, which is noted.

        Args:
            photos: Name (for messages) of each, and what reads it as ``(H, W, 3)`` BGR. Of several faces the
                one that most photos share counts, else the largest.

        Raises:
            ColabHelpersError: None can be used: what is wrong with the first.
            UsageError: They do not show one person, and nobody can tell which is wrong.
        """
        found: list[list[FloatArray] | ColabHelpersError] = []
        quality: list[list[float]] = []
        ages: list[list[float]] = []
        for name, read in photos:
            try:
                image = read()
                faces = self._faces(name, image)
            except (NoFaceError, MediaError) as error:
                found.append(error)
                quality.append([])
                ages.append([])
                continue
            found.append(list(self.analyser.features(BgrPicture(image), faces)))
            quality.append([quality_of(image, face) for face in faces])
            ages.append(self.ages(BgrPicture(image), faces))
        return merge_identity([name for name, _ in photos], found, quality, ages)

    def ages(self, picture: Picture, faces: Sequence[Face]) -> list[float]:
        """How old faces seem, in years; none where the network that tells it is missing."""
        network = self.content.get(ANALYSIS_MODELS[2])
        return [float(sex_and_age(network, picture, face)[1]) for face in faces] if network else []

    def embeddings(self, name: str, image: ByteImage) -> list[FloatArray]:
        """Embeddings of a photo's faces, as the recogniser gives them, the largest first, but no crowd.

        NoFaceError without any.
        """
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
        """Return what does what a treatment says.

        SettingsError where it names a setting that is nobody's own, or that needs a network the run has not.
        """
        if treatment.action != "swap":
            return Anonymizer(treatment.action)
        own = self._for_treatment(treatment)
        settings, enhancer = own.settings, own.enhancer
        if enhancer is not None and settings.enhancer_weight != self.settings.enhancer_weight:
            enhancer = Enhancer(enhancer.network, weight=settings.enhancer_weight)
        source = treatment.source
        latent = own.swapper.latent(source) if own.swapper is not None and source is not None else None
        return FaceChanger(
            own.swapper,
            latent,
            enhancer,
            settings.enhancer_blend,
            settings.colour_match,
            own.masks,
            self.paths,
        )

    def _for_treatment(self, treatment: Treatment) -> Engine:
        """The same networks with the settings, and those networks alone, of a treatment."""
        asked = {name: value for name, value in treatment.settings.items() if value != "auto"}
        settings = self.settings.with_overrides(**asked)
        loaded = {
            "face_swapper": self.swapper,
            "face_enhancer": self.enhancer,
            "occlusion": self.occluder,
            "region": self.parser,
            "frame_enhancer": self.frame_enhancer,
        }
        steps = {*settings.frame_processors, *settings.face_mask_types}
        missing = [name for name in asked if name not in PER_PERSON_SETTINGS]
        missing += [name for name in sorted(steps & loaded.keys()) if loaded[name] is None]
        if treatment.settings and missing:
            raise SettingsError(
                tr("{names} cannot be set for one person alone", names=", ".join(missing)),
                where=treatment.source_name,
                remedy=tr(
                    "set it for the whole run, or choose among {names}", names=", ".join(PER_PERSON_SETTINGS)
                ),
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


def _open_content_network(runtime: Runtime, name: str, path: Path) -> Network:
    network = runtime.open(path)
    if name != ANALYSIS_MODELS[2]:
        check_content(network.session, name, where=str(path))
    return network


def _with_mask_types(settings: Settings, root: Path) -> tuple[Settings, list[str]]:
    """Decide what limits the change where that was left open; one sentence says what is not done then."""
    if settings.face_mask_types != "auto":
        return settings, []
    if mask_models(settings, root):
        return settings.with_overrides(face_mask_types=("box", "occlusion")), []
    text = mark(
        "what is in front of a face is painted over: {name}.onnx, which would tell it, is not in the models "
        "folder; 'python -m colab_helpers preload --face-mask-types box,occlusion' fetches it"
    )
    return settings.with_overrides(face_mask_types=("box",)), [tr(text, name=settings.occluder_model)]


def gpu_pool(*, wait: float = 0.0) -> SessionPool | None:
    """A pool for the first GPU: what is free there now, less a reserve; None where no driver answers."""
    memory = gpu_memory()
    if memory is None:
        return None
    used, total = memory

    def now() -> tuple[int, int]:
        return gpu_memory() or memory

    return SessionPool(
        budget=max(total - used - GPU_RESERVE, 0),
        used=lambda: now()[0],
        free=lambda: total - now()[0],
        wait=wait,
        # Not the budget: what others hold now may be free by the time it is needed.
        ceiling=total - GPU_RESERVE,
    )


def resolve(settings: Settings, machine: Machine, *, cuda: bool) -> tuple[Settings, tuple[str, ...]]:
    """Replace every ``auto`` that depends on the machine.

    Args:
        settings: Those asked for.
        machine: What this machine has.
        cuda: Whether networks were proved to run on CUDA.

    Returns:
        The settings with numbers for threads, batch size and memory, and a note for every value
        that had to be lowered because the machine cannot bear it.
    """
    budget, notes = machine.memory_budget, tuple[str, ...]()
    memory = (
        budget if settings.max_memory == "auto" else min(settings.max_memory / workers_per_machine(), budget)
    )
    if settings.max_memory != "auto" and settings.max_memory / workers_per_machine() > budget:
        text = mark(
            "max_memory lowered from {memory:g} to {budget:.1f} GB: "
            "this machine has no more beside the 2 GB left to the system"
        )
        notes = (tr(text, memory=settings.max_memory, budget=budget),)
    threads, batch = settings.execution_threads, settings.batch_size
    if threads == "auto":
        threads = _CUDA_THREADS if cuda else 1
    if batch == "auto":  # one per 2 GB; on a CPU one, so that frames come steadily and few are held
        batch = max(1, min(MAX_BATCH_SIZE, int(memory // 2))) if cuda else 1
    values = {"max_memory": round(max(0.5, memory), 2), "execution_threads": threads, "batch_size": batch}
    return settings.with_overrides(**values), notes
