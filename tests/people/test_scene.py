from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.people.actors import portrait
from tests.people.looks import IDENTITIES, look_of, random_look
from tests.people.scene import Scene

SIZE = (320, 180)


def _scene(seed: int, **options: object) -> Scene:
    return Scene(seed, SIZE, Fraction(25), 4.0, **options)  # type: ignore[arg-type]


def test_frame_depends_only_on_seed_and_number() -> None:
    scene = _scene(5)
    first, faces = scene.render(30)
    scene.render(3)
    for other in (scene, _scene(5)):
        second, again = other.render(30)
        assert np.array_equal(first, second)
        assert [face.as_json() for face in faces] == [face.as_json() for face in again]
    assert not np.array_equal(first, _scene(2).render(30)[0])


def test_every_identity_is_cast_by_some_seed() -> None:
    assert {who for seed in range(40) for who in _scene(seed).cast} == set(IDENTITIES)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_truth_is_consistent(seed: int) -> None:
    scene = _scene(seed)
    for i in range(0, scene.frames, 17):
        for face in scene.render(i)[1]:
            assert 0 < face.visible <= 1
            assert (face.kps >= face.box[:2]).all()
            assert (face.kps <= face.box[2:]).all()
            left, right, nose, mouth_left, mouth_right = face.kps
            turned = np.deg2rad(-face.roll)
            turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
            upright = (face.kps - nose) @ turn.T
            assert upright[0, 0] < upright[1, 0]
            assert upright[3, 0] < upright[4, 0]
            assert upright[0, 1] < 0 < upright[3, 1]
            assert abs(np.rad2deg(np.arctan2(*(right - left)[::-1])) - face.roll) < 12
            assert np.linalg.norm(mouth_right - mouth_left) > 3


def test_eyes_are_at_their_landmarks() -> None:
    # White sclera and dark pupil lie in a small square around the landmark.
    scene = Scene(3, (640, 360), Fraction(25), 4.0, 1, cast=["alma"])
    for i in (0, 10):
        image, faces = scene.render(i)
        gap = float(np.linalg.norm(faces[0].kps[1] - faces[0].kps[0]))
        for x, y in faces[0].kps[:2]:
            reach = round(0.18 * gap)
            patch = image[round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1]
            assert patch.max() > 150
            assert patch.min() < 60


def test_true_swap_changes_the_inner_face_only() -> None:
    scene = _scene(21)
    other = next(who for who in IDENTITIES if who not in scene.cast)
    result = scene.render_all(5, [other])
    changed = (result.frame != result.swapped[other]).any(2)
    outside = np.ones(changed.shape, bool)
    for face in result.faces:
        x0, y0, x1, y1 = np.round(face.box + np.array([-3, -3, 3, 3])).astype(int)
        outside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = False
    assert not changed[outside].any()
    inside = result.mask > 0.9
    assert inside.sum() > 200
    assert changed[inside].mean() > 0.5  # skin between features may be equal
    y, x = np.indices(changed.shape)
    near = np.zeros_like(inside)
    for face in result.faces:
        gap = np.linalg.norm(face.kps[1] - face.kps[0])
        for point in face.kps:
            near |= np.hypot(x - point[0], y - point[1]) < 0.3 * gap
    assert changed[inside & near].mean() > 0.7


def test_swap_keeps_body_and_tone_and_self_swap_changes_nothing() -> None:
    scene = _scene(4, people=1, cast=["alma"])
    result = scene.render_all(0, ["alma", "chidi"])
    assert np.array_equal(result.frame, result.swapped["alma"])
    inside = result.mask > 0.9
    medians = [np.median(image[inside], axis=0) for image in (result.frame, result.swapped["chidi"])]
    assert np.abs(medians[0] - medians[1]).max() < 8
    own, other = look_of("alma"), look_of("bruno")
    swapped = own.with_face_of(other)
    assert (swapped.body, swapped.skin) == (own.body, own.face)
    assert swapped.face == replace(other.face, tone=own.skin.tone, warmth=own.skin.warmth)


def test_two_people_can_change_places() -> None:
    scene = Scene(1, SIZE, Fraction(25), 4.0, 2, crossing=True)
    seen = {i: {face.who: face for face in scene.render(i)[1]} for i in range(0, scene.frames, 4)}
    order = [sorted(faces, key=lambda who: float(faces[who].box[0])) for faces in seen.values()]
    assert order[0] == order[-1][::-1] != order[-1]
    assert any(face.visible < 0.5 for faces in seen.values() for face in faces.values())


def test_people_leave_and_are_covered_sometimes() -> None:
    visible: list[float] = []
    absent = 0
    for seed in range(4):
        scene = Scene(seed, SIZE, Fraction(10), 6.0, 1)
        for i in range(0, scene.frames, 2):
            faces = scene.render(i)[1]
            absent += not faces
            visible += [face.visible for face in faces]
    assert absent > 2
    assert sum(0.1 < v < 0.85 for v in visible) > 4
    assert sum(v > 0.995 for v in visible) > 0.5 * len(visible)


def test_scene_without_people_has_no_faces() -> None:
    image, faces = _scene(9, people=0).render(0)
    assert (faces, image.shape, image.dtype) == ((), (180, 320, 3), np.uint8)
    assert image.std() > 10


def test_mask_is_the_visible_inner_face() -> None:
    result = _scene(23, people=1).render_all(0)
    assert result.mask.shape == result.frame.shape[:2]
    assert 0 <= result.mask.min() <= result.mask.max() <= 1
    x, y = result.faces[0].kps[2]
    assert result.mask[round(y), round(x)] > 0.95


def test_identities_are_distinct_and_random_looks_repeatable() -> None:
    small = [portrait(who, size=96).astype(int) for who in IDENTITIES]
    vectors = [look_of(who).face.vector() for who in IDENTITIES]
    for n in range(len(small)):
        for k in range(n):
            assert np.abs(small[n] - small[k]).mean() > 3
            assert np.linalg.norm(vectors[n] - vectors[k]) > 0.9
    assert random_look(np.random.default_rng(3)) == random_look(np.random.default_rng(3))
    with pytest.raises(ValueError, match="alma"):
        portrait("nobody")
