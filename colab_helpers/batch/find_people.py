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

from colab_helpers.batch.batch_assignment import (
    BatchAssignment,
    TreatmentResolver,
    assign_people,
    check_groups,
    initial_map,
)
from colab_helpers.batch.context import WorkerContext, face_index_location
from colab_helpers.batch.drive import copy_in
from colab_helpers.batch.job import consent_for
from colab_helpers.batch.journal import JournalWriter
from colab_helpers.batch.keys import selection_key
from colab_helpers.batch.known_people import (
    PEOPLE_FOLDER_NAME,
    UNKNOWN_PERSON,
    FaceVisibility,
    KnownPeople,
    KnownTarget,
    KnownTrack,
)
from colab_helpers.batch.memory_growth import MemoryGrowth
from colab_helpers.batch.object_store import fetch, needs_download, pin, send_all, unpin
from colab_helpers.batch.outputs import is_frame_by_frame
from colab_helpers.batch.people_map import MAP_NAME, PeopleMap, with_portraits
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.resume import EarlierWork, model_digest
from colab_helpers.batch.run_file import error_text
from colab_helpers.batch.triage import FileTriage, build_triage, measured_throughput
from colab_helpers.errors import MediaError, UsageError
from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.person_clustering import TrackSummary
from colab_helpers.faces.photos import Identity
from colab_helpers.language import mark, tr
from colab_helpers.media.images import write_image
from colab_helpers.media.inputs import require_file
from colab_helpers.pipeline.face_scan import FaceScan, find_faces, find_in_picture
from colab_helpers.pipeline.image import pictures_of
from colab_helpers.trust.content import ContentCheck, check_pictures


