"""The People tab: who was found in the targets, with pictures, and what is done to each."""

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
from colab_helpers.pages.svg import BAD, WARN
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import bullets, error_message, paragraph
from colab_helpers.ui.widgets import Widgets

MAX_PEOPLE_ROWS = 24
"""Maximum number of cards; people seen less are edited in the map's file."""
_CROPS, _EDGE = 3, 84
_STYLE = f"height:{_EDGE}px;margin:0 4px 4px 0;border-radius:4px"
_CARD_LAYOUT = {"width": "330px", "padding": "6px", "margin": "4px", "border": "1px solid #9999"}
_NARROW = {"width": "310px"}


class PeopleTab:
    """Cards of all people in the targets; each edit is written to the people map at once.

    ``find`` starts a run that only finds people; ``changed`` is called after each edit.
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
        self._shown_state: object = None
        self._cards: dict[str, tuple[object, Any]] = {}
        hint = tr("Find the people in all videos; nothing is changed")
        self.find_button = widgets.button(tr("Find people"), find, hint=hint)
        options = [
            (tr("uses the people map, if there is one"), "auto"),
            (tr("finds people first, then uses the map"), "find"),
            (tr("only finds people"), "only"),
            (tr("gives each person who is not in the map a portrait"), "everybody"),
        ]
        self.mode = widgets.input("Dropdown", "people", label=tr("A run"), width="auto", options=options)
        self.message, self.others = widgets.html(), widgets.row()
        self.cards = widgets.row(align="flex-start")
        finding = widgets.row(*([self.find_button] if host.has_buttons else []), self.mode)
        self.box = widgets.column(finding, self.message, self.others, self.cards)
        form_state.runs.observe(lambda _: self.refresh(), "running_from")

    def refresh(self) -> None:
        """Show the people in the output folder; do nothing if they have not changed."""
        is_running, folder = bool(self._form_state.runs.running_from), self._folder
        try:
            library = tuple(library_names(self._form_state.request(overrides={}).library))
            files = [size_and_mtime(folder / name) for name in edits.PEOPLE_FILES]
            state = (folder, library, is_running, *files)
            if state == self._shown_state:
                return
            rows, default = edits.list_people(folder), edits.default_of(folder)
        except ColabHelpersError as error:
            self._shown_state, self.message.value = None, paragraph(error_message(error), BAD)
            self.cards.children = self.others.children = ()
            return
        self._shown_state = state
        self._show_message(rows, is_running)
        self._show_cards(rows, default, library)

    @property
    def _folder(self) -> Path:
        return results_folder(self._form_state.request(overrides={}), self._host)

    def _show_message(self, rows: Sequence[PersonSummary], is_running: bool) -> None:
        text = tr("Your choices are saved in {path}.", path=self._folder / MAP_NAME)
        if not rows:
            text = tr("Nobody has been found yet: start a run that only finds people; it changes nothing.")
        if len(rows) > MAX_PEOPLE_ROWS:
            text += " " + tr("Not shown: {count} who are seen less.", count=len(rows) - MAX_PEOPLE_ROWS)
        if is_running:
            text += " " + tr('A run is in progress (tab "Run"); changes made now apply to the next run.')
        self.message.value = paragraph(text)

    def _edit(self, change: Callable[..., object], *arguments: object) -> None:
        """Apply ``change(folder, *arguments)`` to the map and show the result."""
        try:
            change(self._folder, *arguments)
        except ColabHelpersError as error:
            self._cards.clear()  # their widgets show the refused value
            self._shown_state = None
            self.refresh()
            self.message.value = paragraph(error_message(error), BAD)
            return
        self.refresh()
        self._changed()

    # --- cards ------------------------------------------------------------------------------------------

    def _show_cards(
        self, rows: Sequence[PersonSummary], default: tuple[str, ...], library: tuple[str, ...]
    ) -> None:
        """Show the cards, reusing unchanged ones, since ipywidgets keeps every widget alive."""
        before, self._cards = self._cards, {}
        names = [row.name for row in rows]
        for row in sorted(rows, key=lambda row: -row.seconds)[:MAX_PEOPLE_ROWS]:
            key, (old, card) = (row, names, library), before.get(row.name, (None, None))
            self._cards[row.name] = key, card if old == key else self._card(row, names, library)
        self.cards.children = [card for _, card in self._cards.values()]
        others = self._source_menu(default, library, lambda words: self._edit(edits.set_default, words))
        label = self._widgets.html(paragraph(tr("Everybody else:")))
        self.others.children = (label, others) if rows else ()

    def _card(self, row: PersonSummary, names: Sequence[str], library: tuple[str, ...]) -> Any:
        widgets, ipywidgets, name = self._widgets, self._widgets.library, row.name

        def set_source(words: tuple[str, ...]) -> None:
            self._edit(edits.set_source, name, words, self._form_state.request(overrides={}).library)

        label = ipywidgets.Text(value=name, continuous_update=False, layout=_NARROW)
        label.observe(lambda change: self._edit(edits.rename, name, change["new"]), "value")
        options = [(tr("same person as {name}", name=printable(one)), one) for one in names if one != name]
        same = ipywidgets.Dropdown(options=[(tr("different from all others"), ""), *options], layout=_NARROW)
        same.observe(lambda change: self._edit(edits.merge, change["new"], name), "value")
        hint = tr("Leave all others unchanged")
        only = widgets.button(tr("Only this one"), lambda: self._edit(edits.keep_only, name), hint=hint)
        hint = tr("Split into two people")
        split = widgets.button(tr("Two people"), lambda: self._edit(edits.split, name), hint=hint)
        pictures = widgets.html(self._card_html(row), width="310px")
        sources = self._source_menu(row.source, library, set_source)
        return widgets.column(pictures, label, sources, same, widgets.row(only, split), layout=_CARD_LAYOUT)

    def _source_menu(
        self, current: tuple[str, ...], library: Sequence[str], act: Callable[[tuple[str, ...]], None]
    ) -> Any:
        """Create a menu of all treatments and library people, that calls ``act`` with the choice."""
        sources = dict.fromkeys([*((word,) for word in (*RESERVED, *library)), current])
        options = [(printable(edits.source_text(source)), source) for source in sources]
        menu = self._widgets.library.Dropdown(options=options, value=current, layout=_NARROW)
        menu.observe(lambda change: act(change["new"]), "value")
        return menu

    def _card_html(self, row: PersonSummary) -> Markup:
        html = Markup()
        for image in crops_of(self._folder, row, _CROPS):
            url = data_url(image, height=_EDGE)
            html += Markup('<img src="{}" alt="{}" style="{}">').format(url, printable(row.name), _STYLE)
        return html + paragraph(facts_of(row)[1]) + bullets(remarks_of(row), WARN)
