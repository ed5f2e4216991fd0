"""Appearance of the rendered people: parameter vectors, eight named characters, random draws.

A person has two halves. The *face* half (:class:`Face`) is what a face swapper changes: brows, eyes,
width of the nose, lips, beard and signs of age, all within the inner face. The *body* half
(:class:`Body`) is what it keeps: outline of the head, positions of eyes, nose and mouth, ears, hair, neck
and clothes. It also keeps the skin tone (``KEPT``), as real swappers do. The landmarks depend on the body
only, so a swapped frame has the same ones.

Nobody here is modelled on a real person; the parameters were chosen to make eight distinct characters.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Style = Literal["short", "fringe", "parted", "long", "bob", "curly", "bun", "receding", "bald"]
STYLES: tuple[Style, ...] = ("short", "fringe", "parted", "long", "bob", "curly", "bun", "receding", "bald")
Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Face:
    """The half of a look that a face swapper replaces; all parameters lie in 0..1."""

    tone: float  # skin from very light to very dark
    warmth: float  # skin from pinkish to golden
    brow_thickness: float  # thin to bushy
    brow_tilt: float  # inner end high to outer end high
    brow_shade: float  # colour of brows and beard, black over brown to white
    eye_size: float  # narrow to wide eyes
    eye_tilt: float  # outer corner low to high
    iris: float  # dark brown, hazel, green, blue, pale grey
    lashes: float  # bare to strongly lined upper lid
    nose_width: float  # narrow to broad
    lip_fullness: float  # thin to full
    lip_red: float  # skin-coloured to red
    beard: float  # none to full on chin and jaw
    moustache: float  # none to full
    age: float  # smooth to deeply lined
    freckles: float  # none to many

    def vector(self) -> npt.NDArray[np.float32]:
        """Return the sixteen parameters as float32 (16,), in field order."""
        return np.array(astuple(self), np.float32)


FACE_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Face))
KEPT = ("tone", "warmth")
"""Parameters of a face that a swap keeps from the target; the first in ``FACE_FIELDS``."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """The half of a look that a face swapper keeps."""

    width: float  # half width of the head in head units (half its height)
    jaw: float  # 0 (pointed) to 1 (square)
    eye_gap: float  # half distance of the eyes in head units
    mouth_width: float  # half width of the mouth in head units
    nose_height: float  # protrusion of the nose in head units
    ears: float  # size factor of the ears
    style: Style  # hair style
    hair: Colour  # hair colour, RGB 0..255
    volume: float  # thickness of the hair in head units
    cloth: Colour  # colour of the clothes, RGB 0..255
    trim: Colour  # second colour of the clothes, RGB 0..255
    pattern: int  # 0 plain, 1 stripes, 2 collar
    build: float  # width factor of the shoulders


@dataclass(frozen=True, kw_only=True)
class Look:
    face: Face  # what a swap replaces
    skin: Face  # the face half that paints skin outside the inner face; equal to ``face`` unless swapped
    body: Body  # what a swap keeps
    male: bool  # presentation, for gender metrics

    @property
    def years(self) -> int:
        """Age in years, for age metrics: 20 for smooth, 70 for deeply lined skin."""
        return round(20 + 50 * self.face.age)

    def with_face_of(self, other: Look) -> Look:
        """Return this person with another's inner face in their own skin tone: the true result of a swap."""
        kept = {name: getattr(self.face, name) for name in KEPT}
        return replace(self, face=replace(other.face, **kept), male=other.male)


HAIR_COLOURS: tuple[Colour, ...] = (
    (28, 24, 24), (54, 36, 26), (92, 58, 34), (140, 92, 48),
    (196, 156, 92), (160, 70, 34), (150, 150, 152), (222, 220, 214),
)  # fmt: skip
CLOTH_COLOURS: tuple[Colour, ...] = (
    (44, 74, 112), (150, 52, 54), (52, 104, 84), (222, 190, 104), (228, 226, 218),
    (70, 64, 78), (104, 70, 128), (64, 140, 156), (196, 110, 66), (36, 40, 48),
)  # fmt: skip


def _named(face: tuple[float, ...], body: Body, *, male: bool) -> Look:
    values = Face(**dict(zip(FACE_FIELDS, face, strict=True)))
    return Look(face=values, skin=values, body=body, male=male)


def _body(style: Style, hair: Colour, cloth: int, trim: int, pattern: int, **shape: float) -> Body:
    defaults = {"width": 0.73, "jaw": 0.5, "eye_gap": 0.3, "mouth_width": 0.235, "nose_height": 0.2}
    defaults |= {"ears": 1.0, "volume": 0.1, "build": 1.0}
    colours = {"hair": hair, "cloth": CLOTH_COLOURS[cloth], "trim": CLOTH_COLOURS[trim]}
    return Body(style=style, pattern=pattern, **colours, **(defaults | shape))


