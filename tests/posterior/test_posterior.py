"""Posterior: draws, densities, predictions and tables, for every guide and many models."""

import inspect
import math
import sys
import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.optim import Adam
from torch import nn
from torch.distributions import constraints

from pyro_nf.guides.auto_flow import AutoFlowGuide
from pyro_nf.posterior.posterior import Posterior

DATA = torch.tensor([0.3, -0.4, 1.1, 0.8, 0.2, -0.1])
GROUP = torch.tensor([0, 0, 1, 1, 2, 2])


def train(model, guide, *args, steps=3):
    svi = SVI(model, guide, Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*args)
    return guide


# ---------------------------------------------------------------- every guide


def grouped(data):
    """Sites of many kinds; written for one draw: `b[GROUP]` breaks under an outer plate."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    weight = pyro.sample("weight", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("groups", 3):
        b = pyro.sample("b", dist.Normal(loc, 1.0))
    pyro.deterministic("twice", 2 * b)
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(b[GROUP] + weight[0], scale), obs=data)


def by_hand(data):
    a = pyro.param("a", torch.tensor(2.0), constraint=constraints.positive)
    loc = pyro.param("b_loc", torch.zeros(3))
    pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.1)), 1.0))
    pyro.sample("scale", dist.Gamma(a, 2.0))
    pyro.sample("weight", dist.Dirichlet(a * torch.ones(3)))
    with pyro.plate("groups", 3):
        pyro.sample("b", dist.Normal(loc, 0.5))


class ModuleGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.a = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
        self.b_loc = nn.Parameter(torch.zeros(3))

    def forward(self, data):
        pyro.sample("loc", dist.Normal(0.0, self.a))
        pyro.sample("scale", dist.Gamma(self.a, 2.0))
        pyro.sample("weight", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("groups", 3):
            pyro.sample("b", dist.Normal(self.b_loc, 0.5))


def listed():
    guide = AutoGuideList(grouped)
    guide.append(AutoNormal(poutine.block(grouped, expose=["loc", "weight"])))
    guide.append(AutoFlowGuide(poutine.block(grouped, expose=["b", "scale"]), "planar*2"))
    return guide


GUIDES = {
    "AutoNormal": lambda: AutoNormal(grouped),
    "AutoDiagonalNormal": lambda: AutoDiagonalNormal(grouped),
    "AutoMultivariateNormal": lambda: AutoMultivariateNormal(grouped),
    "AutoLowRankMultivariateNormal": lambda: AutoLowRankMultivariateNormal(grouped),
    "AutoIAFNormal": lambda: AutoIAFNormal(grouped),
    "AutoFlowGuide": lambda: AutoFlowGuide(grouped, "planar*2 + radial"),
    "AutoNormalMessenger": lambda: AutoNormalMessenger(grouped),
    "AutoStructured": lambda: AutoStructured(grouped, conditionals="normal", dependencies={}),
    "AutoGuideList": listed,
    "function": lambda: by_hand,
    "PyroModule": ModuleGuide,
}


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
def test_every_guide(make):
    guide = train(grouped, make(), DATA)
    names = set(pyro.get_param_store().keys())
    posterior = Posterior(grouped, guide, DATA)
    draws = posterior.draws(40)
    shapes = {name: tuple(value.shape) for name, value in draws.items()}
    assert shapes == {"loc": (40,), "scale": (40,), "weight": (40, 3), "b": (40, 3)}
    assert posterior.vectorized
    values, log_p, log_q = posterior._draws.weighted(5)
    for i in range(5):  # against plain Pyro
        row = {name: value[i] for name, value in values.items()}
        trace = poutine.trace(poutine.condition(grouped, row)).get_trace(DATA)
        assert float(log_p[i]) == pytest.approx(trace.log_prob_sum().item(), rel=1e-4)
    if make is GUIDES["AutoStructured"]:
        with pytest.raises(ValueError, match="would have to be integrated out"):
            posterior.log_prob(values)
    else:
        # The same density by another way, in float32.
        torch.testing.assert_close(posterior.log_prob(values), log_q, rtol=1e-4, atol=1e-4)
        single = {name: value[2] for name, value in values.items()}
        assert float(posterior.log_prob(single)) == pytest.approx(float(log_q[2]), abs=1e-3)
        values["scale"][0] = -1.0
        outside = posterior.log_prob(values)
        assert outside[0] == -math.inf
        assert bool(outside[1:].isfinite().all())
    assert posterior.diagnose(100, search=False).n == 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these guides are hardly trained
        assert posterior.resample(7)["b"].shape == (7, 3)
    assert set(pyro.get_param_store().keys()) == names
    assert posterior.log_weights(3).dtype == torch.float64


def test_log_q_has_the_jacobians():
    """The density of a guide integrates to one over the support."""

    def model():
        pyro.sample("p", dist.Beta(2.0, 2.0))

    grid = torch.linspace(0.0005, 0.9995, 1000)
    for make in (AutoNormal, AutoDiagonalNormal, lambda m: AutoFlowGuide(m, "planar*2 + radial")):
        guide = train(model, make(model))
        density = Posterior(model, guide).log_prob({"p": grid}).exp()
        assert float(density.sum() * 0.001) == pytest.approx(1.0, abs=1e-3)


def test_draws_follow_the_guide():
    def model():
        pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    guide = AutoDiagonalNormal(model)
    guide()
    with torch.no_grad():
        guide.loc.copy_(torch.tensor([3.0, -1.0]))
        guide.scale = torch.tensor([0.5, 2.0])
    x = Posterior(model, guide).draws(10_000)["x"]
    # 5 standard errors: sd / 100, and sd / sqrt(2 * 10,000).
    assert ((x.mean(0) - guide.loc).abs() / guide.scale < 0.05).all()
    assert ((x.std(0) / guide.scale - 1).abs() < 0.036).all()


# ---------------------------------------------------------------- shapes


def plates(*sizes, gap=0):
    def model():
        with poutine.trace():
            frames = [pyro.plate(f"p{i}", n, dim=-1 - gap - i) for i, n in enumerate(sizes)]
        for frame in frames:
            frame.__enter__()
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("v", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
        for frame in reversed(frames):
            frame.__exit__(None, None, None)
        pyro.sample("s", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=torch.ones(4))

    return model


def no_plate():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("v", dist.LKJCholesky(2, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.5))


def data_plate():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    v = pyro.sample("v", dist.Normal(torch.zeros(1, 1), 1.0).to_event(2))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Normal(z + v.sum(), 1.0), obs=torch.ones(4))


SHAPES = [
    (no_plate, {"z": (), "v": (2, 2)}, ()),
    (data_plate, {"z": (), "v": (1, 1)}, (4,)),
    (plates(3), {"z": (3,), "v": (3, 2), "s": ()}, (4,)),
    (plates(1), {"z": (1,), "v": (1, 2), "s": ()}, (4,)),
    (plates(3, 2), {"z": (2, 3), "v": (2, 3, 2), "s": ()}, (4,)),
    (plates(3, gap=1), {"z": (3, 1), "v": (3, 1, 2), "s": ()}, (4,)),
    (plates(3, 1, 2), {"z": (2, 1, 3), "v": (2, 1, 3, 2), "s": ()}, (4,)),
]


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal, AutoFlowGuide])
@pytest.mark.parametrize(("model", "shapes", "observed"), SHAPES)
def test_no_phantom_dimensions(model, shapes, observed, make, n):
    guide = make(model)
    guide()
    posterior = Posterior(model, guide)
    assert posterior.shapes == shapes
    draws = posterior.draws(n)
    assert {name: value.shape for name, value in draws.items()} == {
        name: (n, *shape) for name, shape in shapes.items()
    }
    assert posterior.predict(n)["y"].shape == (n, *observed)
    assert posterior.log_weights(n).shape == (n,)
    assert posterior.log_prob(draws).shape == (n,)
    assert len(posterior.summary(20).rows) == sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_one_dimension(dtype):
    def model(data):
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=dtype), 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0).expand([len(data)]).to_event(1), obs=data)

    data = DATA.to(dtype)
    posterior = Posterior(model, train(model, AutoFlowGuide(model), data), data)
    assert posterior.draws(3)["mean"].dtype == dtype
    assert posterior.predict(3)["x"].dtype == dtype
    assert posterior.log_prob({"mean": 0.0}).shape == ()
    assert posterior.diagnose(200).ess > 0


# ---------------------------------------------------------------- models that resist


def numpy_model(data):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(float(np.tanh(m.detach().numpy())) + m, 1.0), obs=data[0])


def branch(data):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(m, 2.0 if m > 0 else 1.0), obs=data[0])


def item(data):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(m, math.exp(m.item())), obs=data[0])


def in_place(data):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    mean = torch.zeros(len(data))
    for i in range(len(data)):
        mean[i] = i * m
    with pyro.plate("data", len(data)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=data)


PRIOR = dist.Normal(torch.tensor(0.0), 1.0)  # made while distributions check their values


def outside(data):
    m = pyro.sample("m", PRIOR)
    for i in pyro.plate("data", 3):
        pyro.sample(f"x{i}", dist.Normal(m, 1.0), obs=data[i])


def effects(data, *, weight):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data)), poutine.mask(mask=data > 0), poutine.scale(scale=weight):
        pyro.sample("x", dist.Normal(m, 1.0), obs=data)
    pyro.factor("f", -(m**2))


class Net(PyroModule):
    def __init__(self):
        super().__init__()
        self.one = PyroModule[nn.Linear](1, 3)
        self.one.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 1]).to_event(2))
        self.two = nn.Linear(3, 1)
        self.sigma = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, data):
        mean = self.two(torch.tanh(self.one(data.unsqueeze(-1)))).squeeze(-1)
        with pyro.plate("data", len(data)):
            pyro.sample("x", dist.Normal(mean, self.sigma), obs=data)


RESIST = [
    (numpy_model, {}, False),
    (branch, {}, False),
    (item, {}, False),
    (in_place, {}, True),
    (outside, {}, True),
    (effects, {"weight": 2.0}, True),
    (Net(), {}, True),
]


@pytest.mark.parametrize(("model", "kwargs", "vectorized"), RESIST)
def test_models_that_resist(model, kwargs, vectorized):
    guide = AutoNormal(model)
    guide(DATA, **kwargs)
    posterior = Posterior(model, guide, DATA, **kwargs)
    values, log_p, _ = posterior._draws.weighted(6)
    for i in range(6):
        row = {name: value[i] for name, value in values.items()}
        trace = poutine.trace(poutine.condition(model, row)).get_trace(DATA, **kwargs)
        assert float(log_p[i]) == pytest.approx(trace.log_prob_sum().item(), abs=1e-4)
    assert posterior.vectorized is vectorized
    assert ("one draw at a time" in repr(posterior)) is not vectorized
    predicted = posterior.predict(4)
    assert all(len(value) == 4 for value in predicted.values())
    assert all(bool((value != value[0]).any()) for value in predicted.values())


def test_random_numbers_from_elsewhere_differ_between_draws():
    def model():
        pyro.sample("m", dist.Normal(0.0, 1.0))

    def guide():
        shift = float(np.random.standard_normal())  # noqa: NPY002  # as users do
        pyro.sample("m", dist.Normal(shift, 1e-3))

    before = repr(np.random.get_state())  # noqa: NPY002
    posterior = Posterior(model, guide)
    assert repr(np.random.get_state()) == before  # noqa: NPY002
    draws = posterior.draws(20)["m"]
    assert posterior.vectorized is False
    assert draws.std() > 0.3  # 1e-3 if numpy were asked once


def test_a_wild_draw_costs_no_more_than_itself():
    def model():
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        tril = torch.linalg.cholesky(torch.eye(2) * (m + 2.0))
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=tril), obs=DATA[:2])

    def guide():
        pyro.sample("m", dist.Normal(0.0, 1.0))

    posterior = Posterior(model, guide)
    weights = posterior.log_weights(2000)
    assert posterior.vectorized
    share = float(weights.isnan().double().mean())
    assert share == pytest.approx(0.0228, abs=0.0133)  # P(m < -2), 4 standard errors
    assert posterior.diagnose(2000).verdict == "poor"
    kept = posterior._draws.model(3, {"m": torch.tensor([0.0, -3.0, 1.0])})[0]
    assert kept.isnan().tolist() == [False, True, False]

    def broken():
        pyro.sample("m", dist.Normal(0.0, 1.0))
        if calls.pop():
            raise RuntimeError("no draw works")

    calls = [True] * 1000 + [False]
    with pytest.raises(RuntimeError, match="no draw works"):
        Posterior(broken, guide).log_weights(10)


def test_structure_that_depends_on_values():
    def model():
        k = pyro.sample("k", dist.Poisson(3.0))
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([int(k)]).to_event(1))

    posterior = Posterior(model, model)
    with pytest.raises(ValueError, match="'z' is not of one shape"):
        posterior.draws(50)


# ---------------------------------------------------------------- sites that the guide lacks


def test_discrete_sites_are_summed_out():
    @config_enumerate
    def model(data):
        weight = pyro.sample("weight", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("parts", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(weight))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=data)

    guide = AutoNormal(poutine.block(model, hide=["z"]))
    guide(DATA)
    posterior = Posterior(model, guide, DATA)
    for n in (1, 50):
        values, log_p, _ = posterior._draws.weighted(n)
        weight, loc = values["weight"].double(), values["loc"].double()
        parts = dist.Normal(loc.unsqueeze(-1), 1.0).log_prob(DATA) + weight.log().unsqueeze(-1)
        exact = parts.logsumexp(1).sum(-1) + dist.Normal(0.0, 3.0).log_prob(loc).sum(-1)
        exact = exact + dist.Dirichlet(torch.ones(2)).log_prob(weight)
        torch.testing.assert_close(log_p, exact, rtol=1e-5, atol=1e-5)
    assert posterior.vectorized
    predicted = posterior.predict(200)
    assert predicted["z"].shape == (200, 6)
    assert predicted["z"].unique().tolist() == [0, 1]
    # By Bayes' formula, given one draw of the rest.
    draws = posterior.draws(1)
    loc, weight = draws["loc"][0], draws["weight"][0]
    chance = (dist.Normal(loc, 1.0).log_prob(DATA[:1, None]) + weight.log()).softmax(-1)[0, 1]
    rest = {"loc": draws["loc"], "weight": draws["weight"]}
    many = {name: value.expand(4000, *value.shape[1:]) for name, value in rest.items()}
    drawn = posterior._draws.completed(many)["z"][:, 0].double().mean()
    assert float(drawn) == pytest.approx(float(chance), abs=4 * 0.5 / 4000**0.5)


def test_arviz_has_the_discrete_sites_with_the_others():
    pytest.importorskip("arviz")

    def model(data):
        chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Bernoulli(chance))
            mean = pyro.deterministic("mean", 3 * z)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=data)

    guide = AutoNormal(poutine.block(model, hide=["z"]))
    guide(DATA)
    data = Posterior(model, guide, DATA).to_arviz(50)
    assert set(data["posterior"].data_vars) == {"chance", "z", "mean"}
    assert data["posterior"]["z"].dims == ("chain", "draw", "data")
    assert bool((data["posterior"]["mean"] == 3 * data["posterior"]["z"]).all())
    assert set(data["posterior_predictive"].data_vars) == {"x"}


def test_a_markov_chain_is_summed_out():
    change = torch.tensor([[0.9, 0.1], [0.3, 0.7]])

    def model(data):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        z = torch.tensor(0)
        for i in pyro.markov(range(len(data))):
            z = pyro.sample(f"z{i}", dist.Categorical(change[z]), infer={"enumerate": "parallel"})
            pyro.sample(f"x{i}", dist.Normal(loc + z, 1.0), obs=data[i])

    guide = AutoNormal(poutine.block(model, expose=["loc"]))
    guide(DATA)
    values, log_p, _ = Posterior(model, guide, DATA)._draws.weighted(4)
    for loc, found in zip(values["loc"], log_p, strict=True):
        forward = torch.tensor([1.0, 0.0])
        for x in DATA:
            forward = (forward @ change) * dist.Normal(loc + torch.arange(2), 1.0).log_prob(x).exp()
        exact = forward.sum().log() + dist.Normal(0.0, 1.0).log_prob(loc)
        assert float(found) == pytest.approx(float(exact), abs=1e-4)


def test_a_site_from_the_prior_cancels():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("later", dist.Normal(z, 1.0))

    posterior = Posterior(model, lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    assert posterior.log_weights(100).abs().max() < 1e-6
    assert set(posterior.draws(3)) == {"z"}
    assert set(posterior.predict(3)) == {"later"}


def test_auxiliary_sites_are_left_out():
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        a = pyro.sample("a", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(a, 1.0))
        pyro.deterministic("d", a)

    assert set(Posterior(model, guide).draws(3)) == {"z"}


# ---------------------------------------------------------------- predictions


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        mean = pyro.deterministic("mean", slope * x)
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


@pytest.mark.parametrize("make", [AutoNormal, AutoFlowGuide])
def test_predictions_on_data_of_another_size(make):
    x = torch.linspace(-1, 1, 6)
    guide = make(line)
    guide(x, x)
    posterior = Posterior(line, guide, x, x)
    same = posterior.predict(500)
    assert {name: tuple(value.shape) for name, value in same.items()} == {
        "mean": (500, 6),
        "y": (500, 6),
    }
    # Sampled, though the model is given y: scattered around the mean with sd 0.1.
    assert (same["y"] - same["mean"]).std() == pytest.approx(0.1, rel=0.1)
    for kwargs in ({}, {"y": torch.zeros(3)}):  # with and without an observation
        new = posterior.predict(500, 10 * torch.ones(3), **kwargs)
        assert new["y"].shape == (500, 3)
        assert torch.equal(new["mean"][:, 0], new["mean"][:, 2])
        spread = guide.quantiles([0.16, 0.84], x, x)["slope"]
        width = float(spread[1] - spread[0]) / 2
        assert float(new["mean"][:, 0].std()) == pytest.approx(10 * width, rel=0.2)


def local(data):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data)):
        z = pyro.sample("z", dist.Normal(100.0, 0.1))
        pyro.sample("x", dist.Normal(loc + z, 1.0), obs=data)


def test_local_latents_of_new_data_come_from_their_prior():
    guide = AutoNormal(local)
    guide(DATA)
    with torch.no_grad():
        guide.locs.z = torch.zeros(6)
    posterior = Posterior(local, guide, DATA)
    assert posterior.predict(50)["x"].mean().abs() < 5  # the guide's z
    with pytest.warns(UserWarning, match="latent sites 'z' have other shapes"):
        new = posterior.predict(50, DATA[:2])
    assert new["x"].shape == new["z"].shape == (50, 2)
    assert new["z"].mean() == pytest.approx(100.0, abs=0.1)


def test_a_guide_that_fails_on_new_data_draws_for_its_own():
    def guide(data):
        pyro.sample("loc", dist.Normal(3.0, 0.1))
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Normal(torch.zeros(6), 0.1))  # of six rows, whatever the data

    posterior = Posterior(local, guide, DATA)
    with pytest.warns(UserWarning, match="latent sites 'z' have other shapes"):
        new = posterior.predict(200, DATA[:2])
    assert new["x"].mean(0) == pytest.approx([103.0, 103.0], abs=0.4)  # 5 s.e.


def test_a_guide_that_reads_the_data_reads_the_new_data():
    def guide(data):
        pyro.sample("loc", dist.Normal(0.0, 0.1))
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Normal(10 * data, 0.1))

    posterior = Posterior(local, guide, DATA)
    new = posterior.predict(200, torch.tensor([1.0, -1.0]))  # no warning: shapes agree
    assert new["x"].mean(0) == pytest.approx([10.0, -10.0], abs=0.4)  # 5 s.e.


# ---------------------------------------------------------------- tables


def test_summary():
    posterior = Posterior(grouped, train(grouped, AutoNormal(grouped), DATA), DATA)
    table = posterior.summary(500)
    assert table.rows[:2] == ("loc", "scale")
    assert table.rows[-1] == "b[2]"
    assert table.columns == ("mean", "sd", "5%", "50%", "95%", "mcse")
    row = table["weight[1]"]
    assert row["5%"] < row["50%"] < row["95%"]
    lines = str(table).splitlines()
    assert len(lines) == 1 + len(table.rows)
    assert len({len(line) for line in lines}) == 1  # aligned
    assert repr(table) == str(table)
    with pytest.raises(KeyError, match="no row 'nothing'"):
        table["nothing"]
    frame = pytest.importorskip("pandas") and table.to_pandas()
    assert list(frame.columns) == list(table.columns)
    assert frame.loc["b[2]", "mean"] == table["b[2]"]["mean"]


def test_a_long_table_is_cut():
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(100), 1.0).to_event(1))

    table = Posterior(model, model).summary(10)
    assert table.values.shape == (100, 6)
    text = str(table)
    assert "... 40 rows" in text
    assert "z[29]" in text
    assert "z[30]" not in text
    assert "z[99]" in text


@pytest.fixture
def arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its next version at import
        return pytest.importorskip("arviz")


def check_groups(data, posterior, n):
    assert data["posterior"]["b"].shape == (1, n, 3)
    assert data["posterior"]["twice"].values == pytest.approx(2 * data["posterior"]["b"].values)
    assert data["posterior_predictive"]["x"].shape == (1, n, 6)
    assert data["log_likelihood"]["x"].shape == (1, n, 6)
    assert data["observed_data"]["x"].values == pytest.approx(DATA.numpy())
    stats = data["sample_stats"]
    sites = {k: torch.as_tensor(data["posterior"][k].values[0]) for k in posterior.shapes}
    assert stats["lq"].values[0] == pytest.approx(posterior.log_prob(sites).numpy(), abs=1e-4)
    row = {name: value[3] for name, value in sites.items()}
    trace = poutine.trace(poutine.condition(grouped, row)).get_trace(DATA)
    trace.compute_log_prob()
    assert float(stats["lp"].values[0, 3]) == pytest.approx(trace.log_prob_sum().item(), abs=1e-4)
    pointwise = trace.nodes["x"]["log_prob"].numpy()
    assert data["log_likelihood"]["x"].values[0, 3] == pytest.approx(pointwise, abs=1e-4)
    assert "no Markov chain" in data["posterior"].attrs["sampling_method"]


def test_to_arviz(arviz):
    posterior = Posterior(grouped, train(grouped, AutoNormal(grouped), DATA), DATA)
    data = posterior.to_arviz(20)
    check_groups(data, posterior, 20)
    assert data["posterior"]["b"].dims == ("chain", "draw", "groups")
    assert data["log_likelihood"]["x"].dims == ("chain", "draw", "data")
    assert "theta" not in data["posterior"]


def test_a_masked_observation_has_no_likelihood(arviz):
    guide = AutoNormal(effects)
    guide(DATA, weight=2.0)
    data = Posterior(effects, guide, DATA, weight=2.0).to_arviz(4)
    m = torch.as_tensor(data["posterior"]["m"].values[0])
    exact = dist.Normal(m.unsqueeze(-1), 1.0).log_prob(DATA) * (DATA > 0)
    # Without the scale of 2: it belongs to the joint density, not to one observation.
    assert data["log_likelihood"]["x"].values[0] == pytest.approx(exact.numpy(), abs=1e-5)
    assert "f" not in data["observed_data"]


def test_to_arviz_from_version_one(arviz, monkeypatch):
    """ArviZ 1.0's from_dict takes one dictionary of groups."""
    if "posterior" not in inspect.signature(arviz.from_dict).parameters:
        pytest.skip("this is ArviZ 1.x, and test_to_arviz is about it")
    found = {}

    def from_dict(data, *, dims=None, coords=None):
        found["groups"] = arviz.from_dict(**data, dims=dims, coords=coords)
        return found["groups"]

    monkeypatch.setitem(sys.modules, "arviz", types.SimpleNamespace(from_dict=from_dict))
    posterior = Posterior(grouped, train(grouped, AutoNormal(grouped), DATA), DATA)
    check_groups(posterior.to_arviz(20), posterior, 20)
    assert found["groups"].attrs["inference_library"] == "pyro_nf"


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("arviz", lambda posterior: posterior.to_arviz(5)),
        ("matplotlib", lambda posterior: posterior.plot("pairs")),
        ("pandas", lambda posterior: posterior.summary(5).to_pandas()),
    ],
)
def test_a_missing_package_is_named(module, call, monkeypatch):
    posterior = fixed()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"need.*: pip install {module}$"):
        call(posterior)


