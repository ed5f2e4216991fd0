"""What the cells of ``portraits.ipynb`` call: people who do not exist, for the library of sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from colab_helpers.batch.thumbnails import fitted
from colab_helpers.errors import UsageError, require_extra
from colab_helpers.language import speak, tr
from colab_helpers.media.images import read_image
from colab_helpers.models.catalog import load_catalog
from colab_helpers.models.session import models_root
from colab_helpers.portraits import MODEL, PACKAGES, Portrait, lightning, make_portraits
from colab_helpers.prompts import improved, require_adult
from colab_helpers.ui.form import PortraitsRequest as PortraitsRequest
from colab_helpers.ui.host import Host, this_host
from colab_helpers.ui.markup import RED, paragraph, picture, words
from colab_helpers.ui.preload import described, models_html, models_text
from colab_helpers.ui.progress import FetchLine

_EDGE = 256


@dataclass(frozen=True)
class Asked:
    """What a form asks for, with every folder known and within reach."""

    request: PortraitsRequest
    host: Host
    library: Path
    root: Path


def show_prompt(request: PortraitsRequest) -> Asked:
    """Show what is painted, where it goes, and the model that paints, with its licence.

    Raises:
        UsageError: The prompt is empty, or speaks of somebody who is no adult.
    """
    speak(request.language)
    require_adult(request.prompt)
    host = this_host(headless=request.headless)
    asked = Asked(request, host, request.library or host.runs / "library", models_root(request.models_dir))
    told = [
        tr("painted: {prompt}", prompt=improved(request.prompt, "portrait")),
        tr("library: {folder}", folder=asked.library),
    ]
    host.reach(asked.library, *request.places)
    models = described([load_catalog().models[MODEL]], asked.root)
    page = Markup().join(map(paragraph, told)) + models_html(models, asked.root)
    host.show(page, "\n".join([*told, models_text(models, asked.root)]))
    return asked


def paint_portraits(asked: Asked) -> list[Portrait]:
    """Make them; without the extra say how to install it, and where nobody watches end with that error.

    Raises:
        ColabHelpersError: See `make_portraits`; those who were made before stay.
    """
    request, headless = asked.request, asked.request.headless
    try:
        require_extra("portraits", *PACKAGES)
    except UsageError as error:
        if headless:
            raise
        asked.host.show(paragraph(words(error), RED), words(error))
        return []
    given = {name: getattr(request, name) for name in ("name", "prompt", "count", "seed", "size")}
    made = []
    with FetchLine(headless=headless) as line:
        painter = partial(lightning, offline=request.offline, on_progress=line)
        for portrait in make_portraits(
            **given, library=asked.library, models_dir=asked.root, painter=painter
        ):
            print("\n".join(portrait.lines()), flush=True)
            made.append(portrait)
    return made


def show_portraits(asked: Asked, made: Sequence[Portrait]) -> None:
    """Show their pictures, and what to do with them."""
    names = [portrait.photo.parent.name for portrait in made]
    shown = [
        picture(fitted(read_image(portrait.photo), height=_EDGE), alt=name)
        for portrait, name in zip(made, names, strict=True)
    ]
    use = tr(
        "In batch_swap.ipynb name {library} in library: sources may be {names}; people = everybody gives "
        "each person who is not in people.yaml another one.",
        library=asked.library,
        names=", ".join(names),
    )
    if made:
        asked.host.show(Markup(" ").join(shown) + paragraph(use), use, kept=True)
