"""Prompts made better by rules: what a picture wants said is added, unless the prompt speaks of it already.

Standard library only, and the same for ever for the same words. Words are compared without case and accents.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, NamedTuple

from colab_helpers.errors import UsageError
from colab_helpers.language import tr

Kind = Literal["auto", "portrait", "general"]


class Rule(NamedTuple):
    """What is added, in English and Spanish, where a prompt has none of some words.

    What it adds has one of them itself, so that nothing is added twice.
    """

    unless: str  # regular expression of whole words, folded
    portrait: tuple[str, str]
    general: tuple[str, str]
    indoors: bool = False  # what a portrait gets contradicts a place in the open: that gets the general


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
    Rule(  # a style that is asked for is not contradicted
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
# Nobody who is no adult is made up here.
_MINORS = (
    r"child(ren|ish)?|kids?|boys?|girls?|bab(y|ies)|toddlers?|infants?|(pre)?teen\w*|minors?|school(girl|boy)s?|"
    r"underage|bebes?|menor(es)?|adolescentes?|infantil(es)?|colegial\w*|chaval\w*|crios?|"
    r"(1[0-7]|[0-9]) ?(years? old|yo|y o|anos)|(aged?|edad)( of| de)? (1[0-7]|[0-9])"
)


def improve_prompt(prompt: str, kind: Kind = "auto") -> str:
    """Return a prompt with what it lacks of framing, style, quality, light, lens and mood, in its language.

    Args:
        prompt: English or Spanish.
        kind: ``portrait``, ``general``, or ``auto``: a portrait where it speaks of a person.

    Raises:
        UsageError: It is empty.
    """
    words = " ".join(prompt.split()).rstrip(" ,.;")
    if not words:
        raise UsageError(tr("the prompt is empty"), remedy=tr("say what the picture shows"))
    said = _folded(words)
    portrait = _has(said, _PEOPLE) if kind == "auto" else kind == "portrait"
    lacking = [rule for rule in _RULES if not _has(said, rule.unless)]
    spanish, outdoors = _has(said, _SPANISH), _has(said, _OUTDOORS)
    adds = ", ".join(
        (rule.portrait if portrait and not (rule.indoors and outdoors) else rule.general)[spanish]
        for rule in lacking
    )
    added = [part for part in adds.split(", ") if part and not _has(said, re.escape(_folded(part)))]
    return ", ".join([words, *added])


def require_adult(prompt: str) -> None:
    """Refuse a prompt that speaks of children or minors; UsageError where it does."""
    if _has(_folded(prompt), _MINORS) or re.search(
        r"\bniñ(o|a|ez|it)", unicodedata.normalize("NFC", prompt.casefold())
    ):
        raise UsageError(
            tr("portraits are made of adults alone, and this prompt speaks of somebody younger"),
            where=prompt,
            remedy=tr("describe an adult"),
        )


def _folded(text: str) -> str:
    """Letters and figures alone, without case and accents, a blank between two words."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?", kept))


def _has(folded: str, words: str) -> bool:
    return re.search(rf"\b(?:{words})\b", folded) is not None
