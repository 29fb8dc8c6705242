"""Who may import whom, and what importing the package must leave as it is.

The rule: a file imports only from folders below its own, and through their doors; inside a folder
there is no circle, and the folder's docstring names each of its files.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_nf

ROOT = Path(pyro_nf.__file__).parent
ORDER = [
    "checks files randomness",
    "engines",
    "flows",
    "model testing",
    "sampling",
    "guides",
    "posterior",
    "fitting",
    "examples datafile",
    "cli",
]
HEIGHT = {name: floor for floor, names in enumerate(ORDER) for name in names.split()}
DEEPEST = 6  # floors inside a folder
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def place(path: Path) -> tuple[str, str]:
    """The folder of a file and its stem; a file of the top is a folder of its own."""
    inside = path.relative_to(ROOT)
    return inside.parts[0].removesuffix(".py"), "" if len(inside.parts) == 1 else path.stem


def imports(own: str, source: str) -> set[tuple[str, str]]:
    """What a file imports of the package, in functions too: a folder, a file behind its door."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, *rest = name.split(".")
            if head != "pyro_nf":
                continue
            folder, file, *deeper = [*rest, "", ""]
            # From outside `from pyro_nf.fitting import fit` is the function that the door gives.
            is_file = (ROOT / folder / f"{file}.py").is_file() and (own == folder or any(deeper))
            found.add((folder, file if is_file else ""))
    return found


def violations(own: str, source: str) -> list[str]:
    """What a file of a folder must not import."""
    found = []
    for folder, file in sorted(imports(own, source)):
        if folder == own:
            continue
        if folder not in HEIGHT or HEIGHT[folder] >= HEIGHT[own]:
            found.append(f"{folder or 'pyro_nf'} is not below {own}")
        elif file and folder in FOLDERS:
            found.append(f"{folder}.{file} goes round the door: from pyro_nf.{folder} import ...")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_and_through_doors(path):
    folder, stem = place(path)
    if stem == "__init__":
        assert {to for to, _ in imports(folder, path.read_text())} <= {folder}
    else:
        assert not violations(folder, path.read_text())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_has_no_circle(folder):
    graph = {}
    for path in (ROOT / folder).glob("*.py"):
        if path.stem != "__init__":
            inside = {file for to, file in imports(folder, path.read_text()) if to == folder}
            graph[path.stem] = inside
            assert "" not in inside, f"{path.stem} comes in by its own door"
    floors, left = 0, graphlib.TopologicalSorter(graph)
    left.prepare()  # a CycleError names the circle
    while left.is_active():
        left.done(*left.get_ready())
        floors += 1
    assert floors <= DEEPEST


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_tells_its_story(folder):
    story = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    told = {line.split()[0] for line in story.splitlines() if ".py  " in line + "  "}
    there = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    assert told == there


@pytest.mark.parametrize(
    ("own", "source"),
    [
        ("flows", "from pyro_nf.guides import AutoFlowGuide"),
        ("model", "import pyro_nf.testing"),
        ("guides", "from pyro_nf.model.target import Target"),
        ("guides", "import pyro_nf"),
        ("posterior", "def late():\n    from pyro_nf.fitting import fit"),
        ("engines", "from pyro_nf import flows"),
        ("files", "from pyro_nf.randomness import seeded"),
    ],
)
def test_a_violation_is_seen(own, source):
    assert violations(own, source)


def test_what_is_allowed_is_not_seen():
    assert not violations("guides", "from pyro_nf.model import Target\nimport torch")
    assert not violations("guides", "from pyro_nf.guides.layers import Stack")
    assert not violations("fitting", "from pyro_nf import engines\nfrom pyro_nf.files import write")
    assert not violations("cli", "from pyro_nf.fitting import fit")


CHECK = """
import sys
import warnings

import pyro
import torch
import torch.distributions


def state():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "random state": torch.get_rng_state().tolist(),
        "validation of torch": torch.distributions.Distribution._validate_args,
        "validation of pyro": pyro.infer.util.is_validation_enabled(),
        "settings of pyro": {key: repr(value) for key, value in pyro.settings.get().items()},
        "parameter store": list(pyro.get_param_store()),
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "warnings": list(warnings.filters),
        "transform methods": sorted(vars(torch.distributions.Transform)),
    }


warnings.simplefilter("error")
before = state()
import pyro_nf
after = state()
assert before == after, [key for key in before if before[key] != after[key]]
loaded = {"arviz", "matplotlib", "pandas", "zuko", "torchdiffeq"} & set(sys.modules)
assert not loaded, loaded
"""


def test_import_leaves_everything_as_it_is():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
