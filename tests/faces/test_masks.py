"""Face masks: excluded pixels stay unchanged in every network's crop, and masks do not flicker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.errors import ModelError
from colab_helpers.faces.changer import FaceChanger, FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import FFHQ_512, arcface_template, similarity_transform
from colab_helpers.faces.grain import Grain
from colab_helpers.faces.masks import FaceMasks, RawVisibility, _median, face_mask, smooth_visibility
from colab_helpers.faces.occluder import FaceParser, Occluder
from colab_helpers.media.affine import invert, transform_points
from colab_helpers.media.picture import BgrPicture
from colab_helpers.models.session import Runtime
from colab_helpers.settings import load_settings
from tests.helpers.faces import face

FACE = face(160, 160, size=2)
XSEG, BISENET = (256, 256, 3), (3, 512, 512)
Grey = npt.NDArray[np.uint8]


def network(
    path: Path, in_shape: tuple[int | str, ...], output: npt.NDArray[np.float32] | None = None
) -> Any:
    """A network with constant output, or the identity."""
    out_shape = list(in_shape if output is None else output.shape)
    node = helper.make_node("Identity", ["input"], ["output"])
    if output is not None:
        node = helper.make_node("Constant", [], ["output"], value=numpy_helper.from_array(output[None]))
    ends = [("input", ["batch", *in_shape]), ("output", ["batch", *out_shape])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
    model = helper.make_model(
        helper.make_graph([node], "net", info[:1], info[1:]),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    onnx.save(model, path)
    return Runtime("cpu", threads=1).open(path)


def raw_visibility(visibility: int | Grey, grey: int | Grey = 100) -> RawVisibility:
    return RawVisibility(
        *(np.full((256, 256), one, np.uint8) if isinstance(one, int) else one for one in (visibility, grey))
    )


def cover(value: int = 0, *, rest: int = 255, part: Any = np.s_[100:156, 120:200]) -> Grey:
    picture = np.full((256, 256), rest, np.uint8)
    picture[part] = value
    return picture


# --- the box --------------------------------------------------------------------------------------------


def test_blur_and_padding_of_box_mask() -> None:
    sharp, usual, softer = (face_mask(128, blur) for blur in (0.0, 0.3, 0.6))
    assert set(np.unique(sharp)) == {0.0, 1.0}
    expected = cv2.GaussianBlur(sharp, (0, 0), 0.035 * 128)
    np.testing.assert_allclose(usual[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-5)
    np.testing.assert_array_equal(usual, face_mask(128))
    edge, soft_edge = (np.sum((mask > 0.1) & (mask < 0.9)) for mask in (usual, softer))
    assert soft_edge > 1.5 * edge
    padded = face_mask(100, 0.0, (30, 25, 20, 15))
    rows, cols = np.flatnonzero(padded.any(1)), np.flatnonzero(padded.any(0))
    assert (rows[0], rows[-1], cols[0], cols[-1]) == (30, 79, 15, 74)
    assert face_mask(128, box=False)[1:-1, 1:-1].min() == 1
    assert face_mask(128, box=False)[0].max() == 0


# --- occlusion ------------------------------------------------------------------------------------------


def test_occluded_pixels_are_excluded_in_each_crop_and_keep_grain() -> None:
    visibility = smooth_visibility(raw_visibility(cover()))
    assert visibility is not None
    assert visibility[102:154, 122:198].max() == 0, "the soft edge reaches into the covered area"
    assert np.median(visibility[100, 125:195]) < 64
    assert visibility[:98].min() == 255
    masks = FaceMasks()
    inverse = invert(similarity_transform(FACE.kps, FFHQ_512 / 2))
    inside = transform_points([[124, 104], [196, 152], [160, 128]], inverse)
    visible = transform_points([[110, 128], [210, 128]], inverse)
    for size, template in ((128, arcface_template(128)), (512, FFHQ_512)):
        matrix = similarity_transform(FACE.kps, template)
        mask = masks.of(size, matrix, FACE, visibility)
        points = [
            (transform_points(one, matrix) * len(mask) / size).round().astype(int)
            for one in (inside, visible)
        ]
        assert [mask[y, x] for x, y in points[0]] == [0, 0, 0]
        assert min(mask[y, x] for x, y in points[1]) > 0.9
    noise = np.random.default_rng(0).normal(0, 6, (320, 320))
    picture = BgrPicture(cv2.merge([(120 + noise).clip(0, 255).astype(np.uint8)] * 3))
    grain = Grain.of(picture, FACE, visibility, masks)
    assert grain is not None
    picture.image[:] = 120
    grain.restore()
    left, top, right, bottom = transform_points([[126, 106], [194, 150]], inverse).round().astype(int).ravel()
    assert picture.image[top:bottom, left:right].std() == 0
    assert picture.image[130:190, 100:120].std() > 3


def test_uncovered_face_uses_the_box_mask(tmp_path: Path) -> None:
    assert smooth_visibility(None) is None
    assert smooth_visibility(raw_visibility(255), [raw_visibility(255)] * 4) is None
    matrix = similarity_transform(FACE.kps, arcface_template(128))
    assert FaceMasks().of(128, matrix, FACE, None) is FaceMasks().of(128, matrix, FACE, None)
    np.testing.assert_array_equal(FaceMasks().of(128, matrix, FACE, None), face_mask(128))
    assert FaceMasks().raw_visibility(BgrPicture(np.zeros((320, 320, 3), np.uint8)), [FACE, FACE]) == [
        None,
        None,
    ]


def test_single_frame_doubt_is_smoothed_and_brief_occluder_kept() -> None:
    clear, uncertain = raw_visibility(255), raw_visibility(cover())
    assert smooth_visibility(uncertain, [clear] * 4) is None
    settled = smooth_visibility(clear, [uncertain] * 4)
    assert settled is not None
    assert settled[128, 160] == 0
    passing = raw_visibility(cover(), cover(30, rest=100))  # the picture has changed, too
    np.testing.assert_array_equal(smooth_visibility(passing, [clear] * 4), smooth_visibility(uncertain))
    assert smooth_visibility(clear, [passing] * 4) is None
    # The frame's own mask replaces missing neighbours.
    assert smooth_visibility(uncertain, [clear, clear, None, None]) is not None
    assert smooth_visibility(uncertain, [clear, clear, clear]) is None


@pytest.mark.parametrize("count", range(5))
def test_median_equals_numpy(count: int) -> None:
    values = np.random.default_rng(count).integers(0, 256, (5, 256, 256), np.uint8)
    values[:, :5] = 255 * (values[:, :5] > 127)
    np.testing.assert_array_equal(_median(list(values)), np.median(values, axis=0))


# --- the networks ---------------------------------------------------------------------------------------


def test_occluder_input_is_bgr_with_channels_last(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    output = np.linspace(-0.5, 1.5, 256 * 256, dtype=np.float32).reshape(256, 256, 1)
    occluder = Occluder(network(tmp_path / "own.onnx", XSEG, output))
    feeds: list[npt.NDArray[np.float32]] = []
    run = occluder.network.session.run

    class RecordingSession:
        def run(self, names: Any, feed: dict[str, Any]) -> Any:
            feeds.append(feed["input"])
            return run(names, feed)

    object.__setattr__(occluder.network, "session", RecordingSession())
    visibilities = occluder.seen(list(crops))
    np.testing.assert_allclose(np.concatenate(feeds), crops / 255, atol=1e-6)
    assert (visibilities.shape, visibilities.dtype) == ((2, 256, 256), np.uint8)
    np.testing.assert_array_equal(visibilities[1], np.rint(output[..., 0].clip(0, 1) * 255))


def test_chosen_regions_are_visible_and_open_mouth_is_optional(tmp_path: Path) -> None:
    parts = np.zeros((512, 512), np.uint8)
    parts[100:450, 100:410], parts[340:400, 200:310], parts[360:380, 220:290] = 1, 12, 11
    logits = (parts == np.arange(19)[:, None, None]).astype(np.float32)
    parser = FaceParser(network(tmp_path / "own.onnx", BISENET, logits))
    picture = BgrPicture(np.full((320, 320, 3), 90, np.uint8))

    def visibility(*regions: Any) -> Grey:
        (raw,) = FaceMasks(parser=parser, regions=regions).raw_visibility(picture, [FACE])
        assert raw is not None
        return raw.visibility

    mouth, lip, skin, outside = (185, 127), (175, 127), (100, 100), (20, 20)
    for regions, expected in {
        ("skin", "lips", "mouth"): [255, 255, 255, 0],
        ("skin", "lips"): [0, 255, 255, 0],
        ("mouth",): [255, 0, 0, 0],
    }.items():
        assert [visibility(*regions)[at] for at in (mouth, lip, skin, outside)] == expected
    occluder = Occluder(network(tmp_path / "xseg.onnx", XSEG, (cover() / 255).astype(np.float32)[..., None]))
    both = FaceMasks(occluder=occluder, parser=parser, regions=("skin",)).raw_visibility(picture, [FACE])[0]
    assert both is not None
    np.testing.assert_array_equal(both.visibility, np.minimum(visibility("skin"), cover()))


def test_parser_input_is_rgb_with_imagenet_normalisation(tmp_path: Path) -> None:
    crop = np.zeros((512, 512, 3), np.uint8)
    crop[:] = (255 * 0.406, 255 * 0.456, 255)  # BGR
    feeds: list[Any] = []
    parser = FaceParser(network(tmp_path / "own.onnx", BISENET, np.zeros((19, 512, 512), np.float32)))

    class RecordingSession:
        def run(self, _names: Any, feed: dict[str, Any]) -> Any:
            feeds.append(feed["input"])
            return [np.zeros((1, 19, 512, 512), np.float32)]

    object.__setattr__(parser.network, "session", RecordingSession())
    assert parser.parts([crop]).max() == 0
    assert feeds[0][0, :, 9, 9] == pytest.approx([(1 - 0.485) / 0.229, 0, 0], abs=0.02)


@pytest.mark.parametrize("kind", [Occluder, FaceParser])
def test_network_with_another_contract_is_refused(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"must map shape .* to .*use (xseg_1|bisenet_resnet_34)\.onnx"
    ) as caught:
        kind(network(tmp_path / "wrong.onnx", (3, 256, 256)))
    kind(network(tmp_path / "open.onnx", ("any", "any", "any")))  # dynamic sizes
    assert str(tmp_path / "wrong.onnx") in str(caught.value)


# --- networks loaded by a run - -------------------------------------------------------------------------


def opened(models: Path, **overrides: Any) -> Engine:
    settings = load_settings(frame_processors="face_swapper", execution_provider="cpu", **overrides)
    return Engine.open(settings, models_dir=models)


def test_occlusion_needs_its_network_else_is_noted(constant_models: Path, tmp_path: Path) -> None:
    engine = opened(constant_models)
    assert engine.settings.face_mask_types == ("box", "occlusion")
    assert engine.masks.occluder is not None
    assert "xseg_1" in [one.name for one in engine.networks]
    assert engine.notes == ()
    boxed = opened(constant_models, face_mask_types="box", face_mask_padding=(1, 2, 3, 4), face_mask_blur=0.5)
    assert not boxed.masks.uses_networks
    assert (boxed.masks.padding, boxed.masks.blur) == ((1, 2, 3, 4), 0.5)
    for name in ("buffalo_l", "inswapper_128.onnx"):
        (tmp_path / name).symlink_to(constant_models / name)
    without = opened(tmp_path)
    assert without.settings.face_mask_types == ("box",)
    assert [
        note
        for note in without.notes
        if "in front of a face are painted over: the occlusion model xseg_1.onnx" in note
    ]
    for wanted, name in (("box,occlusion", "xseg_1"), ("region", "bisenet_resnet_34")):
        with pytest.raises(ModelError, match=f"{name}.onnx"):
            opened(tmp_path, face_mask_types=wanted)


def test_changer_leaves_covered_pixels_unchanged(constant_models: Path) -> None:
    engine = opened(constant_models)
    assert engine.swapper is not None

    class InvertingSwapper:
        size, template = 128, arcface_template(128)

        def swap(self, crops: Any, _latents: Any) -> Any:
            return 255 - np.stack(crops)

    image = np.random.default_rng(0).integers(0, 80, (320, 320, 3), np.uint8)
    picture = BgrPicture(image.copy())
    changer: Any = FaceChanger(InvertingSwapper(), np.ones(512, np.float32), None)  # type: ignore[arg-type]
    changer.change([FaceJob(picture, FACE, smooth_visibility(raw_visibility(cover())))])
    inverse = invert(similarity_transform(FACE.kps, FFHQ_512 / 2))
    left, top, right, bottom = transform_points([[124, 104], [196, 152]], inverse).round().astype(int).ravel()
    changed = np.abs(picture.image.astype(int) - image).max(2)
    assert changed[top:bottom, left:right].max() == 0
    assert np.median(changed[top:bottom, left - 40 : left - 10]) > 100