# ---------------------------------------------------------------- manners


def by_slope(x, y=None):
    pyro.sample("slope", dist.Normal(pyro.param("loc", torch.tensor(1.0)), 0.1))


def test_the_random_state_is_used_and_only_by_draws():
    guide = train(grouped, AutoFlowGuide(grouped), DATA)
    pyro.set_rng_seed(3)
    before = pyro.util.get_rng_state()
    posterior = Posterior(grouped, guide, DATA)
    repr(posterior)
    posterior.log_prob({"loc": 0.0, "scale": 1.0, "weight": torch.ones(3) / 3, "b": torch.ones(3)})
    after = pyro.util.get_rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert before["random"] == after["random"]
    first = posterior.draws(4)["b"]  # and not what the first look has left
    assert not torch.equal(first, posterior.draws(4)["b"])
    pyro.set_rng_seed(3)
    assert torch.equal(first, posterior.draws(4)["b"])
    pyro.set_rng_seed(3)
    assert torch.equal(first, Posterior(grouped, guide, DATA).draws(4)["b"])


def test_a_cleared_store_does_no_harm():
    train(line, by_slope, DATA, DATA, steps=20)
    loc = pyro.param("loc").item()
    posterior = Posterior(line, by_slope, DATA, DATA)
    pyro.clear_param_store()
    assert posterior.draws(500)["slope"].mean() == pytest.approx(loc, abs=0.02)
    assert len(pyro.get_param_store()) == 0
    other = train(line, by_slope, DATA, -DATA, steps=20)  # another fit, of the same names
    assert pyro.param("loc").item() < loc
    assert posterior.draws(500)["slope"].mean() == pytest.approx(loc, abs=0.02)
    assert Posterior(line, other, DATA).draws(500)["slope"].mean() < loc - 0.02


