"""Prompts: improvements, which are idempotent, and the refusal of minors."""

from __future__ import annotations

from itertools import product

import pytest

from colab_helpers.__main__ import main
from colab_helpers.command_line import SUCCESS, WRONG_USAGE
from colab_helpers.prompts import _RULES, _folded, _has, improve_prompt, require_adult

PROMPTS = {
    "a sunset": "a sunset, balanced composition, professional photography, highly detailed, sharp focus, 8k, "
    "warm natural light, wide-angle lens, serene, cinematic atmosphere",
    "Portrait of a woman,  soft light.": "Portrait of a woman, soft light, photorealistic, highly detailed, "
    "natural skin texture, sharp focus, 8k, 85mm lens, shallow depth of field, calm expression",
    "una puesta de sol sobre el mar": "una puesta de sol sobre el mar, composición equilibrada, fotografía "
    "profesional, muy detallado, enfoque nítido, 8k, luz natural cálida, gran angular, atmósfera serena y "
    "cinematográfica",
    "una mujer mayor en la playa": "una mujer mayor en la playa, retrato de cabeza y hombros, de frente a "
    "la cámara, fotorrealista, muy detallado, textura natural de la piel, enfoque nítido, 8k, luz natural "
    "cálida, objetivo de 85 mm, poca profundidad de campo, expresión serena",
    "RETRATO de una señora sonriente, óleo": "RETRATO de una señora sonriente, óleo, muy detallado, textura "
    "natural de la piel, enfoque nítido, 8k, luz suave de estudio, objetivo de 85 mm, poca profundidad de "
    "campo",
    "a man, 50mm f/1.8, natural skin texture": "a man, 50mm f/1.8, natural skin texture, head and shoulders "
    "portrait, facing the camera, photorealistic, highly detailed, sharp focus, 8k, soft studio lighting, "
    "calm expression",
    "a house, photo, sharp, backlit, macro, top view, moody, epic": "a house, photo, sharp, backlit, macro, "
    "top view, moody, epic",
}


@pytest.mark.parametrize(("prompt", "improved"), PROMPTS.items())
def test_prompt_is_improved_once(prompt: str, improved: str) -> None:
    assert improve_prompt(prompt) == improved
    assert improve_prompt(improved) == improved


def test_additions_satisfy_their_own_rules() -> None:
    for rule in _RULES:
        for adds in (*rule.portrait, *rule.general):
            assert _has(_folded(adds), rule.unless), adds
    for kind, prompt in product(("portrait", "general"), ("a castle", "un castillo", "delight, flight")):
        improved = improve_prompt(prompt, kind)
        assert improve_prompt(improved, kind) == improved
        assert ("camera" in improved or "cámara" in improved) == (kind == "portrait")
        assert "light" in improved.replace(prompt, "") or "luz" in improved


@pytest.mark.parametrize(
    "prompt",
    ["a girl", "two Children", "una NIÑA", "un niño", "a 17 year old", "schoolboy", "teenager", "un bebé",
     "mujer de 16 años", "a 9-year-old", "una nin\u0303a", "a woman aged 15", "mujer, edad de 12"],
)  # fmt: skip
def test_minors_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="adults only"):
        require_adult(prompt)


@pytest.mark.parametrize(
    "prompt", ["a woman", "una mujer de 38 años", "an old man", "a 117 year old", "Nina", "aged 50"]
)
def test_adults_are_accepted(prompt: str) -> None:
    require_adult(prompt)


def test_prompt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "a sunset"]) == SUCCESS
    assert capsys.readouterr().out == PROMPTS["a sunset"] + "\n"
    assert main(["prompt", "un castillo", "--kind", "portrait"]) == SUCCESS
    assert "retrato de cabeza y hombros" in capsys.readouterr().out
    assert main(["prompt", " , "]) == WRONG_USAGE
