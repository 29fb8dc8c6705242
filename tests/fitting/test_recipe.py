"""The tuned numbers are in one place, each with a reason, and quoted as they are."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

import pyro_nf.fitting.recipe
from pyro_nf import fit
from pyro_nf.fitting.recipe import RECIPE, Recipe

FOLDER = Path(pyro_nf.fitting.recipe.__file__).parent
CHOSEN = ("benchmarks/", "round number", "as in", "not tuned", "any number")


def test_every_number_says_what_chose_it():
    lines = (FOLDER / "recipe.py").read_text().splitlines()
    for field in fields(Recipe):
        above = next(i for i, line in enumerate(lines) if line.startswith(f"    {field.name}: "))
        comment = []
        while lines[above - 1].startswith("    # "):
            above -= 1
            comment.insert(0, lines[above].strip(" #"))
        text = " ".join(comment)
        assert any(word in text for word in CHOSEN), f"{field.name} does not say what chose it"
        for word in text.split():
            if word.startswith("benchmarks/"):
                script = word.strip(":;,.()")
                assert (FOLDER.parents[1] / script).is_file(), f"{field.name} names no script"


def test_the_docstring_of_fit_quotes_the_recipe():
    text = " ".join(fit.__doc__.split())
    *first, last = (f"{steps:,}" for steps in RECIPE.rounds)
    assert f"of {', '.join(first)} and {last} steps" in text
    *first, last = RECIPE.brief_rounds
    assert f"rounds of {', '.join(map(str, first))} and {last} steps" in text
    particles = f"by default {RECIPE.particles}, down to {RECIPE.few_particles}"
    assert particles in text
    assert f"more than {RECIPE.cheap:,} numbers" in text
    assert f"or {RECIPE.looped_particles} where the model cannot be vectorized" in text
    assert f"by default {RECIPE.lr:g}" in text
    assert f"by default {RECIPE.anneal_steps:,}" in text
    assert fit.__kwdefaults__["lr"] == RECIPE.lr
    assert fit.__kwdefaults__["anneal_steps"] == RECIPE.anneal_steps


def test_a_recipe_does_not_change():
    with pytest.raises(FrozenInstanceError):
        RECIPE.lr = 0.1