@dataclass(frozen=True, eq=False)
class PeopleFinder:
    """Finds everybody in the targets of a batch."""

    context: WorkerContext
    engine: Engine
    earlier: EarlierWork
    journal: JournalWriter
    usual: Assignment  # whom the request changes where no map says otherwise
    source: Identity | None  # who is on the photos of the run

    @property
    def _folder(self) -> Path:
        return self.context.job.folder

    @cached_property
    def _treatments(self) -> TreatmentResolver:
        job = self.context.job
        needed = job.request.people != "only"
        return TreatmentResolver(
            self.engine, job.folder, job.request.library, self.source, job.sources, needed
        )

    def assignment_lookup(self) -> Callable[[Task], Assignment]:
        """Return what says what is done to whom in a target, by a map if there is one; raises as `found`."""
        found = self.found()
        if found is None:
            return lambda _task: self.usual
        self.earlier.decisions = found.decisions
        return lambda task: found.assignment(self.earlier.index_key(task))

    def found(self) -> BatchAssignment | None:
        """Return who is who in the batch, and what is done to each; None where nobody asks for that.

        UsageError, ConsentError where the map cannot be used, or puts in somebody who is not covered;
        OutputError where what was found cannot be written; KeyboardInterrupt as somebody asks to stop.
        """
        asked, people_map = self.context.job.request.people, self._asked(PeopleMap.load(self._folder))
        if people_map is None and asked == "auto":
            return None
        known = self._known()
        if people_map is not None:  # what is wrong with it is told before any work
            self._treatments.of(people_map)
            check_groups(people_map, known)
        names = self._scan_targets(known, anew=people_map is None)
        known.call(names)
        known.add(names)
        self._save(known)
        # The map as the user has it now: finding everybody takes long.
        place = self._folder / MAP_NAME
        self.context.retry.attempt(lambda: fetch(place))
        written = PeopleMap.load(self._folder)
        people_map = self._asked(written) or people_map or self._first_map(known)
        consent_for(self.context.job.request, self.context.job.inputs, people_map)
        assignment = assign_people(
            people_map, known, self._treatments, limit=self.engine.settings.similar_face_distance
        )
        self._save(known)  # who got which portrait
        if asked != "auto" and assignment.people_map != written:
            self.context.retry.attempt(lambda: assignment.people_map.save(self._folder))
            self.context.retry.attempt(lambda: send_all([place]))
        self.context.retry.attempt(lambda: send_all([self._folder / PEOPLE_FOLDER_NAME]))
        self._publish_triage(assignment, [known.videos[key] for key in names if key in known.videos])
        return assignment

    def _asked(self, written: PeopleMap | None) -> PeopleMap | None:
        """Return the map as the request has it, in which ``everybody`` else may be to have a portrait."""
        if self.context.job.request.people != "everybody":
            return written
        if self.usual.person_filter is not None:
            told = tr("{map} counts: target_person and never have no say", map=MAP_NAME)
            raise UsageError(told, remedy=tr("enter there, by photos, who is not to get a portrait"))
        return with_portraits(written)

    def _first_map(self, known: KnownPeople) -> PeopleMap:
        settings, person_filter = self.context.job.request.settings, self.usual.person_filter
        chooses = (
            not settings.many_faces
            or settings.asks_attributes
            or (person_filter and person_filter.wanted is not None)
        )
        swaps = self.engine.swapper is None or self.source is not None
        return initial_map(known, everybody=not chooses, swaps=swaps)

    def _known(self) -> KnownPeople:
        known, (_, recogniser, *_) = KnownPeople.load(self._folder), self.engine.analyser.networks
        digest = self.earlier.models[recogniser.name]
        if known.recogniser not in ("", digest):
            what = tr("the people here were told apart by another network than {name}", name=recogniser.name)
            remedy = tr("take that network, or another output folder")
            raise UsageError(what, where=str(self._folder / PEOPLE_FOLDER_NAME), remedy=remedy)
        known.recogniser = digest
        return known

    def _save(self, known: KnownPeople) -> None:
        self.context.retry.attempt(lambda: known.save(self._folder))

    def _scan_targets(self, known: KnownPeople, *, anew: bool) -> dict[str, str]:
        """Look at every target that is not known; return names of those that are then by key, in their order.

        ``anew`` also at those that were put together already: another request may choose others. That takes
        no detection, as their indexes are there.
        """
        names, growth = dict[str, str](), MemoryGrowth()
        choice = selection_key(self.engine.settings, self.earlier.person_filter)
        if anew and known.choice != choice:  # another request, cut short, may have chosen others
            known.found, known.choice = {}, choice
        for index, task in enumerate(self.context.job.tasks):
            self.context.heartbeat()
            try:
                if not self.context.retry.attempt(partial(needs_download, task.target)):
                    require_file(task.target)
                key = self.earlier.index_key(task)
                old = known.found.get(key) or (None if anew else known.videos.get(key))
                # Without its index the numbers of its tracks mean nothing.
                seen = None if old and self._has_index(task) else self._scan_target(index, task, key)
            except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
                if not isinstance(error, MediaError):  # which is told when its turn comes
                    told = mark("nobody could be looked for in {name}: {error}")
                    self.context.status.note(tr(told, name=task.target.name, error=error_text(error)))
                continue
            finally:
                unpin(task.target)
            names.setdefault(key, task.output.name)
            if seen is not None:
                known.found[key] = seen
                self._save(known)
                self.context.status.file(index, _waiting(task))
                growth.check(self.context.stop)
        return names

    def _has_index(self, task: Task) -> bool:
        place = face_index_location(self.context, self.earlier, task)
        folders = filter(None, (place.place, place.mirror))
        return is_frame_by_frame(task) or any(any(folder.glob("*.npz")) for folder in folders)

    def _scan_target(self, index: int, task: Task, key: str) -> KnownTarget:
        """Find the faces of a target, and keep pictures of the best."""
        self.context.retry.attempt(lambda: pin(task.target, self.context.heartbeat))
        engine, _ = self.context.begin(self.engine, task, key, self.earlier, self.journal)
        place, still = face_index_location(self.context, self.earlier, task), is_frame_by_frame(task)
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
                    place.open(self.context.retry, self.context.heartbeat),
                    watcher=check,
                    on_progress=self.context.report_progress,
                    file_index=index,
                    file_count=len(self.context.job.tasks),
                )
        seen = {track.number: TrackSummary.of(key, track) for track in found.tracks}
        tracks = {n: KnownTrack.of(one, chosen=n in found.chosen) for n, one in seen.items() if one}
        self._keep_pictures(key, tracks, found)
        return KnownTarget(
            target=task.output.name,
            sha256=self.earlier.digests(task.target),
            rate=found.rate,
            sight=_sight(found),
            tracks=dict.fromkeys(seen, UNKNOWN_PERSON),
            seen=tracks,
        )

    @contextmanager
    def _near(self, task: Task, place: Path) -> Iterator[Path]:
        """Have a target at hand: from a mounted drive no video is decoded."""
        copy = place / "in" / task.target.name
        if away := self.context.work_dirs.mirror is not None:
            self.context.retry.attempt(lambda: copy_in(task.target, copy, heartbeat=self.context.heartbeat))
        try:
            yield copy if away else task.target
        finally:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def _keep_pictures(self, key: str, tracks: dict[int, KnownTrack], found: FaceScan) -> None:
        for portrait in found.portraits:
            track = tracks.get(portrait.track)
            if track is not None and portrait.worth > track.worth:
                track.crop = f"{key[:12]}-{portrait.track}.jpg"
                track.worth, track.dark = portrait.worth, portrait.dark
                path = self._folder / PEOPLE_FOLDER_NAME / track.crop
                self.context.retry.attempt(partial(write_image, path, portrait.image, quality=90))

    def _publish_triage(self, assignment: BatchAssignment, videos: list[KnownTarget]) -> None:
        """Write down how the targets look, and say what is worth knowing."""
        triage = build_triage(videos, assignment.people_map.names, measured_throughput(self.earlier.history))
        self.context.retry.attempt(lambda: triage.save(self._folder))
        lines = {file.target: file for file in triage.files}
        for index, task in enumerate(self.context.job.tasks):
            if file := lines.get(task.output.name):
                self.context.status.file(index, _waiting(task, describe_triage(file)))
        told = tr("{people} person(s) are seen in {files} file(s): {map} says what is done to each",
                  people=len(assignment.people), files=len(videos), map=MAP_NAME)  # fmt: skip
        notes = [told, *self._treatments.notes, *triage.lines()]
        if self.usual.person_filter is not None:
            notes.append(tr("{map} counts: target_person and never have no say", map=MAP_NAME))
        if told not in self.context.status.status.notes:
            self.context.status.note(*notes)


def _waiting(task: Task, *remarks: str) -> FileReport:
    return FileReport(target=str(task.target), status="queued", fallbacks=[one for one in remarks if one])


def describe_triage(file: FileTriage) -> str:
    """Say who is seen in a target, how long, and what speaks against a good result."""
    people = [tr("{name} {seconds:.0f} s", name=name, seconds=time) if time else name
              for name, time in file.people.items()]  # fmt: skip
    return "; ".join([", ".join(people), *file.remarks]).strip("; ")


def _sight(found: FaceScan) -> FaceVisibility:
    def share(count: float, whole: int) -> float:
        return round(count / whole, 4) if whole else 0.0

    covered = [one.covered for one in found.portraits if one.covered is not None]
    return FaceVisibility(
        frames=found.frames,
        faces=share(found.shown, found.frames),
        turned=share(found.turned, found.faces),
        small=share(found.small, found.faces),
        dark=share(sum(one.dark for one in found.portraits), len(found.portraits)),
        covered=share(sum(covered), len(covered)) if covered else None,
    )
