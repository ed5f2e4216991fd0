"""Cached textures of a look; painting them is the larger part of rendering."""

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
_cache_size = 96


def set_cache_size(limit: int) -> None:
    """Set the number of cached textures, of about half a megabyte each."""
    global _cache_size
    _cache_size = limit


def cached(key: Hashable, make: Callable[[], Any]) -> Any:
    """Return a cached value, or make it; the oldest are evicted first."""
    if key not in _TEXTURES:
        if len(_TEXTURES) > _cache_size - 1:
            _TEXTURES.pop(next(iter(_TEXTURES)))
        _TEXTURES[key] = make()
    return _TEXTURES[key]


def _window(res: float) -> F32:
    grid = paint.sheet(res)
    return cached(("window", res), lambda: paint.face_window(grid.x, grid.y))


def mixed(kind: Any, look: Look, res: float) -> F32:
    """Static texture: the face's look within the inner face, the body's own skin outside."""

    def make() -> F32:
        own: F32 = kind(look.body, look.skin, res)
        if look.face == look.skin:
            return own
        other: F32 = kind(look.body, look.face, res)
        window = _window(res)
        return own + (window if own.ndim == 2 else window[..., None]) * (other - own)

    return cached((kind.__name__, look.body, look.face, look.skin, res), make)


def albedo(look: Look, act: Expression, res: float) -> F32:
    image = mixed(paint.front, look, res).copy()
    for side, grid in zip((-1, 1), paint.eye_sheets(res), strict=True):
        paint.paint_eye(image[grid.rows, grid.cols], grid, side, look.body, look.face, act)
    grid = paint.mouth_sheet(res)
    paint_mouth(image[grid.rows, grid.cols], grid, look.body, look.face, act)
    return image
