"""What was done to a target, said in its result's own file: a signed C2PA manifest, and plain metadata.

A result is marked under its hidden name, before it is published: no file of a run is ever seen unmarked. The
manifest names the target with its hash, keeps what the target's own manifest says, and is signed over the
result's bytes. Formats that hold no manifest get it in a file beside them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from c2pa import Builder, C2paError, Context, Reader

from colab_helpers.errors import MediaError, SettingsError
from colab_helpers.faces.engine import Engine
from colab_helpers.files import hidden_name, manifest_beside, sha256_of, unwritable, write_whole
from colab_helpers.itself import VERSION
from colab_helpers.language import printable, tr
from colab_helpers.media.label import Label
from colab_helpers.settings import Settings
from colab_helpers.trust.content import ContentCheck
from colab_helpers.trust.records import Consent
from colab_helpers.trust.signing import LOCAL, Credentials, credentials
from colab_helpers.trust.spooling import SPOOL_MB, Watched, spooled_beside

COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a picture of a camera with parts that a trained network made."""
_CREATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for a picture that a trained network made as a whole."""
_EMPTY = "http://c2pa.org/digitalsourcetype/empty"
SOFTWARE = {"name": "colab_helpers", "version": VERSION}
_OWN = "colab_helpers."
NETWORKS, DIGEST, LABEL, DISCLOSURE, CONSENT, CONTENT = map(
    _OWN.__add__, ("networks", "sha256", "label", "disclosure", "consent", "content")
)
"""Names of our own in a manifest: in its actions networks used, the target's SHA-256, the words of the label
burnt in, and how else those who see the result are told; as assertions the consent stated, and what was seen
in the target."""

MIME = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg", ".jpe": "image/jpeg", ".jfif": "image/jpeg", ".png": "image/png",
    ".apng": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".tif": "image/tiff",
    ".tiff": "image/tiff", ".avif": "image/avif", ".heic": "image/heic", ".heif": "image/heif",
}  # fmt: skip
"""Suffixes of files that hold a manifest, and the type of each."""
_OTHER = "application/octet-stream"

SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "core": {"backing_store_memory_threshold_in_mb": SPOOL_MB},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},  # no network, whatever a file asks for
}
_BY_AI = {"swap": "swapped", "enhance": "enhanced"}  # in English, whatever language is spoken


def sidecar(path: Path) -> Path | None:
    """Return where the manifest of a file lies: beside it, or None where the file holds it itself."""
    return None if path.suffix.lower() in MIME else manifest_beside(path)


@dataclass(eq=False, kw_only=True)
class Marks:
    """Marks the result of one target.

    Attributes:
        signed_by: Whose certificate is used.
        target: The file that was changed; its bytes are what counts.
        networks: Names of the networks that do each action of `Measured`.
        digest: SHA-256 of the target, where it is known; to read a large one again takes seconds.
        target_manifest: Where the target's manifest lies, if not in the target.
        consent: What was stated; ``sources`` are the SHA-256 of the photos of who is put in.
        content: What has looked at the target; nothing is sealed before it has decided.
        label: What is burnt into its pictures, if anything.
        disclosure: How else those who see it are told.
        enlarged_by: Name of the network that enlarges its pictures, if any does.
        beat: Called every few megabytes; may raise to give up.
        marked: Whether a result was marked.
        manifest: SHA-256 of its manifest where that is in a file of its own.
    """

    signed_by: Credentials
    target: Path
    networks: Mapping[str, Sequence[str]]
    target_manifest: Path | None = None
    consent: Consent | None = None
    sources: Sequence[str] = ()
    content: ContentCheck | None = None
    digest: str = ""
    label: Label | None = None
    disclosure: str = ""
    enlarged_by: str = ""
    beat: Callable[[], None] = lambda: None
    marked: bool = field(default=False, init=False)
    manifest: str | None = field(default=None, init=False)

    def _told(self, actions: Collection[str]) -> str:
        made = [f"Faces {' and '.join(_by_ai(actions).values())} by AI"] if _by_ai(actions) else []
        hidden = ["Faces made unrecognisable"] if set(actions) - _BY_AI.keys() else []
        return "; ".join(made + hidden)

    @classmethod
    def of(cls, engine: Engine, target: Path, read: Path, **stated: Any) -> Marks:
        """Return what marks the result that an engine's networks make of a target, read at ``read``.

        ``stated`` are ``digest``, ``consent``, ``sources``, ``content`` and ``beat``.
        """
        changers = {"swap": engine.swapper, "enhance": engine.enhancer}
        return cls(
            signed_by=credentials(engine.settings.signing_certificate),
            target=read,
            target_manifest=sidecar(target),
            label=Label.of(engine.settings),
            disclosure=engine.settings.disclosure,
            enlarged_by=engine.frame_enhancer.network.name if engine.frame_enhancer else "",
            networks={
                action: [network.name for network in changer.networks]
                for action, changer in changers.items()
                if changer is not None
            },
            **stated,
        )

    def disclosed(self, actions: Collection[str]) -> dict[str, str]:
        """Return the words burnt in, ``label``, and ``disclosure``; empty where no face was changed by AI."""
        shown = {"label": self.label.text if self.label else "", "disclosure": self.disclosure}
        return {name: text if _by_ai(actions) else "" for name, text in shown.items()}

    def comment(self, actions: Collection[str]) -> str:
        """Return what a video's own comment says; empty where no face was changed."""
        kind = f", {COMPOSITE}" if _by_ai(actions) else ""
        return f"{self._told(actions)} (colab_helpers {VERSION}{kind})" if actions else ""

    def parts(self, actions: Collection[str]) -> dict[str, bytes]:
        """Return a picture's XMP packet; none where nothing was made by AI (IPTC Photo Metadata 2023.2)."""
        return {"xmp": _xmp(self._told(actions))} if _by_ai(actions) else {}

    def seal(self, partial: Path, output: Path, actions: Collection[str]) -> None:
        """Sign a finished file under its hidden name; it is replaced by the signed one.

        Args:
            partial: The file.
            output: Where it will be published; a manifest beside it is there before.
            actions: What was done to faces; without any the manifest says that it was only stored anew.

        Raises:
            OutputError: There is no room.
            MediaError: The manifest cannot be made.
        """
        beside, manifest = sidecar(output), self._manifest(output, actions)
        signed = hidden_name(partial)
        try:
            with spooled_beside(partial):
                data = self._sign(manifest, partial, Path(os.devnull) if beside else signed, embed=not beside)
            if beside:
                write_whole(beside, io.BytesIO(data))
            else:
                signed.replace(partial)
        except OSError as error:
            raise unwritable(output, error) from error
        finally:
            signed.unlink(missing_ok=True)
        self.marked, self.manifest = True, hashlib.sha256(data).hexdigest() if beside else None

    def _manifest(self, output: Path, actions: Collection[str]) -> dict[str, Any]:
        digest = self.digest or sha256_of(self.target, on_chunk=self.beat)
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["target"], DIGEST: digest}}
        edited: dict[str, Any] = {
            "action": "c2pa.edited",
            "softwareAgent": SOFTWARE,
            "description": self._told(actions),
        }
        if used := _by_ai(actions):
            names = [name for action in used for name in self.networks.get(action, ())]
            told = {f"{_OWN}{name}": text for name, text in self.disclosed(actions).items() if text}
            edited |= {"digitalSourceType": COMPOSITE, "parameters": {NETWORKS: names, **told}}
        stored = {"action": "c2pa.transcoded", "softwareAgent": SOFTWARE}
        done = [opened, edited if actions else stored]
        if self.enlarged_by:
            resized: dict[str, Any] = {"action": "c2pa.resized", "softwareAgent": SOFTWARE}
            by_ai = {"digitalSourceType": COMPOSITE, "parameters": {NETWORKS: [self.enlarged_by]}}
            done.append(resized | by_ai)
        definition = _definition(printable(output.name), done)
        definition["assertions"] += self._stated()
        return definition

    def _stated(self) -> list[dict[str, Any]]:
        """What was stated and seen before the target was changed, as assertions."""
        stated: dict[str, Any] = {}
        if self.consent is not None and self.consent.statement:
            stated[CONSENT] = self.consent.record() | {"sources": list(self.sources)}
        if self.content is not None:
            decision = self.content.decision
            if decision is None or decision.state != "allowed":
                raise RuntimeError("a result may be sealed only once its target was looked at and allowed")
            stated[CONTENT] = decision.model_dump(mode="json", exclude_defaults=True)
        return [{"label": label, "data": data} for label, data in stated.items()]

    def _sign(self, manifest: dict[str, Any], source: Path, target: Path, *, embed: bool) -> bytes:
        kind = MIME.get(source.suffix.lower(), _OTHER)
        stopped: list[BaseException] = []
        try:
            with Builder(manifest, context=_context()) as builder, self.signed_by.signer() as signer:
                if not embed:
                    builder.set_no_embed()
                self._add_target(builder, stopped)
                with (
                    Watched(source, "rb", self.beat, stopped) as read,
                    Watched(target, "w+b", self.beat, stopped) as written,
                ):
                    signed: bytes = builder.sign(signer, kind, read, written)
                    return signed
        except C2paError as error:
            if stopped:
                raise stopped[0] from error
            if isinstance(error, C2paError.Io):
                raise OSError(errno.EIO, str(error)) from error
            raise MediaError(
                tr("the result cannot be marked ({reason})", reason=error),
                where=str(source),
                remedy=tr("write another format, such as .mp4 or .png"),
            ) from error

    def _add_target(self, builder: Builder, stopped: list[BaseException]) -> None:
        """Name the target, with what its own manifest says."""
        named: dict[str, Any] = {
            "title": printable(self.target.name),
            "relationship": "parentOf",
            "label": "target",
        }
        kind = MIME.get(self.target.suffix.lower(), _OTHER)
        try:
            named |= self._said_beside(builder, kind)
            with Watched(self.target, "rb", self.beat, stopped) as content:
                builder.add_ingredient(named, kind, content)
        except C2paError:
            if stopped:
                raise
            builder.add_ingredient(named, _OTHER, io.BytesIO())  # not what its name says, or damaged

    def _said_beside(self, builder: Builder, kind: str) -> dict[str, Any]:
        """Take a manifest beside the target into the builder; return how an ingredient names it."""
        if self.target_manifest is None or not self.target_manifest.is_file():
            return {}
        data = self.target_manifest.read_bytes()
        with self.target.open("rb") as content, Reader(kind, content, data, _context()) as reader:
            store = json.loads(reader.json())
        builder.add_resource(self.target_manifest.name, io.BytesIO(data))
        return {
            "manifest_data": {"format": "application/c2pa", "identifier": self.target_manifest.name},
            "active_manifest": store["active_manifest"],
            "validation_results": store["validation_results"],
        }


