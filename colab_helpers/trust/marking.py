"""What was done to a target, said in its result's own file: a signed C2PA manifest, and plain metadata.

A result is marked under its hidden name, before it is published: no file of a run is ever seen unmarked. The
manifest names the target with its hash, keeps what the target's own manifest says, and is signed over the
result's bytes. Formats that hold no manifest get it in a file beside them.
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
"""IPTC's word for a picture of a camera with parts that a trained network made."""
GENERATED_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
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

_BY_AI = {"swap": "swapped", "enhance": "enhanced"}  # in English, whatever language is spoken


@dataclass(eq=False, kw_only=True)
class Marks:
    """Marks the result of one target."""

    signed_by: Credentials  # whose certificate is used
    target: Path  # the file that was changed; its bytes are what counts
    networks: Mapping[str, Sequence[str]]  # names of the networks that do each action of `Measured`
    target_manifest: Path | None = None  # where the target's manifest lies, if not in the target
    # What was stated; ``sources`` are the SHA-256 of the photos of who is put in.
    consent: Consent | None = None
    sources: Sequence[str] = ()
    # What has looked at the target; nothing is sealed before it has decided.
    content: ContentCheck | None = None
    digest: str = ""  # SHA-256 of the target, where it is known; to read a large one again takes seconds
    label: Label | None = None  # what is burnt into its pictures, if anything
    disclosure: str = ""  # how else those who see it are told
    enlarged_by: str = ""  # name of the network that enlarges its pictures, if any does
    heartbeat: Callable[[], None] = lambda: None  # called every few megabytes; may raise to give up
    marked: bool = field(default=False, init=False)  # whether a result was marked
    # SHA-256 of its manifest where that is in a file of its own.
    manifest: str | None = field(default=None, init=False)

    def _told(self, actions: Collection[str]) -> str:
        made = [f"Faces {' and '.join(_by_ai(actions).values())} by AI"] if _by_ai(actions) else []
        hidden = ["Faces made unrecognisable"] if set(actions) - _BY_AI.keys() else []
        return "; ".join(made + hidden)

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
        """Return what marks the result that an engine's networks make of a target, read at ``read``."""
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

    def disclosed(self, actions: Collection[str]) -> dict[str, str]:
        """Return the words burnt in, ``label``, and ``disclosure``; empty where no face was changed by AI."""
        shown = {"label": self.label.text if self.label else "", "disclosure": self.disclosure}
        return {name: text if _by_ai(actions) else "" for name, text in shown.items()}

    def comment(self, actions: Collection[str]) -> str:
        """Return what a video's own comment says; empty where no face was changed."""
        kind = f", {COMPOSITE_SOURCE_TYPE}" if _by_ai(actions) else ""
        return f"{self._told(actions)} (colab_helpers {VERSION}{kind})" if actions else ""

    def parts(self, actions: Collection[str]) -> dict[str, bytes]:
        """Return a picture's XMP packet; none where nothing was made by AI."""
        return {"xmp": xmp_of(self._told(actions))} if _by_ai(actions) else {}

    def seal(self, partial: Path, output: Path, actions: Collection[str]) -> None:
        """Sign a finished file under its hidden name; it is replaced by the signed one.

        A manifest beside ``output`` is there before that is published. Without ``actions``, what was done to
        faces, the manifest says that it was only stored anew. OutputError where there is no room, MediaError
        where the manifest cannot be made.
        """
        from c2pa import C2paError

        beside, signed, definition = sidecar(output), hidden_name(partial), self._manifest(output, actions)
        try:
            signed.unlink(missing_ok=True)  # a link would be followed
            claim = Claim(definition, self.signed_by, ingredient_archive(self.target, self.target_manifest))
            if beside:
                data = claim.signed(file_binding(sha256_of(partial, on_chunk=self.heartbeat)))
                copy_atomically(beside, io.BytesIO(data))
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
        edited: dict[str, Any] = {
            "action": "c2pa.edited",
            "softwareAgent": SOFTWARE,
            "description": self._told(actions),
        }
        if used := _by_ai(actions):
            names = [name for action in used for name in self.networks.get(action, ())]
            told = {f"{_OWN}{name}": text for name, text in self.disclosed(actions).items() if text}
            edited |= {"digitalSourceType": COMPOSITE_SOURCE_TYPE, "parameters": {NETWORKS: names, **told}}
        stored = {"action": "c2pa.transcoded", "softwareAgent": SOFTWARE}
        done = [opened, edited if actions else stored]
        if self.enlarged_by:
            resized: dict[str, Any] = {"action": "c2pa.resized", "softwareAgent": SOFTWARE}
            by_ai = {"digitalSourceType": COMPOSITE_SOURCE_TYPE, "parameters": {NETWORKS: [self.enlarged_by]}}
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


def check_marking(settings: Settings) -> None:
    """Make sure, before any work, that results can be labelled and signed; SettingsError if they cannot."""
    Label.of(settings)
    load_checked_credentials(settings.signing_certificate)


def load_checked_credentials(path: str) -> Credentials:
    """Return whose certificate is used; one that was not made here has signed something before any work.

    SettingsError where it cannot sign what this package writes; see also `signing.load_credentials`.
    """
    found = load_credentials(path)
    if found.local and found.name == LOCAL_SIGNER:
        return found
    from c2pa import C2paError

    made = {"action": "c2pa.created", "softwareAgent": SOFTWARE, "digitalSourceType": _EMPTY}
    try:
        Claim(_definition("trial", [made]), found).signed()
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


def seal_generated(partial: Path, *, told: str, network: str) -> None:
    """Sign a PNG that a network made as a whole, under its hidden name, by this machine's certificate."""
    made = {"action": "c2pa.created", "softwareAgent": SOFTWARE, "digitalSourceType": GENERATED_SOURCE_TYPE}
    definition = _definition("portrait", [made | {"description": told, "parameters": {NETWORKS: [network]}}])
    signed = hidden_name(partial)
    Claim(definition, load_credentials(LOCAL)).embed(partial, signed, lambda: None)
    signed.replace(partial)


def xmp_of(told: str, source_type: str = COMPOSITE_SOURCE_TYPE) -> bytes:
    """Return a picture's XMP packet (IPTC Photo Metadata 2023.2)."""
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
