"""Find the people in the targets before any is processed: scan all targets, group tracks, name the groups.

The scan of a target is saved at once, so that a resumed run scans nothing twice. Tracks are grouped only
after all targets were scanned, so that names do not depend on when a run was killed.
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
    """Finds the people in the targets of a batch and assigns a treatment to each."""

    context: WorkerContext
    engine: Engine
    earlier: EarlierWork
    journal: JournalWriter
    default: Assignment  # what the request does without a people map
    source: Identity | None  # the person in the source photos

    @property
    def _folder(self) -> Path:
        return self.context.job.folder

    @cached_property
    def _treatments(self) -> TreatmentResolver:
        job, request = self.context.job, self.context.job.request
        needed, library = request.people != "only", request.library
        return TreatmentResolver(self.engine, job.folder, library, self.source, job.sources, needed)

    def assignment_lookup(self) -> Callable[[Task], Assignment]:
        """Return a function from tasks to assignments, by the people map if there is one; see `find`."""
        batch = self.find()
        if batch is None:
            return lambda _task: self.default
        self.earlier.decisions = batch.decisions
        return lambda task: batch.assignment(self.earlier.index_key(task))

    def find(self) -> BatchAssignment | None:
        """Scan the targets and return the batch's assignment; None if the request does not ask for people.

        Raises:
            UsageError: The map cannot be used.
            ConsentError: The statement of consent does not cover somebody whom the map puts in.
            OutputError: The record of people, the map or the triage cannot be written.
            KeyboardInterrupt: A stop was requested.
        """
        mode, people_map = self.context.job.request.people, self._requested(PeopleMap.load(self._folder))
        if people_map is None and mode == "auto":
            return None
        known = self._known()
        if people_map is not None:  # report its errors before any work
            self._treatments.of(people_map)
            check_groups(people_map, known)
        names = self._scan_targets(known, rescan=people_map is None)
        known.rename_targets(names)
        known.add(names)
        self._save(known)
        # The scan takes long: read the map again, as the user may have edited it meanwhile.
        path = self._folder / MAP_NAME
        self.context.retry.attempt(lambda: fetch(path))
        written = PeopleMap.load(self._folder)
        people_map = self._requested(written) or people_map or self._first_map(known)
        consent_for(self.context.job.request, self.context.job.inputs, people_map)
        limit = self.engine.settings.similar_face_distance
        assignment = assign_people(people_map, known, self._treatments, limit=limit)
        self._save(known)  # with the portraits that were assigned
        if mode != "auto" and assignment.people_map != written:
            self.context.retry.attempt(lambda: assignment.people_map.save(self._folder))
            self.context.retry.attempt(lambda: send_all([path]))
        self.context.retry.attempt(lambda: send_all([self._folder / PEOPLE_FOLDER_NAME]))
        self._publish_triage(assignment, [known.videos[key] for key in names if key in known.videos])
        return assignment

    def _requested(self, written: PeopleMap | None) -> PeopleMap | None:
        """Apply ``people="everybody"`` to the map: whoever is not in it gets a portrait of their own."""
        if self.context.job.request.people != "everybody":
            return written
        if self.default.person_filter is not None:
            what = tr("target_person and never cannot be combined with people=everybody")
            remedy = tr("list in {map}, by photos, the people who must not get a portrait", map=MAP_NAME)
            raise UsageError(what, remedy=remedy)
        return with_portraits(written)

    def _first_map(self, known: KnownPeople) -> PeopleMap:
        settings, person_filter = self.context.job.request.settings, self.default.person_filter
        filters = person_filter is not None and person_filter.wanted is not None
        chooses = not settings.many_faces or settings.needs_attributes or filters
        swaps = self.engine.swapper is None or self.source is not None
        return initial_map(known, everybody=not chooses, swaps=swaps)

    def _known(self) -> KnownPeople:
        known, (_, recogniser, *_) = KnownPeople.load(self._folder), self.engine.analyser.networks
        digest = self.earlier.models[recogniser.name]
        if known.recogniser not in ("", digest):
            text = mark("the people here were identified with a different recognition model than {name}")
            remedy = tr("use the model that was used before, or another output folder")
            where = self._folder / PEOPLE_FOLDER_NAME
            raise UsageError(tr(text, name=recogniser.name), where=str(where), remedy=remedy)
        known.recogniser = digest
        return known

    def _save(self, known: KnownPeople) -> None:
        self.context.retry.attempt(lambda: known.save(self._folder))

    def _scan_targets(self, known: KnownPeople, *, rescan: bool) -> dict[str, str]:
        """Scan the targets that are not known yet; return the output names of all known ones by index key.

        With ``rescan`` those that are grouped already are scanned, too, because this request may choose other
        people in them. That takes no detection, as their face indexes exist.
        """
        names, growth = dict[str, str](), MemoryGrowth()
        choice = selection_key(self.engine.settings, self.earlier.person_filter)
        if rescan and known.choice != choice:  # scanned, but not grouped, by a run that chose other people
            known.found, known.choice = {}, choice
        for index, task in enumerate(self.context.job.tasks):
            self.context.heartbeat()
            try:
                if not self.context.retry.attempt(partial(needs_download, task.target)):
                    require_file(task.target)
                key = self.earlier.index_key(task)
                old = known.found.get(key) or (None if rescan else known.videos.get(key))
                # Track numbers mean nothing without the index.
                scanned = None if old and self._has_index(task) else self._scan_target(index, task, key)
            except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
                if not isinstance(error, MediaError):  # that is reported when the target is processed
                    text = mark("could not look for people in {name}: {error}")
                    self.context.status.note(tr(text, name=task.target.name, error=error_text(error)))
                continue
            finally:
                unpin(task.target)
            names.setdefault(key, task.output.name)
            if scanned is not None:
                known.found[key] = scanned
                self._save(known)
                self.context.status.file(index, _queued_report(task))
                growth.check(self.context.stop)
        return names

    def _has_index(self, task: Task) -> bool:
        location = face_index_location(self.context, self.earlier, task)
        folders = filter(None, (location.folder, location.mirror))
        return is_frame_by_frame(task) or any(any(folder.glob("*.npz")) for folder in folders)

    def _scan_target(self, index: int, task: Task, key: str) -> KnownTarget:
        """Find the faces of a target, and save pictures of the best."""
        self.context.retry.attempt(lambda: pin(task.target, self.context.heartbeat))
        engine, _ = self.context.begin(self.engine, task, key, self.earlier, self.journal)
        location, still = face_index_location(self.context, self.earlier, task), is_frame_by_frame(task)
        record = None if still else location.content
        check = ContentCheck(engine, task.target, digest=model_digest, state_path=record, key=location.key)
        check.begin()
        if still:
            check_pictures(check, pictures_of(task.target))
            scan = find_in_picture(engine, self.default, task.target)
        else:
            with self._local_copy(task, location.folder) as target:
                scan = find_faces(
                    engine,
                    self.default,
                    target,
                    location.open(self.context.retry, self.context.heartbeat),
                    watcher=check,
                    on_progress=self.context.report_progress,
                    file_index=index,
                    file_count=len(self.context.job.tasks),
                )
        summaries = {track.number: TrackSummary.of(key, track) for track in scan.tracks}
        tracks = {n: KnownTrack.of(one, chosen=n in scan.chosen) for n, one in summaries.items() if one}
        self._save_pictures(key, tracks, scan)
        return KnownTarget(
            target=task.output.name,
            sha256=self.earlier.digests(task.target),
            rate=scan.rate,
            sight=_visibility(scan),
            tracks=dict.fromkeys(summaries, UNKNOWN_PERSON),
            seen=tracks,
        )

    @contextmanager
    def _local_copy(self, task: Task, folder: Path) -> Iterator[Path]:
        """Provide a target as a local file: videos are not decoded from a mounted drive."""
        copy = folder / "in" / task.target.name
        if mounted := self.context.work_dirs.mirror is not None:
            self.context.retry.attempt(lambda: copy_in(task.target, copy, heartbeat=self.context.heartbeat))
        try:
            yield copy if mounted else task.target
        finally:
            shutil.rmtree(copy.parent, ignore_errors=True)

    def _save_pictures(self, key: str, tracks: dict[int, KnownTrack], scan: FaceScan) -> None:
        for portrait in scan.portraits:
            track = tracks.get(portrait.track)
            if track is not None and portrait.worth > track.worth:
                track.crop = f"{key[:12]}-{portrait.track}.jpg"
                track.worth, track.dark = portrait.worth, portrait.dark
                path = self._folder / PEOPLE_FOLDER_NAME / track.crop
                self.context.retry.attempt(partial(write_image, path, portrait.image, quality=90))

    def _publish_triage(self, assignment: BatchAssignment, videos: list[KnownTarget]) -> None:
        """Write the triage, and show it in the status."""
        triage = build_triage(videos, assignment.people_map.names, measured_throughput(self.earlier.history))
        self.context.retry.attempt(lambda: triage.save(self._folder))
        files = {file.target: file for file in triage.files}
        for index, task in enumerate(self.context.job.tasks):
            if file := files.get(task.output.name):
                self.context.status.file(index, _queued_report(task, describe_triage(file)))
        summary = tr("{people} person(s) found in {files} file(s): {map} says what is done to each",
                     people=len(assignment.people), files=len(videos), map=MAP_NAME)  # fmt: skip
        notes = [summary, *self._treatments.notes, *triage.lines()]
        if self.default.person_filter is not None:
            notes.append(tr("{map} takes precedence: target_person and never are ignored", map=MAP_NAME))
        if summary not in self.context.status.status.notes:
            self.context.status.note(*notes)


def _queued_report(task: Task, *remarks: str) -> FileReport:
    return FileReport(target=str(task.target), status="queued", fallbacks=[one for one in remarks if one])


def describe_triage(file: FileTriage) -> str:
    """List the people in a target with their seconds on screen, and what may spoil the result."""
    people = [tr("{name} {seconds:.0f} s", name=name, seconds=time) if time else name
              for name, time in file.people.items()]  # fmt: skip
    return "; ".join([", ".join(people), *file.remarks]).strip("; ")


def _visibility(scan: FaceScan) -> FaceVisibility:
    def share(count: float, total: int) -> float:
        return round(count / total, 4) if total else 0.0

    covered = [one.covered for one in scan.portraits if one.covered is not None]
    return FaceVisibility(
        frames=scan.frames,
        faces=share(scan.shown, scan.frames),
        turned=share(scan.turned, scan.faces),
        small=share(scan.small, scan.faces),
        dark=share(sum(one.dark for one in scan.portraits), len(scan.portraits)),
        covered=share(sum(covered), len(covered)) if covered else None,
    )
