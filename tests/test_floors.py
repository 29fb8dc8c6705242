"""Who may import whom, and what importing the package must leave as it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_nf

ROOT = Path(pyro_nf.__file__).parent

# From the lowest floor up, as in CONTRIBUTING.md. A file imports only from lower floors, never
# from a sibling on its own; a new file must be given its place here.
FLOORS = [
    "adam annealing batching datafile diagnosis estimate examples files finals nets numerics "
    "randomness record root rows schedule sites store summary summits target triangular",
    "batches blame canvas engines flow runs",
    "adapt chains contract coupling distribution enumeration explore features hierarchy plots "
    "step whiten",
    "joint objective registry tiers ties",
    "flows.coupling flows.iaf flows.linear flows.planar flows.radial flows.spline flows.sylvester "
    "flows.tails identity scoring",
    "amortized search stack testing",
    "guide",
    "drift evidence pool prediction saving",
    "export run",
    "posterior",
    "fit",
    "cli",
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
PACKAGES = {"", "flows"}  # their __init__.py is a table of contents of what is inside


def module_name(path: Path) -> str:
    """The dotted name inside pyro_nf; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(source: str, files: set[str]) -> set[str]:
    """The files of the package that a source imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their floor"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, *rest = name.split(".")
            if head != "pyro_nf":
                continue
            # The longest part that is a file; the rest is what it defines.
            while rest and ".".join(rest) not in files:
                rest.pop()
            found.add(".".join(rest))
    return found


def violations(name: str, source: str, files: set[str]) -> list[str]:
    """What a file imports from its own floor or from above."""
    if name in PACKAGES:
        inside = name + "." if name else ""
        return [other for other in imports(source, files) if not other.startswith(inside)]
    found = sorted(imports(source, files))
    own = FLOOR.get(name, 0)
    return [other or "pyro_nf" for other in found if height(other, files) >= own]


def height(name: str, files: set[str]) -> int:
    """The floor of a file; of a package the highest in it, so that pyro_nf itself is the roof."""
    if name in files - PACKAGES:
        return FLOOR.get(name, len(FLOORS))
    inside = name + "." if name else ""
    return max(FLOOR[file] for file in files & FLOOR.keys() if file.startswith(inside))


def test_every_file_has_a_floor():
    assert FILES.keys() - PACKAGES <= FLOOR.keys()


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_come_from_lower_floors(name):
    found = violations(name, FILES[name].read_text(), set(FILES))
    assert not found, f"{name or 'pyro_nf'} imports {found}"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("nets", "from pyro_nf.flow import Flow"),
        ("flow", "import pyro_nf.registry"),
        ("flow", "import pyro_nf"),
        ("registry", "from pyro_nf import flows"),
        ("flows.planar", "from pyro_nf.flows.radial import Radial"),
        ("flows.planar", "from pyro_nf.flows import Radial"),
        ("flows.planar", "def late():\n    from pyro_nf import guide"),
        ("guide", "from pyro_nf.fit import fit"),
        ("guide", "from pyro_nf import AutoFlowGuide"),
        ("flows", "from pyro_nf.guide import AutoFlowGuide"),
    ],
)
def test_a_violation_is_seen(name, source):
    assert violations(name, source, set(FLOOR) | PACKAGES)


def test_what_is_allowed_is_not_seen():
    files = set(FLOOR) | PACKAGES
    assert not violations("guide", "from pyro_nf import sites\nimport torch", files)
    assert not violations("guide", "from pyro_nf.flows.linear import Diag", files)
    assert not violations("", "from pyro_nf import flows\nfrom pyro_nf.fit import fit", files)


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
