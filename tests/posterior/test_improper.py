"""A posterior without an integral is named, and one with the heaviest tails is not."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_nf import AutoFlowGuide, Posterior

X = torch.tensor([-2.0, -1.5, -1.0, -0.3, 0.4, 1.0, 1.4, 2.0])


def flat(name, support=constraints.real):
    return pyro.sample(name, dist.ImproperUniform(support, (), ()))


def separable():
    """The likelihood of a slope rises to one."""
    intercept, slope = pyro.sample("intercept", dist.Normal(0.0, 1.0)), flat("slope")
    with pyro.plate("data", len(X)):
        logits = intercept + slope * X
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=(X > 0).float())


def separable_by_two():
    """The same, with no single number that tells the classes apart."""
    first, second = flat("first"), flat("second")
    with pyro.plate("data", len(X)):
        logits = first * (X + 3) + second * (X - 3)
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=(X > 0).float())


def no_data():
    pyro.sample("known", dist.Normal(0.0, 1.0))
    flat("unknown", constraints.positive)


def flat_log():
    """Of density 1 / s for s, which has no integral at either end."""
    scale = flat("scale", constraints.positive)
    pyro.factor("jeffreys", -scale.log())


def separable_under_a_cauchy():
    slope = pyro.sample("slope", dist.Cauchy(0.0, 2.5))
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Bernoulli(logits=slope * X), obs=(X > 0).float())


def cauchy():
    pyro.sample("x", dist.Cauchy(torch.zeros(3), 1.0).to_event(1))


def horseshoe():
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    local = pyro.sample("local", dist.HalfCauchy(torch.ones(4)).to_event(1))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(4), tau * local).to_event(1))
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(slopes[0] * X + slopes[1], 1.0), obs=X)


def flat_scale():
    """Improper as a prior, proper with eight data."""
    scale = flat("scale", constraints.positive)
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=X)


def vague():
    variance = pyro.sample("variance", dist.InverseGamma(0.001, 0.001))
    mean = pyro.sample("mean", dist.Normal(0.0, 1000.0))
    with pyro.plate("data", len(X)):
        pyro.sample("y", dist.Normal(mean, variance.sqrt()), obs=X)


def findings(model):
    # What a guide is like does not matter here: densities are looked at far from it.
    guide = AutoFlowGuide(model, "diag").setup()
    diagnosis = Posterior(model, guide).diagnose(200)
    return diagnosis, {each.name for each in diagnosis.findings}


@pytest.mark.parametrize(
    ("model", "sites"),
    [
        (separable, ["slope"]),
        (separable_by_two, ["first", "second"]),
        (no_data, ["unknown"]),
        (flat_log, ["scale"]),
    ],
)
def test_what_has_no_integral_is_poor_and_named(model, sites):
    diagnosis, found = findings(model)
    assert "improper" in found
    assert diagnosis.verdict == "poor"
    assert any(f"does not fall along {site!r}" in diagnosis.message for site in sites)


@pytest.mark.parametrize("model", [separable_under_a_cauchy, cauchy, horseshoe, flat_scale, vague])
def test_what_has_an_integral_is_not(model):
    assert "improper" not in findings(model)[1]
