"""What the cells of ``portraits.ipynb`` call, and the verb: people who do not exist, for the library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup

from colab_helpers.batch.thumbnails import THUMBNAIL_HEIGHT, shrink_to_fit
from colab_helpers.errors import UsageError, require_extra
from colab_helpers.language import mark, set_language, tr
from colab_helpers.media.images import read_image
from colab_helpers.models.catalog import load_catalog
from colab_helpers.models.session import models_root
from colab_helpers.portraits import MODEL, PACKAGES, Portrait, make_portraits, open_sdxl_lightning
from colab_helpers.prompts import improve_prompt, require_adult
from colab_helpers.ui.form import PortraitsRequest as PortraitsRequest
from colab_helpers.ui.host import this_host
from colab_helpers.ui.markup import RED, error_message, paragraph, picture
from colab_helpers.ui.preload import describe_models, models_html, models_text
from colab_helpers.ui.progress import FetchLine


def show_prompt(request: PortraitsRequest) -> PortraitsRequest:
    """Show what is painted, where it goes, and the model that paints; return the request with all folders.

    Raises:
        UsageError: The prompt is empty, or speaks of somebody who is no adult.
    """
    set_language(request.language)
    require_adult(request.prompt)
    host, root = this_host(headless=request.headless), models_root(request.models_dir)
    library, prompt = request.library or host.runs / "library", improve_prompt(request.prompt, "portrait")
    host.ensure_reachable(library, root)
    told = [tr("painted: {prompt}", prompt=prompt), tr("library: {folder}", folder=library)]
    models = describe_models([load_catalog().models[MODEL]], root)
    page = Markup().join(map(paragraph, told)) + models_html(models, root)
    host.show(page, "\n".join([*told, models_text(models, root)]))
    return request.with_values(library=library, models_dir=root)


def paint_portraits(asked: PortraitsRequest) -> list[Portrait]:
    """Make them; without the extra say how to install it, and where nobody watches end with that error.

    Raises:
        ColabHelpersError: See `make_portraits`; those who were made before stay.
    """
    try:
        require_extra("portraits", *PACKAGES)
    except UsageError as error:
        if asked.headless:
            raise
        this_host().show(paragraph(error_message(error), RED), error_message(error))
        return []
    names, made = ("name", "library", "prompt", "count", "seed", "size", "models_dir"), list[Portrait]()
    with FetchLine(headless=asked.headless) as line:
        painter = partial(open_sdxl_lightning, offline=asked.offline, on_progress=line)
        for one in make_portraits(**{name: getattr(asked, name) for name in names}, painter=painter):
            told = tr("portrait: {photo}; consent: {consent}", photo=one.photo, consent=one.consent)
            print("\n".join([*(tr("note: {note}", note=note) for note in one.notes), told]), flush=True)
            made.append(one)
    return made


def show_portraits(asked: PortraitsRequest, made: Sequence[Portrait]) -> None:
    """Show their pictures, and what to do with them."""
    photos = {
        one.photo.parent.name: shrink_to_fit(read_image(one.photo), height=THUMBNAIL_HEIGHT) for one in made
    }
    page = Markup(" ").join(picture(photo, alt=name) for name, photo in photos.items())
    use = mark(
        "In batch_swap.ipynb name {library} in library: sources may be {names}; people = everybody gives "
        "each person who is not in people.yaml another one."
    )
    told = tr(use, library=asked.library, names=", ".join(photos))
    if made:
        this_host(headless=asked.headless).show(page + paragraph(told), told, kept=True)