def check_marks(settings: Settings) -> None:
    """Make sure that results can be labelled and signed, before any work.

    Raises:
        SettingsError: The label cannot be drawn; see also `checked_credentials`.
    """
    Label.of(settings)
    checked_credentials(settings.signing_certificate)


def checked_credentials(path: str) -> Credentials:
    """Return whose certificate is used, once it has signed something: before any work.

    Raises:
        SettingsError: It cannot sign what this package writes; see also `signing.credentials`.
    """
    found = credentials(path)
    # The smallest GIF (GIF89a): one transparent pixel.
    pixel = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
    made = {"action": "c2pa.created", "softwareAgent": SOFTWARE, "digitalSourceType": _EMPTY}
    try:
        with Builder(_definition("trial", [made]), context=_context()) as builder, found.signer() as signer:
            builder.sign(signer, "image/gif", io.BytesIO(pixel), io.BytesIO())
    except C2paError as error:
        raise SettingsError(
            tr("this certificate cannot sign results ({reason})", reason=error),
            where=path,
            remedy=tr("use one that is valid today and made for signing C2PA manifests"),
        ) from error
    return found


def _by_ai(actions: Collection[str]) -> dict[str, str]:
    """What networks do of what is done to faces."""
    return {action: word for action, word in _BY_AI.items() if action in actions}


