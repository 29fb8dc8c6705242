"""Formulas, lists, classes, factories and strangers' transforms: all that make_flow takes."""

from functools import partial

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from torch import nn
from torch.distributions import transforms

from pyro_nf import Chain, Flow, flow_names, make_flow, register
from pyro_nf.flows import AdditiveCoupling, Diag, Householder, Planar, Radial, Tril
from pyro_nf.flows import formula as registry


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_FLOWS", dict(registry._FLOWS))


def kinds(flow):
    """The class of each layer; equal ones in a row may share a module."""
    parts = flow if isinstance(flow, Chain) else [flow]
    return [kind for part in parts for kind in [type(part)] * getattr(part, "layers", 1)]


# ---------------------------------------------------------------- formulas


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("planar", [Planar]),
        ("planar()", [Planar]),
        ("planar(layers=2)*2", [Planar] * 4),
        ("planar*1", [Planar]),
        ("planar*3", [Planar] * 3),
        ("planar*2*2", [Planar] * 4),
        ("planar + tril", [Planar, Tril]),
        ("planar*2 + radial*1 + diag", [Planar, Planar, Radial, Diag]),
        ("(planar + radial)*2", [Planar, Radial, Planar, Radial]),
        ("((planar + radial)*2 + diag)*2", ([Planar, Radial] * 2 + [Diag]) * 2),
        ("planar + (radial + diag)", [Planar, Radial, Diag]),
        ("  planar*2+radial ", [Planar, Planar, Radial]),
        ("\n    planar*2\n    + radial\n", [Planar, Planar, Radial]),
        ("nice + additive_coupling", [AdditiveCoupling] * 2),
    ],
)
def test_formulas(formula, expected):
    flow = make_flow(formula, 3)
    assert kinds(flow) == expected
    assert flow.dim == 3


def test_options_reach_the_flow():
    flow = make_flow(
        'additive_coupling(hidden=(8, 4), mix="orthogonal")*2 + householder(pairs=3)', 5
    )
    coupling, again, rotation = flow
    assert [len(bias) for bias in coupling.net.biases] == [8, 4, 3]
    assert torch.equal(coupling.mixing, again.mixing)

    assert rotation.params.shapes == {"v": (6, 5)}


def test_context_reaches_those_who_take_it():
    flow = make_flow("planar + permute + tril", 3, context_dim=2)
    assert flow.context_dim == 2
    assert [part.context_dim for part in flow] == [2, 0, 2]


def test_couplings_alternate_by_themselves():
    flow = make_flow("additive_coupling*2 + planar + nice + nice(flip=False)", 4)
    assert [part.flip for part in flow if isinstance(part, AdditiveCoupling)] == [
        False,
        True,
        False,
        False,
    ]
    assert [part.flip for part in make_flow("nice(flip=True) + nice*2", 4)] == [True, False, True]
    # In a list, a class counts as well.
    assert [part.flip for part in make_flow([AdditiveCoupling, "nice"], 4)] == [False, True]


