"""One typed model of every setting, and how it is put together.

A setting has one name, one default and one validation wherever it appears: as a field here, as a key
in ``presets.yaml``, as a command-line option and in a notebook's ``overrides``. The names are those
that users of roop know, where roop has the setting.

``load_settings("quality+ram_8", batch_size=1)`` overlays presets from left to right, then keywords.
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
    """Every setting of a run. Frozen; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame_processors: tuple[FrameProcessor, ...] = Field(
        ("face_swapper", "face_enhancer"),
        min_length=1,
        description="What is done to each face, in this order; frame_enhancer then enlarges whole frames.",
    )
    swapper_model: str = Field("inswapper_128", description="Network that paints the source's face.")
    face_swapper_pixel_boost: Literal[128, 256, 512] = Field(
        128,
        description="Edge of the crops that are swapped, in pixels, by tiles of the swapper's own; 128: off.",
    )
    enhancer_model: str = Field("GFPGANv1.4", description="Network that restores detail in the face.")
    enhancer_weight: float = Field(
        0.5, ge=0.0, le=1.0, description="For CodeFormer: 0 restores most, 1 stays closest to the face."
    )
    enhancer_blend: Percent = Field(
        80,
        description="How much of the enhanced face is used at most, in percent; less where a swapped face "
        "would come out sharper than the face in the shot was.",
    )
    frame_enhancer_model: str = Field(
        "RealESRGAN_x2plus", description="Network that enlarges frames; realesr-general-x4v3 four times."
    )
    frame_enhancer_blend: Percent = Field(
        80, description="How much of the enlarged frame is the network's, in percent; the rest is smooth."
    )
    colour_match: bool = Field(
        False, description="Give swapped faces mean and spread of the colours of the faces they replace."
    )

    face_mask_types: Annotated[tuple[MaskType, ...], Field(min_length=1)] | Auto = Field(
        "auto",
        description="What limits a change: box, a soft square; occlusion, what is in front of a face stays; "
        "region, only face_mask_regions change. auto is box, and occlusion where its network is present.",
    )
    face_mask_blur: float = Field(0.3, ge=0.0, le=1.0, description="How soft the box's edge is, 0 to 1.")
    face_mask_padding: Padding = Field(
        (0, 0, 0, 0),
        description="What the box leaves out of the face's crop at top, right, bottom and left, in percent.",
    )
    face_mask_regions: tuple[FaceRegion, ...] = Field(
        get_args(FaceRegion),
        min_length=1,
        description="Parts of a face that region changes; without mouth, what open lips show stays.",
    )
    occluder_model: str = Field("xseg_1", description="Network that tells what is in front of a face.")
    parser_model: str = Field("bisenet_resnet_34", description="Network that tells a face's parts apart.")

    execution_provider: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="Where networks run: auto takes CUDA when a trial proves it, cuda insists on it.",
    )
    gpus: Gpus = Field(
        "all",
        description="Workers of a batch: all, one on each GPU; 0,1 on these; cpu,cpu without; empty, one.",
    )
    half_precision: bool | Auto = Field(
        "auto",
        description="Compute swapper and enhancer in float16: about twice the speed and half the memory on a "
        "GPU; auto uses it on CUDA where a comparison on this machine accepted it.",
    )
    cuda_graphs: bool = Field(
        True,
        description="On CUDA, capture what a network does once and replay it, which spares the processors; "
        "one that cannot be captured runs without.",
    )
    execution_threads: Annotated[int, Field(ge=1, le=64)] | Auto = Field(
        "auto", description="Groups of frames worked on at the same time; auto: 8 on CUDA, 1 on the CPU."
    )
    batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)] | Auto = Field(
        "auto", description="Frames whose faces are changed together, as one piece of a thread's work."
    )
    max_memory: Annotated[float, Field(ge=0.5, le=1024)] | Auto = Field(
        "auto", description="RAM the run may hold, in GB; auto leaves 2 GB to the system."
    )
    gpu_memory_wait: Annotated[float, Field(ge=0.0, le=600.0)] = Field(
        30.0,
        description="Longest wait for GPU memory that other programs hold, in seconds; it ends as soon as "
        "enough is free.",
    )

    segment_seconds: Annotated[float, Field(ge=1.0, le=3600.0)] = Field(
        20.0,
        description="Length of the pieces a video is encoded in, in seconds: the most an interruption costs.",
    )
    stall_timeout: Annotated[float, Field(ge=10.0, le=7200.0)] = Field(
        300.0,
        description="Seconds without any progress after which the worker process counts as hung and is "
        "started again.",
    )
    output_wait: Annotated[float, Field(ge=0.0, le=86400.0)] = Field(
        600.0,
        description="Longest wait for an output folder that is full or has gone, such as Drive, in seconds.",
    )

    overwrite: bool = Field(
        False,
        description="Also replace files that no earlier run into the output folder made; otherwise they are "
        "kept and their targets refused. Sources, targets and models are never replaced.",
    )

    many_faces: bool = Field(True, description="Change every face; otherwise the one of face_selector.")
    face_selector: Literal["one", "principal", "reference"] = Field(
        "one",
        description="With many_faces off: one takes who comes first by face_order, in a video over the whole "
        "of it (a preview shows the same once a run has found the video's faces; before, it knows one frame "
        "only), principal whose face takes most of the picture for the longest time, reference follows the "
        "person shown at reference_face_position in frame reference_frame_number.",
    )
    face_min_size: int = Field(
        0, ge=0, description="Least size of a face that is changed: the root of its mean area, in pixels."
    )
    face_selector_gender: Literal["any", "female", "male"] = Field(
        "any",
        description="Change only people of this sex, as genderage.onnx tells from most looks; like age, it "
        "has no say where target_person, a reference or people.yaml tells who is changed.",
    )
    face_selector_age_start: Percent = Field(
        0, description="Least age of people who are changed: the mean of what the network guesses, in years."
    )
    face_selector_age_end: Percent = Field(
        100, description="Greatest age of people who are changed; from 0 to 100 nobody is left out."
    )
    face_order: FaceOrder = Field("largest", description="How the faces of a frame are ordered.")
    reference_face_position: int = Field(0, ge=0, description="Which face in that order, counted from 0.")
    reference_frame_number: int = Field(
        0, ge=0, description="Frame that shows the reference face, counted from 0."
    )
    similar_face_distance: Annotated[float, Field(ge=0.0, le=4.0)] = Field(
        0.85,
        description="How far a face may be from the reference: squared distance of unit embeddings.",
    )
    face_detector_size: Literal[320, 480, 640, 960, 1280] = Field(
        640, description="Edge of the square picture the detector sees, in pixels."
    )
    face_detector_score: float = Field(0.5, ge=0.05, le=0.99, description="Least score of a face.")

    keep_frames: bool = Field(False, description="Also write every output frame as an image file.")
    temp_frame_format: Literal["png", "jpg"] = Field("png", description="Format of kept frames.")
    temp_frame_quality: int = Field(100, ge=0, le=100, description="Quality of kept frames, 0 to 100.")

    output_video_encoder: Encoder = Field(
        "auto", description="Video encoder; auto takes NVENC when a trial encode works, else libx264."
    )
    output_video_quality: int = Field(
        25, ge=0, le=51, description="CRF/CQ of the encoder, 0 to 51: lower is better and larger."
    )
    output_video_preset: str = Field(
        "auto", pattern=r"^[a-z0-9]+$", description="The encoder's own speed preset, such as veryfast or p4."
    )
    output_image_quality: int = Field(95, ge=1, le=100, description="Quality of JPEG and WebP results.")
    keep_fps: bool = Field(True, description="Keep the timestamps of the target; otherwise 30 fps constant.")
    skip_audio: bool = Field(False, description="Leave the sound out of the result.")

    content_check: Literal["single", "vote"] = Field(
        "single", description="Who looks for content that is refused: one small network, or three that vote."
    )
    visible_label: Literal["always", "start", "off"] = Field(
        "always",
        description="A few words burnt in where AI changed faces: always, start (the first two seconds of a "
        "video), or off, for which disclosure has to say what is done instead.",
    )
    visible_label_position: LabelPosition = Field("bottom-right", description="Corner of the label.")
    visible_label_size: float = Field(
        2.5, ge=1.0, le=20.0, description="Size of its letters, in percent of the picture's shorter side."
    )
    visible_label_text: str = Field(
        "", max_length=80, description="Its words; empty: those of the language, such as AI-altered faces."
    )
    disclosure: str = Field(
        "", max_length=500, description="How else people are told; goes into report and manifest."
    )
    signing_certificate: str = Field(
        "local",
        description="What signs results: local, a certificate made on this machine, which cannot show who "
        "signed; or a PEM file of your certificates, your own first, and its unencrypted key.",
    )

    language: Literal["auto", "en", "es"] = Field("auto", description=LANGUAGE_HELP)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_true_as_one(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError(tr("true and false are no numbers"))
        return value

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """One word, or several joined by commas, may be written as a text."""
        listed = isinstance(value, str) and value != "auto"
        return [part.strip() for part in str(value).split(",")] if listed else value

    @field_validator("visible_label", "visible_label_text", "disclosure", "gpus", mode="before")
    @classmethod
    def _as_meant(cls, value: object, info: ValidationInfo) -> object:
        """What YAML reads ``off``, nothing, and a number, as."""
        if info.field_name == "visible_label":
            return ("always" if value else "off") if isinstance(value, bool) else value
        return "" if value is None else str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if len(set(self.frame_processors)) != len(self.frame_processors):
            raise ValueError(tr("frame_processors names a step twice"))
        steps, order = self.frame_processors, get_args(FrameProcessor)
        if steps[0] == order[2] or list(steps) != sorted(steps, key=order.index):
            text = mark("frame_processors: allowed order: {order}, of which the last never stands alone")
            raise ValueError(tr(text, order=", ".join(order)))
        if self.many_faces and self.face_selector != "one":
            text = mark(
                "many_faces changes every face and face_selector={selector} only one; "
                "set many_faces to false to change that one"
            )
            raise ValueError(tr(text, selector=self.face_selector))
        if self.visible_label == "off" and not self.disclosure.strip():
            text = mark(
                "visible_label is off: write into disclosure how else people are told, e.g. in the credits"
            )
            raise ValueError(tr(text))
        if self.face_selector_age_start > self.face_selector_age_end:
            raise ValueError(tr("face_selector_age_start is above face_selector_age_end"))
        return self

    @property
    def asks_attributes(self) -> bool:
        """Whether sex or age decides who is changed."""
        asked = self.face_selector_gender, self.face_selector_age_start, self.face_selector_age_end
        return asked != ("any", 0, 100)

    def with_overrides(self, **overrides: object) -> Settings:
        """Return a validated copy with some fields replaced."""
        return validate_settings({**self.model_dump(), **overrides}, preset=tr("overrides"))


def field_help(name: str) -> str:
    """Return the one-line description of a setting in the language spoken, for forms and ``--help``."""
    return tr(Settings.model_fields[name].description or "")


def preset_values(presets: PresetFile, preset: str) -> dict[str, Any]:
    """Return the keys that a preset, or several joined by ``+`` (later ones win), set.

    Raises:
        SettingsError: There is no preset of that name, or it holds a bad value.
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
        presets_file: Another file than the shipped ``presets.yaml`` and the user's own of that name, which
            lies in the folder that ``machine.home`` names.
        **overrides: Any field of ``Settings``; wins over the presets.

    Raises:
        SettingsError: An unknown preset or key, a bad value, or values that exclude each other. The
            message names preset, key, value and what is allowed.
    """
    presets = load_presets(presets_file)
    if presets_file is None and not {name.strip() for name in preset.split("+")} <= presets.known.keys():
        # A damaged file of the user's stops nobody who does not need it.
        presets = all_presets(home())
    told = tr("{preset} with overrides", preset=preset) if overrides else preset
    return validate_settings({**preset_values(presets, preset), **overrides}, preset=told)


def validate_settings(values: Mapping[str, Any], *, preset: str) -> Settings:
    """Validate a plain mapping, turning every complaint into one readable error."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        remedy = tr("correct the value")
        if any(item["type"] == "extra_forbidden" for item in error.errors()):
            remedy = tr("known keys: {keys}", keys=", ".join(sorted(Settings.model_fields)))
        context, said = tr("preset {preset!r}", preset=preset), dict.fromkeys(map(_complaint, error.errors()))
        what = tr("{context}: {complaints}", context=context, complaints="; ".join(said))
        raise SettingsError(what, remedy=remedy) from error


def _complaint(item: Any) -> str:
    key = str(item["loc"][0]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        return tr("unknown key {key!r} = {value!r}", key=key, value=item["input"])
    if key in Settings.model_fields:
        allowed = allowed_values(Settings.model_json_schema()["properties"][key])
        text = mark("{key} = {value!r} is not allowed; allowed: {allowed}")
        return tr(text, key=key, value=item["input"], allowed=allowed)
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