def _definition(title: str, actions: list[dict[str, Any]]) -> dict[str, Any]:
    stated = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    return {"claim_generator_info": [SOFTWARE], "title": title, "assertions": stated}


@lru_cache(maxsize=1)
def _context() -> Context:
    return Context.from_dict(SETTINGS)


def seal_created(partial: Path, *, told: str, network: str) -> None:
    """Sign a PNG that a network made as a whole, under its hidden name, by this machine's certificate."""
    made = {"action": "c2pa.created", "softwareAgent": SOFTWARE, "digitalSourceType": _CREATED}
    definition = _definition("portrait", [made | {"description": told, "parameters": {NETWORKS: [network]}}])
    signed, content = io.BytesIO(), io.BytesIO(partial.read_bytes())
    with Builder(definition, context=_context()) as builder, credentials(LOCAL).signer() as signer:
        builder.sign(signer, MIME[".png"], content, signed)
    partial.write_bytes(signed.getvalue())


def xmp_of_created(told: str) -> bytes:
    """Return the XMP packet of a picture that a network made as a whole."""
    return _xmp(told, _CREATED)


def _xmp(told: str, source_type: str = COMPOSITE) -> bytes:
    from xml.sax.saxutils import quoteattr  # slow: it brings urllib and http along

    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(f'colab_helpers {VERSION}')}"
        f" photoshop:Instructions={quoteattr(told)}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(source_type)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