# tone warmth, brow: thickness tilt shade, eye: size tilt iris lashes, nose, lips: fullness red,
# beard moustache, age freckles
IDENTITIES: dict[str, Look] = {
    "alma": _named(
        (0.08, 0.25, 0.25, 0.8, 0.42, 0.75, 0.65, 0.8, 0.75, 0.2, 0.55, 0.75, 0.0, 0.0, 0.05, 0.95),
        _body("long", HAIR_COLOURS[5], 2, 4, 0, width=0.69, jaw=0.25, volume=0.13, build=0.86), male=False,
    ),
    "bruno": _named(
        (0.3, 0.8, 0.9, 0.4, 0.05, 0.4, 0.45, 0.05, 0.2, 0.7, 0.35, 0.15, 0.95, 0.9, 0.3, 0.0),
        _body("short", HAIR_COLOURS[0], 5, 3, 1, width=0.76, jaw=0.8, volume=0.09, build=1.12), male=True,
    ),
    "chidi": _named(
        (0.95, 0.35, 0.6, 0.5, 0.02, 0.6, 0.5, 0.02, 0.25, 0.95, 0.85, 0.25, 0.0, 0.75, 0.1, 0.0),
        _body("curly", HAIR_COLOURS[0], 3, 0, 2, width=0.73, jaw=0.6, volume=0.08, build=1.08), male=True,
    ),
    "dalia": _named(
        (0.62, 0.85, 0.45, 0.9, 0.08, 0.95, 0.6, 0.1, 1.0, 0.6, 0.95, 0.95, 0.0, 0.0, 0.1, 0.0),
        _body("bob", HAIR_COLOURS[1], 6, 8, 0, width=0.7, jaw=0.35, volume=0.14, build=0.88), male=False,
    ),
    "edvin": _named(
        (0.12, 0.1, 0.85, 0.25, 0.98, 0.25, 0.3, 0.92, 0.05, 0.65, 0.15, 0.2, 0.7, 0.95, 0.95, 0.1),
        _body("receding", HAIR_COLOURS[7], 0, 4, 2, width=0.74, jaw=0.65, ears=1.15, volume=0.045), male=True,
    ),
    "fumiko": _named(
        (0.2, 0.85, 0.25, 0.3, 0.03, 0.25, 0.95, 0.04, 0.55, 0.15, 0.4, 0.5, 0.0, 0.0, 0.55, 0.0),
        _body("fringe", HAIR_COLOURS[0], 7, 4, 1, width=0.72, jaw=0.3, volume=0.11, build=0.84), male=False,
    ),
    "gustav": _named(
        (0.02, 0.75, 0.5, 0.5, 0.68, 0.6, 0.35, 0.98, 0.1, 0.5, 0.3, 0.3, 0.0, 0.05, 0.1, 0.25),
        _body("parted", HAIR_COLOURS[4], 1, 9, 0, width=0.71, jaw=0.5, volume=0.12), male=True,
    ),
    "hanna": _named(
        (0.45, 0.35, 0.7, 0.55, 0.85, 0.5, 0.15, 0.5, 0.5, 0.75, 0.2, 0.85, 0.0, 0.0, 1.0, 0.0),
        _body("bun", HAIR_COLOURS[6], 8, 5, 2, width=0.72, jaw=0.4, volume=0.08, build=0.92), male=False,
    ),
}  # fmt: skip


def look_of(who: str) -> Look:
    """Return a named character's look; ValueError for an unknown name."""
    if who not in IDENTITIES:
        raise ValueError(f"unknown character {who!r}; known are {', '.join(IDENTITIES)}")
    return IDENTITIES[who]


def random_face(rng: np.random.Generator, *, male: bool) -> Face:
    """Draw a face half; presentation shifts lashes, lips and beard as in the named characters."""
    values = dict(zip(FACE_FIELDS, rng.random(len(FACE_FIELDS)), strict=True))
    # Many values lie near the ends of the scale, as those of the named characters do.
    for name in ("tone", "brow_shade", "iris", "age", "freckles"):
        if rng.random() < 0.4:
            values[name] = float(rng.random() < 0.5) * 0.85 + values[name] * 0.15
    if male:
        values["lashes"] *= 0.4
        values["lip_red"] *= 0.6
        values["beard"] *= float(rng.random() < 0.6)
        values["moustache"] *= float(rng.random() < 0.6)
    else:
        values["lashes"] = 0.4 + 0.6 * values["lashes"]
        values["lip_red"] = 0.3 + 0.7 * values["lip_red"]
        values["beard"] = values["moustache"] = 0.0
    return Face(**{name: float(value) for name, value in values.items()})


def random_body(rng: np.random.Generator, *, male: bool) -> Body:
    pool = (0, 1, 2, 5, 7, 8, 3) if male else (3, 4, 5, 6, 1, 2, 0)
    return Body(
        width=rng.uniform(0.68, 0.77),
        jaw=rng.uniform(0.2, 0.85),
        eye_gap=rng.uniform(0.285, 0.315),
        mouth_width=rng.uniform(0.215, 0.255),
        nose_height=rng.uniform(0.17, 0.23),
        ears=rng.uniform(0.85, 1.2),
        style=STYLES[int(rng.choice(pool))],
        hair=HAIR_COLOURS[int(rng.integers(len(HAIR_COLOURS)))],
        volume=rng.uniform(0.07, 0.14),
        cloth=CLOTH_COLOURS[int(rng.integers(len(CLOTH_COLOURS)))],
        trim=CLOTH_COLOURS[int(rng.integers(len(CLOTH_COLOURS)))],
        pattern=int(rng.integers(3)),
        build=rng.uniform(0.82, 1.15),
    )


def random_look(rng: np.random.Generator) -> Look:
    """Draw a whole person, determined by the generator's state."""
    male = bool(rng.random() < 0.5)
    face = random_face(rng, male=male)
    return Look(face=face, skin=face, body=random_body(rng, male=male), male=male)
