"""Improvement of prompts by rules: phrases on framing, style, light and so on are added where they lack.

Uses the standard library only, and is deterministic. Words are compared without case and accents.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, NamedTuple

from colab_helpers.errors import UsageError
from colab_helpers.language import tr

Kind = Literal["auto", "portrait", "general"]


class Rule(NamedTuple):
    """A phrase, in English and Spanish, that is added to a prompt without any of some words.

    The phrase contains one of these words itself, so that it is never added twice.
    """

    unless: str  # regular expression of whole words, as `_folded` returns them
    portrait: tuple[str, str]
    general: tuple[str, str]
    indoors: bool = False  # `portrait` contradicts an outdoor scene, which gets `general` instead


_FRAMING = r"portrait|retrato|headshot|close up|primer plano|selfie|full body|cuerpo entero|profile|perfil"
_RULES = (
    Rule(
        _FRAMING + r"|composition|composicion|view|vista|panorama\w*|aerial|foreground|symmetr\w*|simetr\w*",
        (
            "head and shoulders portrait, facing the camera",
            "retrato de cabeza y hombros, de frente a la cámara",
        ),
        ("balanced composition", "composición equilibrada"),
    ),
    Rule(  # any named style, which must not be contradicted
        r"photo\w*|foto|fotograf\w*|fotorrealista|realis\w*|painting|pintura|oleo|oil|watercolou?r|acuarela|3d|"
        r"drawing|dibujo|sketch|boceto|illustration|ilustracion|cartoon|caricatura|anime|comic|render|engraving",
        ("photorealistic", "fotorrealista"),
        ("professional photography", "fotografía profesional"),
    ),
    Rule(
        r"detail\w*|detallad\w*|detalles|sharp|nitid\w*|[48]k|hdr|masterpiece|obra maestra|quality|calidad",
        (
            "highly detailed, natural skin texture, sharp focus, 8k",
            "muy detallado, textura natural de la piel, enfoque nítido, 8k",
        ),
        ("highly detailed, sharp focus, 8k", "muy detallado, enfoque nítido, 8k"),
    ),
    Rule(
        r"(sun|moon|candle|back|spot|day|street|star|fire)?light(s|ing|ed)?|lit|backlit|luz|luces|ilumina\w*|"
        r"contraluz|golden hour|hora dorada|shadows?|sombras?|neon",
        ("soft studio lighting", "luz suave de estudio"),
        ("warm natural light", "luz natural cálida"),
        indoors=True,
    ),
    Rule(
        r"\d+ ?mm|f ?\d+(\.\d+)?|lens|lente|objetivo|bokeh|depth of field|profundidad de campo|macro|"
        r"wide angle|gran angular|telephoto|teleobjetivo",
        ("85mm lens, shallow depth of field", "objetivo de 85 mm, poca profundidad de campo"),
        ("wide-angle lens", "gran angular"),
    ),
    Rule(
        r"mood|atmosphere|atmosfera|ambiente|expression|expresion|smil\w*|sonri\w*|calm|seren[aeo]|sad|triste|"
        r"happy|feliz|alegre|angry|enfadad[ao]|serious|seri[ao]|laugh\w*|rie|dramatic[ao]?|misterios[ao]|epic",
        ("calm expression", "expresión serena"),
        ("serene, cinematic atmosphere", "atmósfera serena y cinematográfica"),
    ),
)
_SPANISH = (
    r"un|una|unos|unas|el|los|las|del|con|sobre|hombre|mujer|persona|retrato|cara|rostro|senora?|ancian[ao]|"
    r"atardecer|ciudad|playa|mar|montanas?|bosque|paisaje|castillo|gato|perro|flores|noche|cielo"
)
_OUTDOORS = (
    r"outdoors?|outside|beach|seaside|mountains?|forest|woods|field|meadow|garden|park|street|desert|sunset|sunrise|"
    r"snow|al aire libre|fuera|playa|mar|montanas?|bosque|campo|prado|jardin|parque|calle|desierto|atardecer|"
    r"amanecer|puesta de sol|nieve"
)
_PEOPLE = (
    rf"{_FRAMING}|wom[ae]n|m[ae]n|persons?|people|face|lady|gentleman|actor|actress|grand(mother|father)|"
    r"hombres?|mujer(es)?|personas?|cara|rostro|senora?|actriz|ancian[ao]|abuel[ao]"
)
# Portraits are made of adults only.
_MINORS = (
    r"child(ren|ish)?|kids?|boys?|girls?|bab(y|ies)|toddlers?|infants?|(pre)?teen\w*|minors?|school(girl|boy)s?|"
    r"underage|bebes?|menor(es)?|adolescentes?|infantil(es)?|colegial\w*|chaval\w*|crios?|"
    r"(1[0-7]|[0-9]) ?(years? old|yo|y o|anos)|(aged?|edad)( of| de)? (1[0-7]|[0-9])"
)


def improve_prompt(prompt: str, kind: Kind = "auto") -> str:
    """Add what a prompt lacks of framing, style, quality, light, lens and mood, in its own language.

    Args:
        prompt: English or Spanish.
        kind: ``portrait``, ``general``, or ``auto``: a portrait if the prompt mentions a person.

    Raises:
        UsageError: The prompt is empty.
    """
    words = " ".join(prompt.split()).rstrip(" ,.;")
    if not words:
        raise UsageError(tr("the prompt is empty"), remedy=tr("describe what the picture shows"))
    folded = _folded(words)
    portrait = _has(folded, _PEOPLE) if kind == "auto" else kind == "portrait"
    spanish, outdoors = _has(folded, _SPANISH), _has(folded, _OUTDOORS)
    phrases = ", ".join(
        (rule.portrait if portrait and not (rule.indoors and outdoors) else rule.general)[spanish]
        for rule in _RULES
        if not _has(folded, rule.unless)
    )
    added = [part for part in phrases.split(", ") if part and not _has(folded, re.escape(_folded(part)))]
    return ", ".join([words, *added])


def require_adult(prompt: str) -> None:
    """Raise UsageError if a prompt mentions children or minors."""
    composed = unicodedata.normalize("NFC", prompt.casefold())
    if _has(_folded(prompt), _MINORS) or re.search(r"\bniñ(o|a|ez|it)", composed):
        what = tr("portraits are made of adults only, and this prompt mentions somebody younger")
        raise UsageError(what, where=prompt, remedy=tr("describe an adult"))


def _folded(text: str) -> str:
    """Return the words and numbers of a text, without case and accents, separated by single spaces."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?", kept))


def _has(folded: str, words: str) -> bool:
    return re.search(rf"\b(?:{words})\b", folded) is not None
