"""What users may rely on: the public names and their signatures, against a committed list.

A change of this list is a change of what users type: it wants a line in CHANGELOG.md. To write it
anew, run ``python tests/test_public.py``.
"""

import inspect
import re
from pathlib import Path

import pyro_nf
from pyro_nf import examples, flows, plots, testing

LIST = Path(__file__).with_name("public_names.txt")
MODULES = {
    "pyro_nf": pyro_nf,
    "pyro_nf.flows": flows,
    "pyro_nf.plots": plots,
    "pyro_nf.testing": testing,
    "pyro_nf.examples": examples,
}
# Classes whose methods users call, and those that they get back.
CLASSES = [
    pyro_nf.AmortizedFlowGuide,
    pyro_nf.AutoFlowGuide,
    pyro_nf.Calibration,
    pyro_nf.Comparison,
    pyro_nf.Flow,
    pyro_nf.FlowDistribution,
    pyro_nf.Posterior,
]


def described(name: str, thing: object) -> str:
    """A name with what it takes."""
    if inspect.ismodule(thing) or not callable(thing):
        return f"{name}: {type(thing).__name__}"
    if isinstance(thing, type) and issubclass(thing, Exception):
        return f"{name}: {thing.__base__.__name__}"
    signature = inspect.signature(thing)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    bare = signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    return name + re.sub(r"<function (\w+) at \w+>", r"\1", str(bare))


def public() -> list[str]:
    """All public names, sorted, a line each."""
    lines = set()
    for where, module in MODULES.items():
        for name in module.__all__:
            lines.add(described(f"{where}.{name}", getattr(module, name)))
    for cls in CLASSES:
        own = [vars(base) for base in cls.__mro__ if base.__module__.startswith("pyro_nf")]
        for name, member in (pair for members in own for pair in members.items()):
            if not name.startswith("_") and (callable(member) or isinstance(member, classmethod)):
                lines.add(described(f"{cls.__name__}.{name}", getattr(cls, name)))
            elif not name.startswith("_") and isinstance(member, property):
                lines.add(f"{cls.__name__}.{name}: property")
    return sorted(lines)


def test_public_names_and_signatures_are_those_of_the_list():
    assert public() == LIST.read_text().splitlines()


if __name__ == "__main__":
    LIST.write_text("\n".join(public()) + "\n")
