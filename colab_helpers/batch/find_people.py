"""Who is in the targets, before any is worked on: everybody is found, put together over the batch, and named.

What was found in a target is kept at once, so that a run that is taken up looks at nothing twice. Nothing is
put together before all targets were looked at: who is called what does not depend on when a run was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from colab_helpers.batch.casting import Casting, Treatments, casting, check_groups, first_map
from colab_helpers.batch.drive import copy_in
from colab_helpers.batch.earlier import EarlierWork, model_digest
from colab_helpers.batch.growth import Growth
from colab_helpers.batch.job import consent_for
from colab_helpers.batch.journal import Notes
from colab_helpers.batch.keys import choice_key
from colab_helpers.batch.known_people import FOLDER_NAME, NOBODY, KnownPeople, SeenIn, SeenTrack, Sight
from colab_helpers.batch.outputs import goes_as_picture
from colab_helpers.batch.people_map import MAP_NAME, PeopleMap, with_portraits
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.run_file import error_text
from colab_helpers.batch.store import expected, fetch, hold, release, send_all
from colab_helpers.batch.surroundings import Surroundings, index_place
from colab_helpers.batch.triage import FileTriage, pace_of, triage_of
from colab_helpers.errors import MediaError, UsageError
from colab_helpers.faces.cast import Cast
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.people import Appearance
from colab_helpers.faces.photos import Identity
from colab_helpers.language import mark, tr
from colab_helpers.media.images import write_image
from colab_helpers.media.inputs import existing_file
from colab_helpers.pipeline.finding import FoundFaces, find_faces, find_in_picture
from colab_helpers.pipeline.image import pictures_of
from colab_helpers.trust.content import ContentCheck, check_pictures


@dataclass(frozen=True, eq=False)
class PeopleFinder:
    """Finds everybody in the targets of a batch."""

    around: Surroundings
    engine: Engine
    earlier: EarlierWork
    journal: Notes
    usual: Cast  # whom the request changes where no map says otherwise
    source: Identity | None  # who is on the photos of the run

    @property
    def _folder(self) -> Path:
        return self.around.job.folder

    @cached_property
    def _treatments(self) -> Treatments:
        job = self.around.job
        needed = job.request.people != "only"
        return Treatments(self.engine, job.folder, job.request.library, self.source, job.sources, needed)

    def casts(self) -> Callable[[Task], Cast]:
        """Return what says what is done to whom in a target, as the map has it where there is one.

        Raises as `found` does.
        """
        found = self.found()
        if found is None:
            return lambda _task: self.usual
        self.earlier.decisions = found.decisions
        return lambda task: found.cast(self.earlier.index_key(task))

    def found(self) -> Casting | None:
        """Return who is who in the batch, and what is done to each; None where nobody asks for that.

        Raises:
            UsageError, ConsentError: The map cannot be used, or puts in somebody who is not covered.
            OutputError: What was found cannot be written.
            KeyboardInterrupt: Somebody asks to stop.
        """
        asked, given = self.around.job.request.people, self._asked(PeopleMap.load(self._folder))
        if given is None and asked == "auto":
            return None
        known = self._known()
        if given is not None:  # what is wrong with it is told before any work
            self._treatments.of(given)
            check_groups(given, known)
        names = self._look_at_all(known, anew=given is None)
        known.call(names)
        known.add(names)
        self._save(known)
        # The map as the user has it now: finding everybody takes long.
        place = self._folder / MAP_NAME
        self.around.patience.attempt(lambda: fetch(place))
        written = PeopleMap.load(self._folder)
        given = self._asked(written) or given or self._first_map(known)
        consent_for(self.around.job.request, self.around.job.inputs, given)
        cast = casting(given, known, self._treatments, limit=self.engine.settings.similar_face_distance)
        self._save(known)  # who got which portrait
        if asked != "auto" and cast.given != written:
            self.around.patience.attempt(lambda: cast.given.save(self._folder))
            self.around.patience.attempt(lambda: send_all([place]))
        self.around.patience.attempt(lambda: send_all([self._folder / FOLDER_NAME]))
        self._tell(cast, [known.videos[key] for key in names if key in known.videos])
        return cast

    def _asked(self, written: PeopleMap | None) -> PeopleMap | None:
        """Return the map as the request has it, in which ``everybody`` else may be to have a portrait."""
        if self.around.job.request.people != "everybody":
            return written
        if self.usual.sought is not None:
            told = tr("{map} counts: target_person and never have no say", map=MAP_NAME)
            raise UsageError(told, remedy=tr("enter there, by photos, who is not to get a portrait"))
        return with_portraits(written)

    def _first_map(self, known: KnownPeople) -> PeopleMap:
        settings, sought = self.around.job.request.settings, self.usual.sought
        chooses = (
            not settings.many_faces or settings.asks_attributes or (sought and sought.wanted is not None)
        )
        swaps = self.engine.swapper is None or self.source is not None
        return first_map(known, everybody=not chooses, swaps=swaps)

    def _known(self) -> KnownPeople:
        known, (_, recogniser, *_) = KnownPeople.load(self._folder), self.engine.analyser.networks
        digest = self.earlier.models[recogniser.name]
        if known.recogniser not in ("", digest):
            raise UsageError(
                tr("the people here were told apart by another network than {name}", name=recogniser.name),
                where=str(self._folder / FOLDER_NAME),
                remedy=tr("take that network, or another output folder"),
            )
        known.recogniser = digest
        return known

    def _save(self, known: KnownPeople) -> None:
        self.around.patience.attempt(lambda: known.save(self._folder))

    def _look_at_all(self, known: KnownPeople, *, anew: bool) -> dict[str, str]:
        """Look at every target that is not known; return names of those that are then by key, in their order.

        ``anew`` also at those that were put together already: another request may choose others. That takes
        no detection, as their indexes are there.
        """
        names, growth = dict[str, str](), Growth()
        choice = choice_key(self.engine.settings, self.earlier.sought)
        if anew and known.choice != choice:  # another request, cut short, may have chosen others
            known.found, known.choice = {}, choice
        for index, task in enumerate(self.around.job.tasks):
            self.around.beat()
            try:
                if not self.around.patience.attempt(partial(expected, task.target)):
                    existing_file(task.target)
                key = self.earlier.index_key(task)
                old = known.found.get(key) or (None if anew else known.videos.get(key))
                # Without its index the numbers of its tracks mean nothing.
                seen = None if old and self._has_index(task) else self._look_at(index, task, key)
            except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
                if not isinstance(error, MediaError):  # which is told when its turn comes
                    told = mark("nobody could be looked for in {name}: {error}")
                    self.around.status.note(tr(told, name=task.target.name, error=error_text(error)))
                continue
            finally:
                release(task.target)
            names.setdefault(key, task.output.name)
            if seen is not None:
                known.found[key] = seen
                self._save(known)
                self.around.status.file(index, _waiting(task))
                growth.check(self.around.stop)
        return names

    def _has_index(self, task: Task) -> bool:
        place = index_place(self.around, self.earlier, task)
        folders = [place.place, *([place.mirror] if place.mirror else [])]
        return goes_as_picture(task) or any(any(folder.glob("*.npz")) for folder in folders)

    def _look_at(self, index: int, task: Task, key: str) -> SeenIn:
        """Find the faces of a target, and keep pictures of the best."""
        self.around.patience.attempt(lambda: hold(task.target, self.around.beat))
        engine, _ = self.around.begin(self.engine, task, key, self.earlier, self.journal)
        place, still = index_place(self.around, self.earlier, task), goes_as_picture(task)
        kept = None if still else place.content
        check = ContentCheck(engine, task.target, digest=model_digest, place=kept, key=place.key)
        check.begin()
        if still:
            check_pictures(check, pictures_of(task.target))
            found = find_in_picture(engine, self.usual, task.target)
        else:
            with self._near(task, place.place) as target:
                found = find_faces(
                    engine,
                    self.usual,
                    target,
                    place.open(self.around.patience, self.around.beat),
                    watcher=check,
                    on_progress=self.around.tell,
                    file_index=index,
                    file_count=len(self.around.job.tasks),
                )
        seen = {track.number: Appearance.of(key, track) for track in found.tracks}
        tracks = {n: SeenTrack.of(one, chosen=n in found.chosen) for n, one in seen.items() if one}
        self._keep_pictures(key, tracks, found)
        return SeenIn(
            target=task.output.name,
            sha256=self.earlier.digests(task.target),
            rate=found.rate,
            sight=_sight(found),
            tracks=dict.fromkeys(seen, NOBODY),
            seen=tracks,
        )

    @contextmanager
    def _near(self, task: Task, place: Path) -> Iterator[Path]:
        """Have a target at hand: from a mounted drive no video is decoded."""
        copy = place / "in" / task.target.name
        if away := self.around.places.mirror is not None:
            self.around.patience.attempt(lambda: copy_in(task.target, copy, beat=self.around.beat))
        try:
            yield copy if away else task.target
        finally:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def _keep_pictures(self, key: str, tracks: dict[int, SeenTrack], found: FoundFaces) -> None:
        for portrait in found.portraits:
            track = tracks.get(portrait.track)
            if track is not None and portrait.worth > track.worth:
                track.crop = f"{key[:12]}-{portrait.track}.jpg"
                track.worth, track.dark = portrait.worth, portrait.dark
                path = self._folder / FOLDER_NAME / track.crop
                self.around.patience.attempt(partial(write_image, path, portrait.image, quality=90))

    def _tell(self, cast: Casting, videos: list[SeenIn]) -> None:
        """Write down how the targets look, and say what is worth knowing."""
        triage = triage_of(videos, cast.given.names, pace_of(self.earlier.history))
        self.around.patience.attempt(lambda: triage.save(self._folder))
        lines = {file.target: file for file in triage.files}
        for index, task in enumerate(self.around.job.tasks):
            if file := lines.get(task.output.name):
                self.around.status.file(index, _waiting(task, line_of(file)))
        told = tr("{people} person(s) are seen in {files} file(s): {map} says what is done to each",
                  people=len(cast.people), files=len(videos), map=MAP_NAME)  # fmt: skip
        notes = [told, *self._treatments.notes, *triage.lines()]
        if self.usual.sought is not None:
            notes.append(tr("{map} counts: target_person and never have no say", map=MAP_NAME))
        if told not in self.around.status.status.notes:
            self.around.status.note(*notes)


def _waiting(task: Task, *remarks: str) -> FileReport:
    return FileReport(target=str(task.target), status="queued", fallbacks=[one for one in remarks if one])


def line_of(file: FileTriage) -> str:
    """Say who is seen in a target, how long, and what speaks against a good result."""
    people = [tr("{name} {seconds:.0f} s", name=name, seconds=time) if time else name
              for name, time in file.people.items()]  # fmt: skip
    return "; ".join([", ".join(people), *file.remarks]).strip("; ")


def _sight(found: FoundFaces) -> Sight:
    def share(count: float, whole: int) -> float:
        return round(count / whole, 4) if whole else 0.0

    covered = [one.covered for one in found.portraits if one.covered is not None]
    return Sight(
        frames=found.frames,
        faces=share(found.shown, found.frames),
        turned=share(found.turned, found.faces),
        small=share(found.small, found.faces),
        dark=share(sum(one.dark for one in found.portraits), len(found.portraits)),
        covered=share(sum(covered), len(covered)) if covered else None,
    )
