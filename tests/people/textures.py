"""Textures of a look, kept as long as others need them: painting is the larger part of rendering."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from tests.people import paint
from tests.people.looks import Look
from tests.people.mouth import paint_mouth
from tests.people.paint import F32, Expression


def texture_res(scale: float) -> float:
    for res in (24.0, 48.0, 96.0, 192.0):
        if scale <= res:
            return res
    return 288.0


_TEXTURES: dict[Hashable, Any] = {}
_most_textures = 96


def keep_textures(limit: int) -> None:
    """Let the cache hold more textures (about half a megabyte each) than a scene needs."""
    global _most_textures
    _most_textures = limit


def kept(key: Hashable, make: Callable[[], Any]) -> Any:
    """A texture by what it depends on; the oldest go first."""
    if key not in _TEXTURES:
        if len(_TEXTURES) > _most_textures - 1:
            _TEXTURES.pop(next(iter(_TEXTURES)))
        _TEXTURES[key] = make()
    return _TEXTURES[key]


def _window(res: float) -> F32:
    grid = paint.sheet(res)
    return kept(("window", res), lambda: paint.face_window(grid.x, grid.y))


def mixed(kind: Any, look: Look, res: float) -> F32:
    """Paint a static texture; where the inner face ends, the body's own skin shows."""

    def make() -> F32:
        own: F32 = kind(look.body, look.skin, res)
        if look.face == look.skin:
            return own
        other: F32 = kind(look.body, look.face, res)
        window = _window(res)
        return own + (window if own.ndim == 2 else window[..., None]) * (other - own)

    return kept((kind.__name__, look.body, look.face, look.skin, res), make)


def albedo(look: Look, act: Expression, res: float) -> F32:
    image = mixed(paint.front, look, res).copy()
    for side, grid in zip((-1, 1), paint.eye_sheets(res), strict=True):
        paint.paint_eye(image[grid.rows, grid.cols], grid, side, look.body, look.face, act)
    grid = paint.mouth_sheet(res)
    paint_mouth(image[grid.rows, grid.cols], grid, look.body, look.face, act)
    return image
