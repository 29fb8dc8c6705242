"""A second fit: the engines of the first where the graphs are equal, and the same result always."""

import gc
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_nf import fit
from pyro_nf.engines import backends
from pyro_nf.engines.kept import kept
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

OTHER = EIGHT_SCHOOLS.data[0].flip(0), EIGHT_SCHOOLS.data[1] + 1


@pytest.fixture
def made(monkeypatch):
    """The graphs of which quick engines were made, from none at first."""
    made = []

    def make(recorded, tensors):
        made.append(recorded)
        return backends.quick.__wrapped__(recorded, tensors)

    keeping(monkeypatch, kept(most=50)(make))
    return made


def keeping(monkeypatch, quick):
    for module in ("engines", "engines.tracing"):
        monkeypatch.setattr(f"pyro_nf.{module}.quick", quick)


def outcome(model, *data, **options):
    """The losses of a short fit, its draws, and what the caller draws after it."""
    options = {"steps": 30, "flow": "planar", "seed": 3, "progress": False} | options
    posterior = fit(model, *data, **options)
    torch.manual_seed(1)
    return [posterior.losses, *posterior.draws(5).values()]


def assert_as_cold(monkeypatch, warm, model, *data, **options):
    """The outcome is, to the last bit, that of a fit for which nothing has been kept."""
    keeping(monkeypatch, kept(most=0)(backends.quick.__wrapped__))
    cold = outcome(model, *data, **options)
    assert all(torch.equal(a, b) for a, b in zip(warm, cold, strict=True))


def location(prior=10.0, power=1):
    """A model with something in its closure."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, prior))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc**power, 1.0), obs=x)

    return model


class Regression(PyroModule):
    """A model with a buffer."""

    def __init__(self, offset):
        super().__init__()
        self.register_buffer("offset", offset)

    def forward(self, x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc + self.offset, 1.0), obs=x)


POWER = {"of": 1}


def with_a_global(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc ** POWER["of"], 1.0), obs=x)


def that_asks_the_data(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    mean = loc if float(x.sum()) > 0 else loc.exp()
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


X = torch.tensor([1.0, 2.0, 4.0])
EQUAL = {
    "data": [(eight_schools, *EIGHT_SCHOOLS.data), (eight_schools, *OTHER)],
    "tensor in the closure": [(location(torch.tensor(9.0)), X), (location(torch.tensor(2.0)), X)],
    "number of which torch makes a tensor": [(location(9.0), X), (location(2.0), X)],
    "buffer": [(Regression(torch.zeros(3)), X), (Regression(torch.arange(3.0)), X + 1)],
    "data that decide the same": [(that_asks_the_data, X), (that_asks_the_data, X + 1)],
}
DIFFERENT = {
    "number in the closure": [(location(power=2), X), (location(power=3), X)],
    "shape": [(location(), X), (location(), X[:2])],
    "dtype": [(location(), X), (location(torch.tensor(10.0).double()), X.double())],
    "data that decide otherwise": [(that_asks_the_data, X), (that_asks_the_data, -X)],
}


@pytest.mark.parametrize("name", EQUAL | DIFFERENT)
def test_tensors_alone_go_through_the_engines_of_the_first(monkeypatch, made, name):
    """What is no tensor, or of another shape or dtype, asks for others."""
    first, second = (EQUAL | DIFFERENT)[name]
    outcome(*first)
    before = len(made)
    warm = outcome(*second)
    assert before
    assert (len(made) > before) == (name in DIFFERENT)
    assert_as_cold(monkeypatch, warm, *second)


def test_a_global_that_has_changed_is_seen(monkeypatch, made):
    outcome(with_a_global, X)
    before = len(made)
    monkeypatch.setitem(POWER, "of", 3)
    warm = outcome(with_a_global, X)
    assert len(made) > before
    assert_as_cold(monkeypatch, warm, with_a_global, X)


def test_a_buffer_that_has_changed_in_place_is_seen(monkeypatch, made):
    model = Regression(torch.zeros(3))
    outcome(model, X)
    before = len(made)
    model.offset += torch.arange(3.0)
    warm = outcome(model, X)
    assert len(made) == before
    assert_as_cold(monkeypatch, warm, model, X)


def test_another_default_dtype_asks_for_others(monkeypatch, made):
    outcome(location(), X)
    before = len(made)
    torch.set_default_dtype(torch.float64)
    try:
        warm = outcome(location(), X)
        assert len(made) > before
        assert_as_cold(monkeypatch, warm, location(), X)
    finally:
        torch.set_default_dtype(torch.float32)


def test_weights_of_a_module_may_be_others(monkeypatch, made):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.layer(z.reshape(1)), 1.0).to_event(1), obs=x[:1])

    nets = [Net().requires_grad_(False) for _ in range(2)]
    outcome(nets[0], X)
    before = len(made)
    warm = outcome(nets[1], X)
    assert len(made) == before
    assert_as_cold(monkeypatch, warm, nets[1], X)


def test_a_whole_fit_with_chains_is_warm(monkeypatch, made):
    """Rounds, a look for modes, chains of the pool and those of refinement."""
    options = {"steps": None, "refine": True, "flow": "planar*2 + tails"}
    outcome(eight_schools, *EIGHT_SCHOOLS.data, **options)
    before = len(made)
    warm = outcome(eight_schools, *OTHER, **options)
    assert len(made) == before
    assert_as_cold(monkeypatch, warm, eight_schools, *OTHER, **options)


def test_what_is_kept_keeps_no_data_alive(made):
    data = [part.clone() for part in EIGHT_SCHOOLS.data]
    captured = torch.tensor(10.0)
    alive = [weakref.ref(part) for part in [*data, captured]]
    outcome(eight_schools, *data)
    outcome(location(captured), X)
    made.clear()  # graphs, which have constants
    data.clear()
    del captured
    gc.collect()
    assert [one() for one in alive] == [None] * 3


def test_inductor_compiles_once(monkeypatch):
    compiled = []

    def make(recorded, tensors):
        compiled.append(recorded)
        return backends.full.__wrapped__(recorded, tensors)

    monkeypatch.setattr("pyro_nf.engines.full", kept(most=1)(make))
    first, second = EQUAL["tensor in the closure"]
    losses = [outcome(*of, compile="full", flow="diag")[0] for of in (first, second, second)]
    assert len(compiled) == 1
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(losses[1], losses[2])
