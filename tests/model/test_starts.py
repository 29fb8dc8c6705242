"""A guide starts where the model has a density and a slope, or says why it cannot."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import init_to_value
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.optim import Adam
from torch import nn

from pyro_nf import AmortizedFlowGuide, AutoFlowGuide, FitError, fit
from pyro_nf.model import startable


def values_of(model, **init):
    """The values that a guide would start from."""
    started = startable(InitMessenger(init_to_value(values=init))(model), (), {})
    trace = poutine.trace(started).get_trace()
    return {name: node["value"] for name, node in trace.iter_stochastic_nodes()}


def normal():
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.sample("x", dist.Normal(mean, scale), obs=torch.tensor(2.0))


def nothing_below_one():
    """Its density is NaN at the prior's median."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("log", (x - 1).log())


def no_factor():
    """Its matrix has a Cholesky factor for r between -2 and 0 alone."""
    r = pyro.sample("r", dist.Normal(0.0, 1.0))
    one = torch.ones(())
    matrix = torch.stack([one, 1 + r, 1 + r, one]).reshape(2, 2)
    prior = dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.linalg.cholesky(matrix))
    pyro.sample("y", prior, obs=torch.ones(2))


def steep():
    """The gradient of its density is infinite at the prior's median."""
    x = pyro.sample("x", dist.Laplace(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.abs().sqrt(), 1.0), obs=torch.tensor(1.0))


def refused():
    """The scale of y is refused for x below a half."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, x - 0.5), obs=torch.tensor(1.0))


def never():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("never", -math.inf * x.exp())


def test_a_good_start_is_left_alone_and_costs_no_random_numbers():
    model = InitMessenger(init_to_value(values={"mean": torch.tensor(3.0)}))(normal)
    before = torch.get_rng_state()
    assert startable(model, (), {}) is model
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "first", "fits"),
    [
        (nothing_below_one, {"x": torch.tensor(0.0)}, lambda x: x > 1),
        (no_factor, {"r": torch.tensor(0.0)}, lambda r: -2 < r < 0),
        (steep, {"x": torch.tensor(0.0)}, lambda x: x != 0),
        (refused, {"x": torch.tensor(0.0)}, lambda x: x > 0.5),
    ],
)
def test_a_point_aside_is_found(model, first, fits):
    (name,) = first
    assert fits(float(values_of(model, **first)[name]))
    guide = AutoFlowGuide(model, "diag", init_loc_fn=init_to_value(values=first)).setup()
    assert fits(float(guide.median()[name]))


@pytest.mark.parametrize("scale", [math.nan, 0.0, math.inf])
def test_one_bad_value_costs_the_other_sites_little(scale):
    """Zero is the edge of its support, which no unconstrained number reaches."""
    first = {"mean": torch.tensor(30.0), "scale": torch.tensor(scale)}
    found = values_of(normal, **first)
    assert 0 < float(found["scale"]) < math.inf
    assert abs(float(found["mean"]) - 30) < 5 * 3  # of five times the widest look


def test_plain_svi_goes_on_from_there():
    guide = AutoFlowGuide(steep, "diag", init_loc_fn=init_to_value(values={"x": torch.zeros(())}))
    svi = SVI(steep, guide, Adam({"lr": 1e-3}), Trace_ELBO())
    assert all(math.isfinite(svi.step()) for _ in range(3))


def test_an_amortized_guide_looks_around_too():
    def rows(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, z - 0.5), obs=x[:, 0])

    first = init_to_value(values={"z": torch.zeros(2)})
    guide = AmortizedFlowGuide(rows, nn.Linear(1, 4), "diag", init_loc_fn=first)
    guide.setup(torch.ones(2, 1))
    loc = guide.flow.flows[-1].params.theta[0].detach()  # of a row
    assert float(loc) > 0.5


@pytest.mark.parametrize("run", [lambda m: AutoFlowGuide(m).setup(), fit])
def test_an_error_of_the_model_is_raised_as_it_is_and_soon(run):
    runs = []

    def misfit():
        runs.append(1)
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x + torch.zeros(2), 1.0).to_event(1), obs=torch.zeros(2))

    with pytest.raises(RuntimeError, match=r"size of tensor a \(3\)"):
        run(misfit)
    assert len(runs) < 20  # of 121 that look for a start


def test_no_start_names_the_site():
    message = "121 points.*first the site 'never' has a log density that is not finite"
    for _ in range(2):  # a guide that is half set up would not say so again
        with pytest.raises(ValueError, match=message):
            AutoFlowGuide(never).setup()
    with pytest.raises(FitError, match=message):
        fit(never, progress=False)


def test_a_model_that_raises_everywhere_is_named_by_its_last_site():
    def negative():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, -x.abs()), obs=torch.tensor(1.0))

    with pytest.raises(ValueError, match=r"the model raises ValueError: .*after the site 'x'"):
        AutoFlowGuide(negative).setup()