BAD_FORMULAS = {
    "planr": "unknown flow 'planr'.*did you mean 'planar'.*The flows are additive_coupling",
    "xyzzy": "unknown flow 'xyzzy' in the formula 'xyzzy': The flows are",
    "planar + Radial": "unknown flow 'Radial'.*did you mean 'radial'",
    "planar*0": r"a whole number, from 1 to 10,000 layers in all, not by 0\. Write it like",
    "planar*-1": "a whole number.*not by -1",
    "planar*2.5": r"a whole number.*not by 2\.5",
    "planar*True": "a whole number.*not by True",
    "planar*'2'": "a whole number.*not by '2'",
    "planar*radial": "a whole number.*not by radial",
    "planar*10001": "a whole number.*not by 10001",
    "planar*101*100": "a whole number.*not by 100",
    "2*planar": "'2' is no flow.*Write it like \"planar\\*8\"",
    "planar**2": r"'planar \*\* 2' is no flow",
    "planar - radial": "'planar - radial' is no flow",
    "-planar": "'-planar' is no flow",
    "planar.flow": r"'planar\.flow' is no flow",
    "planar[0]": r"'planar\[0\]' is no flow",
    "planar, radial": "is no flow",
    "[planar]": "is no flow",
    "lambda: planar": "is no flow",
    "planar if 1 else radial": "is no flow",
    "f'planar'": "is no flow",
    "'planar'": "is no flow",
    "3": "'3' is no flow",
    "__import__('os')": "unknown flow '__import__'",
    "exec('1')": "unknown flow 'exec'",
    "planar.__init__()": "is no flow",
    "planar()()": "is no flow",
    "householder(3)": r"write householder\(option=3\), naming the option",
    "householder(*[3])": r"write householder\(option=\*\[3\]\)",
    "householder(**{'pairs': 3})": "name each option once",
    "householder(pairs=1, pairs=2)": "name each option once, not 'pairs=2'",
    "householder(pairs=planar())": "the option 'pairs=planar\\(\\)' is not a literal",
    "householder(pairs=int('2'))": "is not a literal",
    "householder(pairs=two)": "the option 'pairs=two' is not a literal",
    "householder(pairs={[]: 1})": "is not a literal",
    "householder(pair=1)": "Householder has no option 'pair'; it has pairs",
    "diag(width=1)": "Diag has no option 'width'; it has none",
    "planar(width=1)": "Planar has no option 'width'; it has layers",
    "planar(layers=0)": "layers must be",
    "planar(dim=3)": "Planar has no option 'dim'",
    "planar(context_dim=3)": "Planar has no option 'context_dim'",
    "householder(pairs=0)": "pairs must be 1 or more, got 0",
    "nice(hidden=64)": r"hidden must be layer sizes such as \(64, 64\), got 64",
    "nice(hidden=(64, 0))": "hidden must be layer sizes",
    "nice(hidden='64')": "hidden must be layer sizes",
    "nice(hidden=(1.5,))": "hidden must be layer sizes",
    "nice(after=3)": "after must be the coupling before this one, got 3",
    "nice(mix='random')": 'mix must be "riffle", "permutation", "orthogonal" or None',
    "": "it is not a valid expression",
    "   ": "it is not a valid expression",
    "planar +": "it is not a valid expression",
    "(planar": "it is not a valid expression",
    "planar radial": "it is not a valid expression",
    "planar; radial": "it is not a valid expression",
    "x = planar": "it is not a valid expression",
    "planar\0": "it is not a valid expression",
    "(" * 1000 + "planar" + ")" * 1000: "it is not a valid expression",
    "+".join(["planar"] * 20_000): "it is not a valid expression",
}


@pytest.mark.parametrize(("formula", "match"), BAD_FORMULAS.items(), ids=lambda text: text[:30])
def test_bad_formulas(formula, match):
    with pytest.raises(ValueError, match=match):
        make_flow(formula, 3)


def test_a_formula_is_never_evaluated(tmp_path):
    target = tmp_path / "touched"
    for formula in (f"open({str(target)!r}, 'w')", f"planar(a=open({str(target)!r}, 'w'))"):
        with pytest.raises(ValueError, match=r"unknown flow|not a literal"):
            make_flow(formula, 3)
    assert not target.exists()


# ---------------------------------------------------------------- other specs


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Planar, [Planar]),
        ([Planar], [Planar]),
        ([Planar, "radial*2", Diag], [Planar, Radial, Radial, Diag]),
        (("planar", ["tril", ["diag"]]), [Planar, Tril, Diag]),
        ([Planar(3), Radial], [Planar, Radial]),
        (lambda dim: Householder(dim, pairs=2), [Householder]),
        (partial(Householder, pairs=2), [Householder]),
    ],
)
def test_other_specs(spec, expected):
    assert kinds(make_flow(spec, 3)) == expected


def test_an_instance_is_used_as_it_is():
    flow = Planar(3)
    assert make_flow(flow, 3) is flow
    assert next(iter(make_flow([flow, "diag"], 3))) is flow


