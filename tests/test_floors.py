"""The rules of the house, kept by reading its files, and what importing it must leave as it is.

A file imports only from folders below its own, and through their doors; inside a folder there is
no circle, and the folder's docstring names each of its files. What a model raises is caught where
it is run; concrete guides are known in few places; tuned numbers have one; nothing is large. The
tests stand in the folders of what they test.
"""

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyro_nf
from pyro_nf import guides

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
    "studies",
    "examples datafile",
    "cli",
]
HEIGHT = {name: floor for floor, names in enumerate(ORDER) for name in names.split()}
DEEPEST = 6  # floors inside a folder
FOLDERS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

CATCHES = {"model", "fitting.step"}  # where a model is run
KNOWS_GUIDES = {"guides", "fitting.prepare"}
TUNED = "fitting.recipe"
CONCRETE = {
    name
    for name, cls in vars(guides).items()
    if isinstance(cls, type) and issubclass(cls, guides.FlowGuide) and cls is not guides.FlowGuide
}
MOST_LINES, MOST_OF_A_BODY, MOST_PARAMETERS = 300, 45, 8
# Users name these by keyword, and see all of them in one signature.
MANY_PARAMETERS = {
    *("fit", "Options.checked"),
    *("AutoFlowGuide.__init__", "SplineCoupling.__init__"),
}


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


@each_file
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


def within(path: Path, places: set[str]) -> bool:
    """Whether a file, or its folder, is one of these places."""
    return not places.isdisjoint({place(path)[0], ".".join(place(path))})


def named(node: ast.AST) -> set[str]:
    """All names in a part of a file, those after a dot too."""
    found = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return found | {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}


def caught(tree: ast.AST) -> list[int]:
    """The lines that catch what failing numerics raise."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            found += [node.lineno] if "NUMERICS" in named(node.type) else []
        elif isinstance(node, ast.Call) and "suppress" in named(node.func):
            found += [node.lineno] if "NUMERICS" in named(node) else []
    return found


def told_apart(tree: ast.AST) -> list[int]:
    """The lines that ask whether something is a concrete guide of ours."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and named(node.func) & {"isinstance", "issubclass"}:
            asked: list[ast.AST] = list(node.args[1:])
        elif isinstance(node, ast.Compare):  # type(guide) is AutoFlowGuide
            asked = list(node.comparators)
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        else:
            continue
        found += [node.lineno] if any(named(part) & CONCRETE for part in asked) else []
    return found


def is_number(node: ast.expr | None) -> bool:
    """Whether an expression is a number, or a tuple of numbers."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return bool(parts) and all(map(is_number, parts))
    return False


def numbers(tree: ast.Module) -> list[str]:
    """The numeric constants of a file, but for those that number the format of its files."""
    found = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        for target in targets:
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            found += [ast.unparse(name) for name, part in pairs if is_number(part)]
    return [name for name in found if not name.endswith("FORMAT")]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """The functions of a file by their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            if isinstance(node, Function):
                yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def parameters(function: Function) -> int:
    """How many parameters a function takes, but for self, and the user's own arguments."""
    args = function.args
    given = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len(given) - (given[:1] in (["self"], ["cls"]))


def body_length(function: Function) -> int:
    """The lines of a function after its signature and docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def oversized(source: str) -> list[str]:
    """What is larger than a reader can hold."""
    lines, found = len(source.splitlines()), []
    if lines > MOST_LINES:
        found.append(f"{lines} lines")
    for name, function in functions(ast.parse(source)):
        length, count = body_length(function), parameters(function)
        if length > MOST_OF_A_BODY:
            found.append(f"{name} has {length} lines")
        if count > MOST_PARAMETERS and name not in MANY_PARAMETERS:
            found.append(f"{name} takes {count} parameters")
    return found


@each_file
def test_what_a_model_raises_is_caught_where_it_is_run(path):
    found = caught(ast.parse(path.read_text()))
    assert not found or within(path, CATCHES)


@each_file
def test_which_guide_it_is_is_asked_of_the_guide(path):
    found = told_apart(ast.parse(path.read_text()))
    assert not found or within(path, KNOWS_GUIDES)


@pytest.mark.parametrize("path", sorted((ROOT / "fitting").glob("*.py")), ids=lambda p: p.name)
def test_tuned_numbers_are_in_one_place(path):
    found = numbers(ast.parse(path.read_text()))
    assert not found or within(path, {TUNED})


@each_file
def test_nothing_is_large(path):
    assert not oversized(path.read_text())


def test_the_exceptions_are_needed():
    many = {
        name
        for path in FILES
        for name, function in functions(ast.parse(path.read_text()))
        if parameters(function) > MOST_PARAMETERS
    }
    assert many >= MANY_PARAMETERS


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (caught, "try:\n    f()\nexcept NUMERICS:\n    pass"),
        (caught, "try:\n    f()\nexcept (OSError, *model.NUMERICS) as error:\n    pass"),
        (caught, "with contextlib.suppress(*NUMERICS):\n    f()"),
        (told_apart, "isinstance(guide, AutoFlowGuide)"),
        (told_apart, "isinstance(guide, (Module, guides.AmortizedFlowGuide))"),
        (told_apart, "type(guide) is AutoFlowGuide"),
        (told_apart, "match guide:\n    case AmortizedFlowGuide():\n        pass"),
        (numbers, "ROUNDS = (400, 1_600, -2)"),
        (numbers, "LR: float = 1e-2"),
        (numbers, "SECONDS = 60 * 60"),
        (numbers, "FEW, MANY = 1, 'x'"),
    ],
)
def test_what_breaks_a_rule_is_seen(rule, source):
    assert rule(ast.parse(source))


def test_what_keeps_the_rules_is_not_seen():
    source = "try:\n    f()\nexcept OSError:\n    g(NUMERICS)\nisinstance(AutoFlowGuide, type)"
    source += "\nCHECKPOINT_FORMAT = 8\nNAME, QUIET, BOTH = 'x', False, (f(1), 2)"
    tree = ast.parse(source)
    assert [rule(tree) for rule in (caught, told_apart, numbers)] == [[], [], []]


def test_what_is_large_is_seen():
    assert oversized("\n" * (MOST_LINES + 1)) == ["301 lines"]
    body = '    """Words."""\n' + "    x = 1\n" * (MOST_OF_A_BODY + 1)
    assert oversized("def f():\n" + body) == ["f has 46 lines"]
    takes = ", ".join(f"x{k}" for k in range(MOST_PARAMETERS))
    assert oversized(f"class A:\n    def f(self, {takes}, *args, **kwargs): ...") == []
    assert oversized(f"class A:\n    def f(self, {takes}, *, y): ...") == ["A.f takes 9 parameters"]


def test_tests_stand_in_the_folders_of_what_they_test():
    tests = Path(__file__).parent
    files = [path.relative_to(tests) for path in tests.rglob("test_*.py")]
    twice = [name for name, count in Counter(path.name for path in files).items() if count > 1]
    assert not twice, "pytest tells files in folders without __init__.py by their names alone"
    assert {path.parts[0] for path in files if len(path.parts) > 1} <= {*FOLDERS, "documents"}


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


FIRST = """
import sys

import pyro_nf
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

posterior = pyro_nf.fit(eight_schools, *EIGHT_SCHOOLS.data, steps=5, progress=False, seed=0)
posterior.diagnose(200)
loaded = {"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.parametrize("code", [CHECK, FIRST], ids=["import", "first fit"])
def test_a_new_process(code):
    """Import leaves everything as it is, and a first fit imports nothing that takes long."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
