"""The typed model of all settings, and how it is built from presets and overrides.

A setting has the same name, default and validation everywhere: as a field here, a key in ``presets.yaml``, a
command-line option and in a notebook's ``overrides``. Settings that roop has keep roop's names.

``load_settings("quality+ram_8", batch_size=1)`` applies presets from left to right, then keywords.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from colab_helpers.errors import SettingsError, allowed_values
from colab_helpers.language import LANGUAGE_HELP, mark, tr
from colab_helpers.machine import home
from colab_helpers.presets import PresetFile, all_presets, load_presets

Auto = Literal["auto"]
FrameProcessor = Literal["face_swapper", "face_enhancer", "frame_enhancer"]
FaceOrder = Literal["largest", "smallest", "left-right", "right-left", "top-bottom", "bottom-top", "best"]
MaskType = Literal["box", "occlusion", "region"]
FaceRegion = Literal["skin", "brows", "eyes", "glasses", "nose", "mouth", "lips"]
Gpus = Annotated[str, Field(pattern=r"^(|all|cpu(,cpu)*|\d+(,\d+)*)$")]
Percent = Annotated[int, Field(ge=0, le=100)]
Padding = Annotated[tuple[Percent, ...], Field(min_length=4, max_length=4)]
LabelPosition = Literal["bottom-right", "bottom-left", "top-right", "top-left"]
Encoder = Literal["auto", "h264_nvenc", "hevc_nvenc", "libx264", "libx265"]
_LISTS = ("frame_processors", "face_mask_types", "face_mask_padding", "face_mask_regions")

DEFAULT_PRESET = "balanced"
MAX_BATCH_SIZE = 5


class Settings(BaseModel):
    """All settings of a run; frozen, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame_processors: tuple[FrameProcessor, ...] = Field(
        ("face_swapper", "face_enhancer"),
        min_length=1,
        description="Steps in order: face_swapper and face_enhancer change each face, then frame_enhancer "
        "enlarges whole frames.",
    )
    swapper_model: str = Field("inswapper_128", description="Model that swaps the faces.")
    face_swapper_pixel_boost: Literal[128, 256, 512] = Field(
        128, description="Edge of the swapped crop in pixels; above 128, in tiles of the model's own size."
    )
    enhancer_model: str = Field("GFPGANv1.4", description="Model that restores detail in the faces.")
    enhancer_weight: float = Field(
        0.5, ge=0.0, le=1.0, description="CodeFormer only: 0 restores most, 1 stays closest to the face."
    )
    enhancer_blend: Percent = Field(
        80,
        description="Maximum share of the enhanced face, in percent; less is used if the swapped face would "
        "become sharper than the original one.",
    )
    frame_enhancer_model: str = Field(
        "RealESRGAN_x2plus", description="Model that enlarges frames: 2 times; realesr-general-x4v3: 4 times."
    )
    frame_enhancer_blend: Percent = Field(
        80, description="Share of the model in the enlarged frame, in percent; the rest is smooth scaling."
    )
    colour_match: bool = Field(
        False, description="Match the swapped face's colours, by mean and spread, to the face it replaces."
    )

    face_mask_types: Annotated[tuple[MaskType, ...], Field(min_length=1)] | Auto = Field(
        "auto",
        description="Masks that limit the change: box, a soft square; occlusion, keeps what is in front of a "
        "face; region, face_mask_regions only. auto: box, and occlusion if its model is present.",
    )
    face_mask_blur: float = Field(0.3, ge=0.0, le=1.0, description="Softness of the box mask's edge, 0 to 1.")
    face_mask_padding: Padding = Field(
        (0, 0, 0, 0),
        description="Margins of the face crop outside the box mask, in percent: top, right, bottom, left.",
    )
    face_mask_regions: tuple[FaceRegion, ...] = Field(
        get_args(FaceRegion),
        min_length=1,
        description="Parts of a face that the region mask changes; without mouth, the open mouth is kept.",
    )
    occluder_model: str = Field("xseg_1", description="Model that finds what is in front of a face.")
    parser_model: str = Field("bisenet_resnet_34", description="Model that segments the parts of a face.")

    execution_provider: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="Where models run; auto: CUDA if a trial works, else the CPU; cuda: CUDA or fail."
    )
    gpus: Gpus = Field(
        "all",
        description="Workers of a batch: all, one per GPU; 0,1, one on each of these; cpu,cpu, two on the "
        "CPU; empty, one.",
    )
    half_precision: bool | Auto = Field(
        "auto",
        description="Run swapper and enhancer in float16, at about twice the speed and half the memory on a "
        "GPU; auto does so on CUDA if they passed a comparison on this machine.",
    )
    cuda_graphs: bool = Field(
        True,
        description="On CUDA, capture each model as a CUDA graph and replay it, which saves CPU time; a "
        "model that cannot be captured runs without.",
    )
    execution_threads: Annotated[int, Field(ge=1, le=64)] | Auto = Field(
        "auto", description="Groups of frames processed at the same time; auto: 8 on CUDA, 1 on the CPU."
    )
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] | Auto = Field(
        "auto", description="Frames per group, whose faces are processed together by one thread."
    )
    max_memory: Annotated[float, Field(ge=0.5, le=1024)] | Auto = Field(
        "auto", description="Maximum RAM of the run, in GB; auto leaves 2 GB to the system."
    )
    gpu_memory_wait: Annotated[float, Field(ge=0.0, le=600.0)] = Field(
        30.0, description="Maximum wait, in seconds, for other programs to free enough GPU memory."
    )

    segment_seconds: Annotated[float, Field(ge=1.0, le=3600.0)] = Field(
        20.0, description="Length of a video's segments, in seconds: the most that an interruption loses."
    )
    stall_timeout: Annotated[float, Field(ge=10.0, le=7200.0)] = Field(
        300.0, description="Seconds without progress after which a worker counts as hung and is restarted."
    )
    output_wait: Annotated[float, Field(ge=0.0, le=86400.0)] = Field(
        600.0,
        description="Maximum wait, in seconds, while the output folder (such as Drive) is full or gone.",
    )

    overwrite: bool = Field(
        False,
        description="Also replace files that no earlier run into the output folder wrote; otherwise they are "
        "kept and their targets refused. Sources, targets and models are never replaced.",
    )

    many_faces: bool = Field(True, description="Change every face; if false, only whom face_selector picks.")
    face_selector: Literal["one", "principal", "reference"] = Field(
        "one",
        description="Whom to change with many_faces off: one, the first by face_order in the whole video (a "
        "preview knows only its own frame until a run has found the faces); principal, whose face fills most "
        "of the picture for the longest time; reference, the person at reference_face_position in frame "
        "reference_frame_number.",
    )
    face_min_size: int = Field(
        0, ge=0, description="Minimum size of a face to change: the square root of its mean area, in pixels."
    )
    face_selector_gender: Literal["any", "female", "male"] = Field(
        "any",
        description="Change only people of this sex, as genderage.onnx estimates it most often; like age, "
        "ignored if target_person, a reference or people.yaml decides who is changed.",
    )
    face_selector_age_start: Percent = Field(
        0, description="Minimum age of people to change, in years: the mean of the model's estimates."
    )
    face_selector_age_end: Percent = Field(
        100, description="Maximum age of people to change, in years; 0 to 100 excludes nobody."
    )
    face_order: FaceOrder = Field("largest", description="Order of the faces in a frame.")
    reference_face_position: int = Field(
        0, ge=0, description="Position of the reference face in face_order, counted from 0."
    )
    reference_frame_number: int = Field(0, ge=0, description="Frame with the reference face, counted from 0.")
    similar_face_distance: Annotated[float, Field(ge=0.0, le=4.0)] = Field(
        0.85, description="Maximum distance from the reference: squared distance of unit embeddings."
    )
    face_detector_size: Literal[320, 480, 640, 960, 1280] = Field(
        640, description="Edge of the square image that the detector gets, in pixels."
    )
    face_detector_score: float = Field(0.5, ge=0.05, le=0.99, description="Minimum score of a detected face.")

    keep_frames: bool = Field(False, description="Also write every output frame as an image file.")
    temp_frame_format: Literal["png", "jpg"] = Field("png", description="Image format of kept frames.")
    temp_frame_quality: int = Field(100, ge=0, le=100, description="Quality of kept frames, 0 to 100.")

    output_video_encoder: Encoder = Field(
        "auto", description="Video encoder; auto uses NVENC if a trial encode works, else libx264."
    )
    output_video_quality: int = Field(
        25, ge=0, le=51, description="CRF or CQ of the encoder, 0 to 51: lower means better and larger files."
    )
    output_video_preset: str = Field(
        "auto", pattern=r"^[a-z0-9]+$", description="Speed preset of the encoder, such as veryfast or p4."
    )
    output_image_quality: int = Field(95, ge=1, le=100, description="Quality of JPEG and WebP results.")
    keep_fps: bool = Field(True, description="Keep the timestamps of the target; if false, constant 30 fps.")
    skip_audio: bool = Field(False, description="Leave audio out of the result.")

    content_check: Literal["single", "vote"] = Field(
        "single", description="Detectors of refused content: single, one small model; vote, three that vote."
    )
    visible_label: Literal["always", "start", "off"] = Field(
        "always",
        description="Label burnt in where AI changed faces: always; start, the first two seconds of a video; "
        "off, for which disclosure must say what is done instead.",
    )
    visible_label_position: LabelPosition = Field("bottom-right", description="Corner for the visible label.")
    visible_label_size: float = Field(
        2.5, ge=1.0, le=20.0, description="Letter size of the label, in percent of the image's shorter side."
    )
    visible_label_text: str = Field(
        "", max_length=80, description="Text of the label; empty: a standard one, such as AI-altered faces."
    )
    disclosure: str = Field(
        "", max_length=500, description="How else viewers are informed; written to report and manifest."
    )
    signing_certificate: str = Field(
        "local",
        description="Certificate that signs results: local, made on this machine, cannot show who signed; or "
        "a PEM file of your certificate chain, your own first, with its unencrypted key.",
    )

    language: Literal["auto", "en", "es"] = Field("auto", description=LANGUAGE_HELP)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_true_as_one(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError(tr("true and false are not numbers"))
        return value

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Split a text at its commas."""
        split = isinstance(value, str) and value != "auto"
        return [part.strip() for part in str(value).split(",")] if split else value

    @field_validator("visible_label", "visible_label_text", "disclosure", "gpus", mode="before")
    @classmethod
    def _undo_yaml_types(cls, value: object, info: ValidationInfo) -> object:
        """Turn back into text what YAML reads as a boolean (``off``), null or a number."""
        if info.field_name == "visible_label":
            return ("always" if value else "off") if isinstance(value, bool) else value
        return "" if value is None else str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if len(set(self.frame_processors)) != len(self.frame_processors):
            raise ValueError(tr("frame_processors lists a step twice"))
        steps, order = self.frame_processors, get_args(FrameProcessor)
        if steps[0] == order[2] or list(steps) != sorted(steps, key=order.index):
            text = mark("frame_processors: allowed order: {order}, the last never alone")
            raise ValueError(tr(text, order=", ".join(order)))
        if self.many_faces and self.face_selector != "one":
            text = mark(
                "many_faces changes every face and face_selector={selector} only one; "
                "set many_faces to false to change that one"
            )
            raise ValueError(tr(text, selector=self.face_selector))
        if self.visible_label == "off" and not self.disclosure.strip():
            raise ValueError(
                tr("visible_label is off: say in disclosure how viewers are informed, e.g. in the credits")
            )
        if self.face_selector_age_start > self.face_selector_age_end:
            raise ValueError(tr("face_selector_age_start is greater than face_selector_age_end"))
        return self

    @property
    def needs_attributes(self) -> bool:
        """Whether sex or age decides who is changed."""
        selection = self.face_selector_gender, self.face_selector_age_start, self.face_selector_age_end
        return selection != ("any", 0, 100)

    @property
    def worker_timeout(self) -> float:
        """Seconds without a sign of life after which a worker is killed; it may wait for GPU memory."""
        return self.stall_timeout + self.gpu_memory_wait

    def with_overrides(self, **overrides: object) -> Settings:
        """Return a validated copy with some fields replaced."""
        return validate_settings({**self.model_dump(), **overrides}, preset=tr("overrides"))


def field_help(name: str) -> str:
    """Return the description of a setting in the current language, for forms and ``--help``."""
    return tr(Settings.model_fields[name].description or "")


def preset_values(presets: PresetFile, preset: str) -> dict[str, Any]:
    """Return the values set by a preset, or by several joined with ``+`` (later ones win).

    Raise SettingsError if there is no such preset, or it has an invalid value.
    """
    values: dict[str, Any] = {}
    for name in map(str.strip, preset.split("+")):
        validate_settings(presets.values(name), preset=name)
        values |= presets.values(name)
    return values


def load_settings(
    preset: str = DEFAULT_PRESET, /, *, presets_file: Path | None = None, **overrides: Any
) -> Settings:
    """Build settings from presets and overrides.

    Args:
        preset: A name from the preset file, or several joined by ``+`` (later ones win).
        presets_file: Preset file to use instead of the shipped ``presets.yaml`` and the user's, which is in
            the folder ``machine.home()``.
        **overrides: Any fields of ``Settings``; they win over the presets.

    Raises:
        SettingsError: An unknown preset or key, an invalid value, or values that exclude each other. The
            message names preset, key, value and what is allowed.
    """
    presets = load_presets(presets_file)
    if presets_file is None and not {name.strip() for name in preset.split("+")} <= presets.known.keys():
        # The user's file is read only if needed, so that a damaged one does no harm otherwise.
        presets = all_presets(home())
    source = tr("{preset} with overrides", preset=preset) if overrides else preset
    return validate_settings({**preset_values(presets, preset), **overrides}, preset=source)


def validate_settings(values: Mapping[str, Any], *, preset: str) -> Settings:
    """Validate a mapping of settings; raise one SettingsError for all problems, with ``preset`` as source."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        remedy = tr("correct the value")
        if any(item["type"] == "extra_forbidden" for item in error.errors()):
            remedy = tr("known keys: {keys}", keys=", ".join(sorted(Settings.model_fields)))
        context, problems = tr("preset {preset!r}", preset=preset), map(_problem, error.errors())
        what = tr("{context}: {complaints}", context=context, complaints="; ".join(dict.fromkeys(problems)))
        raise SettingsError(what, remedy=remedy) from error


def _problem(item: Any) -> str:
    key = str(item["loc"][0]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        return tr("unknown key {key!r} = {value!r}", key=key, value=item["input"])
    if key in Settings.model_fields:
        allowed = allowed_values(Settings.model_json_schema()["properties"][key])
        text = mark("{key} = {value!r} is not allowed; allowed: {allowed}")
        return tr(text, key=key, value=item["input"], allowed=allowed)
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