@pytest.mark.parametrize(
    ("spec", "dim", "error", "match"),
    [
        (None, 3, TypeError, 'expected a formula.*got None; try "planar'),
        (3, 3, TypeError, "expected a formula.*got 3"),
        (b"planar", 3, TypeError, "expected a formula.*got b'planar'"),
        ({"planar": 2}, 3, TypeError, "expected a formula"),
        (["planar", 3], 3, TypeError, "expected a formula.*got 3"),
        ([], 3, ValueError, 'at least one flow, got an empty list; try "planar'),
        (["planar", []], 3, ValueError, "an empty list"),
        ("radial(layers=2.5)", 3, TypeError, r"layers must be an int, got 2\.5"),
        ("householder(pairs=1.5)", 3, TypeError, r"pairs must be an int, got 1\.5"),
        (lambda dim: dim, 3, TypeError, "was called with dim=3 and gave 3, no transform"),
        (int, 3, TypeError, "was called with dim=3 and gave 3, no transform"),
        (Planar(2), 3, ValueError, "has dim=2, but the dimension here is 3"),
        (lambda dim: Planar(2), 3, ValueError, "has dim=2, but the dimension here is 3"),
        (["diag", Planar(2)], 3, ValueError, "has dim=2"),
        ("planar", 0, ValueError, "dim must be 1 or more, got 0"),
        ("planar", -1, ValueError, "dim must be 1 or more, got -1"),
        ("planar", 2.0, TypeError, "dim must be an int, got 2.0"),
        ("planar", True, TypeError, "dim must be an int, got True"),
        (pyro_transforms.spline(2), 3, ValueError, "Spline fails on vectors of dimension 3: "),
        (transforms.AbsTransform(), 3, ValueError, "AbsTransform is not bijective"),
        (transforms.CorrCholeskyTransform(), 3, ValueError, "acts on events of 2 dimensions"),
        (transforms.StickBreakingTransform(), 3, ValueError, r"maps \(2, 3\) to \(2, 4\)"),
        (pyro_transforms.planar(3).inv, 3, NotImplementedError, "Planar cannot invert a value"),
    ],
)
def test_bad_specs(spec, dim, error, match):
    with pytest.raises(error, match=match):
        make_flow(spec, dim)


def test_bad_context_dim():
    with pytest.raises(ValueError, match="context_dim must be 0 or more, got -1"):
        make_flow("planar", 3, -1)
    with pytest.raises(TypeError, match=r"context_dim must be an int, got 1\.5"):
        make_flow("planar", 3, 1.5)


def test_a_flow_that_does_not_keep_shapes_is_met_at_once():
    class Unsummed(Flow):
        def forward_and_log_det(self, x, context=None):
            return x, torch.zeros_like(x)

    with pytest.raises(ValueError, match=r"Unsummed maps \(2, 3\) to \(2, 3\) with a log-det"):
        make_flow(Unsummed, 3)


def test_a_class_without_context_dim():
    class Short(Planar):
        def __init__(self, dim):
            super().__init__(dim)

    with pytest.raises(TypeError, match=r"Short must be made with \(dim, context_dim=0, ...\)"):
        make_flow(Short, 3)


# ---------------------------------------------------------------- names


def test_names_are_sorted_and_make_flows():
    assert flow_names() == sorted(flow_names())
    assert {"planar", "radial", "nice", "diag", "tril"} <= set(flow_names())
    assert type(make_flow("nice", 3)) is type(make_flow("additive_coupling", 3))


def test_register_and_register_again():
    def define():
        @register("mine", "mine_too")
        class Mine(Planar):
            pass

        return Mine

    first, second = define(), define()  # as when a notebook cell runs again
    assert first is not second
    assert type(make_flow("mine", 3)) is type(make_flow("mine_too", 3)) is second
    assert {"mine", "mine_too"} <= set(flow_names())


def test_another_class_may_not_take_a_name():
    with pytest.raises(ValueError, match=r"'planar' belongs to pyro_nf.*Planar; choose"):

        @register("fresh", "planar")
        class Other(Planar):
            pass

    assert type(make_flow("planar", 3)) is Planar
    assert "fresh" not in flow_names()  # all or nothing


@pytest.mark.parametrize(
    ("names", "cls", "error", "match"),
    [
        (("mine",), nn.Linear, TypeError, "expects a subclass of pyro_nf.Flow, got <class"),
        (("mine",), pyro_transforms.Planar, TypeError, "expects a subclass of pyro_nf.Flow"),
        (("mine",), 3, TypeError, "expects a subclass of pyro_nf.Flow, got 3"),
        (("my flow",), Planar, ValueError, "must be an identifier, got 'my flow'"),
        (("",), Planar, ValueError, "must be an identifier, got ''"),
        ((), Planar, TypeError, r'type @register\("name"\) above the class'),
        ((Planar,), Planar, TypeError, r'type @register\("name"\) above the class'),
        (("mine",), Chain, TypeError, r"Chain must be made with \(dim, context_dim=0, ...\)"),
    ],
)
def test_bad_registrations(names, cls, error, match):
    before = flow_names()
    with pytest.raises(error, match=match):
        register(*names)(cls)
    assert flow_names() == before
