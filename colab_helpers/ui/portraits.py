"""Generate portraits of people who do not exist: the cells of ``portraits.ipynb`` and the verb."""

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
from colab_helpers.pages.svg import BAD
from colab_helpers.portraits import MODEL, PACKAGES, Portrait, make_portraits, open_sdxl_lightning
from colab_helpers.prompts import improve_prompt, require_adult
from colab_helpers.ui.form import PortraitsRequest as PortraitsRequest
from colab_helpers.ui.host import this_host
from colab_helpers.ui.markup import error_message, paragraph, picture
from colab_helpers.ui.preload import describe_models, models_html, models_text
from colab_helpers.ui.progress import FetchLine


def show_prompt(request: PortraitsRequest) -> PortraitsRequest:
    """Show the prompt, the library and the model; return the request with all folders set.

    Raise UsageError if the prompt is empty, or asks for somebody who is not an adult.
    """
    set_language(request.language)
    require_adult(request.prompt)
    host, root = this_host(headless=request.headless), models_root(request.models_dir)
    library, prompt = request.library or host.runs / "library", improve_prompt(request.prompt, "portrait")
    host.ensure_reachable(library, root)
    lines = [tr("prompt: {prompt}", prompt=prompt), tr("library: {folder}", folder=library)]
    models = describe_models([load_catalog().models[MODEL]], root)
    page = Markup().join(map(paragraph, lines)) + models_html(models, root)
    host.show(page, "\n".join([*lines, models_text(models, root)]))
    return request.with_values(library=library, models_dir=root)


def paint_portraits(request: PortraitsRequest) -> list[Portrait]:
    """Generate portraits; without the extra, show how to install it, or raise that error if headless.

    Raises like `make_portraits`; portraits made before the error are kept.
    """
    try:
        require_extra("portraits", *PACKAGES)
    except UsageError as error:
        if request.headless:
            raise
        this_host().show(paragraph(error_message(error), BAD), error_message(error))
        return []
    names, portraits = ("name", "library", "prompt", "count", "seed", "size", "models_dir"), list[Portrait]()
    with FetchLine(headless=request.headless) as line:
        painter = partial(open_sdxl_lightning, offline=request.offline, on_progress=line)
        for each in make_portraits(**{name: getattr(request, name) for name in names}, painter=painter):
            paths = tr("portrait: {photo}; consent: {consent}", photo=each.photo, consent=each.consent)
            print("\n".join([*(tr("note: {note}", note=note) for note in each.notes), paths]), flush=True)
            portraits.append(each)
    return portraits


def show_portraits(request: PortraitsRequest, portraits: Sequence[Portrait]) -> None:
    """Show the pictures of new portraits, and how to use them; nothing without any."""
    if not portraits:
        return
    paths = {each.photo.parent.name: each.photo for each in portraits}
    small = {name: shrink_to_fit(read_image(path), height=THUMBNAIL_HEIGHT) for name, path in paths.items()}
    page = Markup(" ").join(picture(image, alt=name) for name, image in small.items())
    usage = mark(
        "In batch_swap.ipynb set library to {library}: sources may be {names}; people = everybody gives "
        "each person who is not in people.yaml a different portrait."
    )
    text = tr(usage, library=request.library, names=", ".join(paths))
    this_host(headless=request.headless).show(page + paragraph(text), text, kept=True)