def lazily(x, y=None):
    pyro.sample("slope", dist.Normal(pyro.param("never", torch.tensor(1.0)), 0.1))


def other_sites(*args):
    pyro.sample("intercept", dist.Normal(0.0, 1.0))


REFUSED = [
    (lambda: Posterior(None, by_slope), TypeError, "a Pyro model, a callable, got None"),
    (lambda: Posterior(line, 3), TypeError, "a Pyro guide, a callable, got 3"),
    (lambda: Posterior(line, AutoNormal(line), DATA), ValueError, "AutoNormal has never run"),
    (lambda: Posterior(line, AutoFlowGuide(line), DATA), ValueError, "AutoFlowGuide has never run"),
    (lambda: Posterior(line, AutoNormalMessenger(line), DATA), ValueError, "have never run"),
    (lambda: Posterior(line, lazily, DATA), ValueError, "no parameters 'never' before"),
    (
        lambda: Posterior(
            line, lambda x: pyro.sample("slope", dist.Normal(torch.zeros(1), 1.0)), DATA
        ),
        ValueError,
        r"draws 'slope' with shape \(1,\), but in the model it has shape \(\)",
    ),
    (lambda: Posterior(line, other_sites, DATA), ValueError, "share no latent site: the guide has"),
    (lambda: fixed().draws(0), ValueError, "must be 1 or more, got 0"),
    (lambda: fixed().draws(2.0), TypeError, "must be an int, got 2.0"),
    (lambda: fixed().predict(True), TypeError, "must be an int, got True"),
    (lambda: fixed().resample(-1), ValueError, "must be 1 or more, got -1"),
    (lambda: fixed().log_prob({}), ValueError, "'slope' is missing"),
    (
        lambda: fixed().log_prob({"slope": torch.zeros(2, 3)}),
        ValueError,
        r"expected 'slope' of shape \(\), or \('n',\)",
    ),
    (lambda: fixed().plot("nothing"), ValueError, 'expected "loss", "pairs"'),
    (lambda: fixed().plot("density"), ValueError, "this one has 1"),
    (lambda: fixed().plot("loss"), ValueError, "losses of at least two steps"),
]


