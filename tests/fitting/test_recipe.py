"""The tuned numbers are in one place, each with a reason, and quoted as they are."""

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

import pyro_nf.fitting.recipe
from pyro_nf import fit
from pyro_nf.fitting.recipe import RECIPE, Recipe

FOLDER = Path(pyro_nf.fitting.recipe.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
CHOSEN = ("benchmarks/", "round number", "as in", "not tuned", "any number")


def numbers_of(source):
    """The names of the numeric constants of a module."""
    found = set()
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is None or not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        inside = [part for part in ast.walk(value) if isinstance(part, ast.Constant)]
        if any(type(part.value) in (int, float) for part in inside):
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_number_is_elsewhere(path):
    assert not {name for name in numbers_of(path.read_text()) if not name.endswith("FORMAT")}


def test_a_number_elsewhere_is_seen():
    source = "A = 3\nB: float = 0.5\nC = (1, 2)\nD = 'word'\nE = True\nFILE_FORMAT = 8"
    assert numbers_of(source) == {"A", "B", "C", "FILE_FORMAT"}


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


# ------------------------------------------------------------ the folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_numerics_are_caught_in_the_step_alone(path):
    caught = [
        node.type.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name)
    ]
    assert ("NUMERICS" in caught) == (path.name == "step.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_and_bodies_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                lines = body[-1].end_lineno - body[0].lineno + 1
                assert lines <= 45, f"{node.name} has {lines}"
