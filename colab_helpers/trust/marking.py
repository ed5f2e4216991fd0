"""Marks in a result's file that disclose what was done to its target: a signed C2PA manifest and metadata.

A result is marked under its hidden name before it is published, so that no unmarked file is ever visible. The
manifest contains the target's hash and its own manifest, and is signed over the result's bytes. Formats that
cannot embed a manifest get it in a file beside them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from colab_helpers.errors import MediaError, SettingsError
from colab_helpers.faces.engine import Engine
from colab_helpers.files import copy_atomically, hidden_name, sha256_of, unwritable_error
from colab_helpers.language import printable, tr
from colab_helpers.media.label import Label
from colab_helpers.settings import Settings
from colab_helpers.startup import VERSION
from colab_helpers.trust.content import ContentCheck
from colab_helpers.trust.manifests import Claim, file_binding, ingredient_archive, sidecar
from colab_helpers.trust.records import Consent
from colab_helpers.trust.signing import LOCAL, LOCAL_SIGNER, Credentials, load_credentials

COMPOSITE_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC source type of a captured picture with parts made by a trained network."""
GENERATED_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC source type of a picture made by a trained network as a whole."""
_EMPTY_SOURCE_TYPE = "http://c2pa.org/digitalsourcetype/empty"
SOFTWARE = {"name": "colab_helpers", "version": VERSION}
_PREFIX = "colab_helpers."
NETWORKS, DIGEST, LABEL, DISCLOSURE, CONSENT, CONTENT = map(
    _PREFIX.__add__, ("networks", "sha256", "label", "disclosure", "consent", "content")
)
"""Names of this package in a manifest. Parameters of actions: networks used, SHA-256 of the target, text of
the burnt-in label, and disclosure. Assertions: stated consent, and result of the content check."""

_BY_AI = {"swap": "swapped", "enhance": "enhanced"}  # not translated


@dataclass(eq=False, kw_only=True)
class Marks:
    """Marks the result of one target; see `pipeline.outcome.Marks`."""

    signed_by: Credentials
    target: Path  # the target, or a copy of it
    networks: Mapping[str, Sequence[str]]  # names of the networks by action, as in `FrameStats`
    target_manifest: Path | None = None  # the manifest beside the target, if it embeds none
    consent: Consent | None = None
    sources: Sequence[str] = ()  # SHA-256 of the source photos
    content: ContentCheck | None = None  # has to decide before anything is sealed
    digest: str = ""  # SHA-256 of the target if known: reading a large one again takes seconds
    label: Label | None = None  # burnt into its pictures
    disclosure: str = ""  # how viewers are told otherwise
    enlarged_by: str = ""  # name of the network that enlarges its pictures
    heartbeat: Callable[[], None] = lambda: None  # called every few megabytes; may raise to stop
    marked: bool = field(default=False, init=False)  # whether a result was marked
    manifest: str | None = field(default=None, init=False)  # SHA-256 of a manifest in a file of its own

    def _summary(self, actions: Collection[str]) -> str:
        words = _ai_words(actions).values()
        changed = [f"Faces {' and '.join(words)} by AI"] if words else []
        hidden = ["Faces made unrecognisable"] if set(actions) - _BY_AI.keys() else []
        return "; ".join(changed + hidden)

    @classmethod
    def of(
        cls,
        engine: Engine,
        target: Path,
        read: Path,
        *,
        consent: Consent,
        sources: Sequence[str],
        content: ContentCheck,
        digest: str,
        heartbeat: Callable[[], None],
    ) -> Marks:
        """Return the marks for the result that an engine makes of a target, which is read from ``read``."""
        changers = {"swap": engine.swapper, "enhance": engine.enhancer}
        return cls(
            signed_by=load_credentials(engine.settings.signing_certificate),
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
            consent=consent,
            sources=sources,
            content=content,
            digest=digest,
            heartbeat=heartbeat,
        )

    def disclosures(self, actions: Collection[str]) -> dict[str, str]:
        """Return the texts of ``label`` and ``disclosure``, empty if no face was changed by AI."""
        shown = {"label": self.label.text if self.label else "", "disclosure": self.disclosure}
        return {name: text if _ai_words(actions) else "" for name, text in shown.items()}

    def comment(self, actions: Collection[str]) -> str:
        """Return the comment tag of a video; empty if no face was changed."""
        kind = f", {COMPOSITE_SOURCE_TYPE}" if _ai_words(actions) else ""
        return f"{self._summary(actions)} (colab_helpers {VERSION}{kind})" if actions else ""

    def parts(self, actions: Collection[str]) -> dict[str, bytes]:
        """Return the XMP packet of a picture; none if no face was changed by AI."""
        return {"xmp": xmp_of(self._summary(actions))} if _ai_words(actions) else {}

    def seal(self, partial: Path, output: Path, actions: Collection[str]) -> None:
        """Replace a finished file under its hidden name by its signed copy.

        A manifest beside ``output`` is written before that is published. Without ``actions`` on faces the
        manifest states that the target was only transcoded.

        Raise OutputError if a file cannot be written, MediaError if the manifest cannot be made.
        """
        from c2pa import C2paError

        manifest_path, signed = sidecar(output), hidden_name(partial)
        definition = self._manifest(output, actions)
        try:
            signed.unlink(missing_ok=True)  # writing would follow a symbolic link
            claim = Claim(definition, self.signed_by, ingredient_archive(self.target, self.target_manifest))
            if manifest_path:
                data = claim.sign(file_binding(sha256_of(partial, on_chunk=self.heartbeat)))
                copy_atomically(manifest_path, io.BytesIO(data))
                self.manifest = hashlib.sha256(data).hexdigest()
            else:
                claim.embed(partial, signed, self.heartbeat)
                signed.replace(partial)
        except (OSError, C2paError.Io) as error:
            raise unwritable_error(output, error) from error
        except (C2paError, ValueError) as error:
            raise MediaError(
                tr("the result cannot be marked ({reason})", reason=error),
                where=str(output),
                remedy=tr("write another format, such as .mp4 or .png"),
            ) from error
        finally:
            signed.unlink(missing_ok=True)
        self.marked = True

    def _manifest(self, output: Path, actions: Collection[str]) -> dict[str, Any]:
        digest = self.digest or sha256_of(self.target, on_chunk=self.heartbeat)
        opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["target"], DIGEST: digest}}
        edited = _action("edited", description=self._summary(actions)) if actions else _action("transcoded")
        if words := _ai_words(actions):
            networks = [name for action in words for name in self.networks.get(action, ())]
            disclosed = {f"{_PREFIX}{name}": text for name, text in self.disclosures(actions).items() if text}
            edited["digitalSourceType"] = COMPOSITE_SOURCE_TYPE
            edited["parameters"] = {NETWORKS: networks, **disclosed}
        performed = [opened, edited]
        if self.enlarged_by:
            by = {NETWORKS: [self.enlarged_by]}
            performed.append(_action("resized", digitalSourceType=COMPOSITE_SOURCE_TYPE, parameters=by))
        definition = _definition(printable(output.name), performed)
        definition["assertions"] += self._assertions()
        return definition

    def _assertions(self) -> list[dict[str, Any]]:
        """Return the assertions on the stated consent and the content check."""
        assertions: dict[str, Any] = {}
        if self.consent is not None and self.consent.statement:
            assertions[CONSENT] = self.consent.record() | {"sources": list(self.sources)}
        if self.content is not None:
            decision = self.content.decision
            if decision is None or decision.state != "allowed":
                raise RuntimeError("a result may be sealed only after its target was checked and allowed")
            assertions[CONTENT] = decision.model_dump(mode="json", exclude_defaults=True)
        return [{"label": label, "data": data} for label, data in assertions.items()]


def check_marking(settings: Settings) -> None:
    """Make sure, before any work, that results can be labelled and signed; raise SettingsError if not."""
    Label.of(settings)
    load_checked_credentials(settings.signing_certificate)


def load_checked_credentials(path: str) -> Credentials:
    """Load credentials and, unless they are this machine's own, test that they can sign a manifest.

    Raise SettingsError if they cannot; for other errors see `signing.load_credentials`.
    """
    credentials = load_credentials(path)
    if credentials.local and credentials.name == LOCAL_SIGNER:
        return credentials
    from c2pa import C2paError

    created = _action("created", digitalSourceType=_EMPTY_SOURCE_TYPE)
    try:
        Claim(_definition("trial", [created]), credentials).sign()
    except C2paError as error:
        raise SettingsError(
            tr("this certificate cannot sign results ({reason})", reason=error),
            where=path,
            remedy=tr("use a certificate that is valid today and made for signing C2PA manifests"),
        ) from error
    return credentials


def _ai_words(actions: Collection[str]) -> dict[str, str]:
    """Return those of some actions that networks perform, each with its word in English."""
    return {action: word for action, word in _BY_AI.items() if action in actions}


def _action(name: str, **fields: Any) -> dict[str, Any]:
    return {"action": f"c2pa.{name}", "softwareAgent": SOFTWARE, **fields}


def _definition(title: str, actions: list[dict[str, Any]]) -> dict[str, Any]:
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": actions}}]
    return {"claim_generator_info": [SOFTWARE], "title": title, "assertions": assertions}


def seal_generated(partial: Path, *, description: str, network: str) -> None:
    """Sign a PNG made by a network as a whole, under its hidden name, with this machine's certificate."""
    created = _action("created", digitalSourceType=GENERATED_SOURCE_TYPE, description=description)
    created["parameters"] = {NETWORKS: [network]}
    claim, signed = Claim(_definition("portrait", [created]), load_credentials(LOCAL)), hidden_name(partial)
    try:
        claim.embed(partial, signed, lambda: None)
        signed.replace(partial)
    finally:
        signed.unlink(missing_ok=True)


def xmp_of(instructions: str, source_type: str = COMPOSITE_SOURCE_TYPE) -> bytes:
    """Return the XMP packet of a picture (IPTC Photo Metadata 2023.2)."""
    from xml.sax.saxutils import quoteattr  # slow to import: it loads urllib and http

    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(f'colab_helpers {VERSION}')}"
        f" photoshop:Instructions={quoteattr(instructions)}"
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(source_type)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