def fixed():
    def guide(x, y=None):
        pyro.sample("slope", dist.Normal(0.0, 0.1))

    return Posterior(line, guide, DATA, DATA)


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refused_with_a_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert len(pyro.get_param_store()) == 0


def test_deltas_are_draws_too():
    guide = train(line, AutoDelta(line), DATA, DATA)
    posterior = Posterior(line, guide, DATA, DATA)
    slope = posterior.draws(3)["slope"]
    assert torch.equal(slope, slope[:1].expand(3))
    assert posterior.predict(3)["y"].shape == (3, 6)


def test_binomial_counts_that_all_draws_share():
    """torch's warning of them reaches users, or, as an error, makes predictions slow."""

    def model():
        p = pyro.sample("p", dist.Beta(5.0, 5.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Binomial(4, p * torch.ones(3)), obs=torch.ones(3))

    guide = AutoNormal(model)
    guide()
    posterior = Posterior(model, guide)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x = posterior.predict(2000)["x"]
    assert not said
    assert x.shape == (2000, 3)
    p = posterior.draws(2000)["p"]
    assert x.mean().item() == pytest.approx(4 * p.mean().item(), abs=0.15)  # s.e. 0.02
    assert (x == x.round()).all()
    assert x[:, 0].ne(x[:, 1]).any()
