"""The tab of the people: who was found in the videos, with pictures, and what is done to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from colab_helpers.batch import people_edits as edits
from colab_helpers.batch.library import library_names
from colab_helpers.batch.people_map import MAP_NAME, RESERVED, PersonSummary
from colab_helpers.batch.thumbnails import data_url
from colab_helpers.errors import ColabHelpersError
from colab_helpers.files import size_and_mtime
from colab_helpers.language import printable, tr
from colab_helpers.pages.sheet import crops_of, facts_of, remarks_of
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import AMBER, RED, bullets, error_message, paragraph
from colab_helpers.ui.widgets import Widgets

MAX_PEOPLE_ROWS = 24
"""More cards than anybody goes through; whoever is seen less is changed in the map itself."""
_CROPS, _EDGE = 3, 84
_STYLE = f"height:{_EDGE}px;margin:0 4px 4px 0;border-radius:4px"
_CARD_LAYOUT = {"width": "330px", "padding": "6px", "margin": "4px", "border": "1px solid #9999"}
_NARROW = {"width": "310px"}


class PeopleTab:
    """Everybody in the videos; what is chosen is written to the map at once.

    ``find`` begins a run that finds everybody and then ends; ``changed`` is called after each change.
    """

    def __init__(
        self,
        widgets: Widgets,
        form_state: FormState,
        host: Host,
        *,
        find: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._widgets, self._form_state, self._host, self._changed = widgets, form_state, host, changed
        self._shown: object = None
        self._cards: dict[str, tuple[object, Any]] = {}
        hint = tr("Look at all videos; nothing is changed")
        self.find_button = widgets.button(tr("Find people"), find, hint=hint)
        options = [
            (tr("goes by the map, if there is one"), "auto"),
            (tr("finds everybody first, then goes by the map"), "find"),
            (tr("only finds everybody"), "only"),
            (tr("gives all who are not in the map a portrait of their own"), "everybody"),
        ]
        self.mode = widgets.input("Dropdown", "people", label=tr("A run"), width="auto", options=options)
        self.message, self.others = widgets.html(), widgets.row()
        self.cards = widgets.row(align="flex-start")
        finding = widgets.row(*([self.find_button] if host.has_buttons else []), self.mode)
        self.box = widgets.column(finding, self.message, self.others, self.cards)
        form_state.runs.observe(lambda _: self.refresh(), "waiter")

    def refresh(self) -> None:
        """Show everybody as the output folder has them now."""
        at_work, folder = bool(self._form_state.runs.running_from), self._folder
        try:
            library = tuple(library_names(self._form_state.request(overrides={}).library))
            state = (
                folder,
                library,
                at_work,
                *(size_and_mtime(folder / name) for name in edits.PEOPLE_FILES),
            )
            if state == self._shown:
                return
            rows, default = edits.list_people(folder), edits.default_of(folder)
        except ColabHelpersError as error:
            self._shown, self.message.value = None, paragraph(error_message(error), RED)
            self.cards.children = self.others.children = ()
            return
        self._shown = state
        self._say(rows, at_work)
        self._show(rows, default, library)

    @property
    def _folder(self) -> Path:
        return results_folder(self._form_state.request(overrides={}), self._host)

    def _say(self, rows: Sequence[PersonSummary], at_work: bool) -> None:
        told = tr("What you choose is kept in {path}.", path=self._folder / MAP_NAME)
        if not rows:
            told = tr("Nobody yet: have a run find everybody, which changes nothing.")
        if len(rows) > MAX_PEOPLE_ROWS:
            told += " " + tr("{count} who are seen less are not shown.", count=len(rows) - MAX_PEOPLE_ROWS)
        if at_work:
            told += " " + tr("A run is at work, see there; what is changed now counts in the next one.")
        self.message.value = paragraph(told)

    def _edit(self, change: Callable[..., object], *what: object) -> None:
        """Write a change to the map and show it."""
        try:
            change(self._folder, *what)
        except ColabHelpersError as error:
            self._cards.clear()  # they show what was refused
            self._shown = None
            self.refresh()
            self.message.value = paragraph(error_message(error), RED)
            return
        self.refresh()
        self._changed()

    # --- cards ------------------------------------------------------------------------------------------

    def _show(
        self, rows: Sequence[PersonSummary], default: tuple[str, ...], library: tuple[str, ...]
    ) -> None:
        """Make the cards of those who changed; ipywidgets keeps every widget alive."""
        before, self._cards = self._cards, {}
        names = [row.name for row in rows]
        for row in sorted(rows, key=lambda row: -row.seconds)[:MAX_PEOPLE_ROWS]:
            key, (old, card) = (row, names, library), before.get(row.name, (None, None))
            self._cards[row.name] = key, card if old == key else self._card(row, names, library)
        self.cards.children = [card for _, card in self._cards.values()]
        others = self._sources(
            default, library, lambda error_message: self._edit(edits.set_default, error_message)
        )
        label = self._widgets.html(paragraph(tr("Whoever is seen besides:")))
        self.others.children = (label, others) if rows else ()

    def _card(self, row: PersonSummary, names: Sequence[str], library: tuple[str, ...]) -> Any:
        make, name = self._widgets.library, row.name

        def set_source(error_message: tuple[str, ...]) -> None:
            place = self._form_state.request(overrides={}).library
            self._edit(edits.set_source, name, error_message, place)

        called = make.Text(value=name, continuous_update=False, layout=_NARROW)
        called.observe(lambda change: self._edit(edits.rename, name, change["new"]), "value")
        options = [(tr("is the same as {name}", name=printable(one)), one) for one in names if one != name]
        same = make.Dropdown(options=[(tr("is nobody of the others"), ""), *options], layout=_NARROW)
        same.observe(lambda change: self._edit(edits.merge, change["new"], name), "value")
        only = self._widgets.button(
            tr("Only this one"), lambda: self._edit(edits.keep_only, name), hint=tr("Leave all others alone")
        )
        apart = self._widgets.button(
            tr("These are two"), lambda: self._edit(edits.split, name), hint=tr("Take them apart")
        )
        page = self._widgets.html(self._page(row), width="310px")
        sources = self._sources(row.source, library, set_source)
        return self._widgets.column(
            page, called, sources, same, self._widgets.row(only, apart), layout=_CARD_LAYOUT
        )

    def _sources(
        self, chosen: tuple[str, ...], library: Sequence[str], act: Callable[[tuple[str, ...]], None]
    ) -> Any:
        """Offer everything that may be done to somebody."""
        known = dict.fromkeys([*((word,) for word in (*RESERVED, *library)), chosen])
        options = [(printable(edits.source_text(one)), one) for one in known]
        made = self._widgets.library.Dropdown(options=options, value=chosen, layout=_NARROW)
        made.observe(lambda change: act(change["new"]), "value")
        return made

    def _page(self, row: PersonSummary) -> Markup:
        shown = Markup()
        for image in crops_of(self._folder, row, _CROPS):
            url = data_url(image, height=_EDGE)
            shown += Markup('<img src="{}" alt="{}" style="{}">').format(url, printable(row.name), _STYLE)
        return shown + paragraph(facts_of(row)[1]) + bullets(remarks_of(row), AMBER)
