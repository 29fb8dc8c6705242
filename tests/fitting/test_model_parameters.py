"""Parameters of the model, against values that are known: by conjugacy, or by a grid."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.nn import PyroModule
from torch.distributions import constraints

from pyro_nf import Posterior, fit
from pyro_nf.fitting.model_parameters import ModelParameters
from pyro_nf.fitting.prepare import Options, prepare
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.schedule import Schedule


def rows(count, mean, square, dtype=torch.float32):
    """Numbers of a given mean, and of a given mean square around it."""
    x = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(count).double() + 0.5) / count)
    return (mean + x * (square / x.square().mean()).sqrt()).to(dtype)


def hierarchy(y, sigma, scale=None, loc=None):
    """Groups of normal means; without one of the two arguments it is a parameter, and far away."""
    if scale is None:
        scale = pyro.param("tau", y.new_tensor(1.0), constraint=constraints.positive)
    if loc is None:
        loc = pyro.param("mu", y.new_tensor(0.0))
    with pyro.plate("groups", len(y)):
        theta = pyro.sample("theta", dist.Normal(loc, scale))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def value(name):
    return float(pyro.param(name).detach())


@pytest.mark.parametrize("sigma", [1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scale_arrives(sigma, dtype):
    # y ~ N(0, tau^2 + sigma^2): the evidence is largest where that is the mean square.
    y = rows(20, 0.0, torch.tensor(19.3**2 + sigma**2), dtype)
    posterior = fit(
        hierarchy, y, sigma, loc=y.new_tensor(0.0), seed=0, progress=False, refine=False
    )
    error = (1 + (sigma / 19.3) ** 2) / math.sqrt(2 * len(y))  # of log tau, by its information
    assert abs(math.log(value("tau") / 19.3)) < 0.1 * error
    assert posterior.diagnose(1000, search=False).verdict == "good"
    assert not posterior.moving


def test_a_location_in_the_thousands_arrives_in_a_few_steps():
    y = rows(20, 1000.0, torch.tensor(9.0))
    fit(hierarchy, y, 3.0, scale=torch.tensor(5.0), steps=100, seed=0, progress=False, refine=False)
    assert value("mu") == pytest.approx(1000.0, abs=0.1 * math.sqrt((25 + 9) / 20))


def test_one_latent_and_one_parameter():
    def model():
        mu = pyro.param("mu", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(7.0))

    fit(model, seed=0, progress=False, refine=False)
    assert value("mu") == pytest.approx(7.0, abs=0.1 * math.sqrt(2))


def test_two_parameters_of_a_posterior_that_is_not_normal():
    counts = torch.tensor([3.0, 7, 1, 0, 4, 12, 5, 9, 30, 2])

    def model():
        mu = pyro.param("mu", torch.tensor(0.0))
        s = pyro.param("s", torch.tensor(0.1), constraint=constraints.positive)
        with pyro.plate("rows", len(counts)):
            z = pyro.sample("z", dist.Normal(mu, s))
            pyro.sample("count", dist.Poisson(z.exp()), obs=counts)

    grid = torch.linspace(-6.0, 8.0, 2001, dtype=torch.float64)
    likelihood = dist.Poisson(grid.exp()).log_prob(counts.double()[:, None])

    def evidence(theta):
        prior = dist.Normal(theta[0], theta[1].exp()).log_prob(grid)
        return (prior + likelihood).logsumexp(1).sum()

    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    exact = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        theta.grad = None
        loss = -evidence(theta)
        loss.backward()
        return loss

    exact.step(closure)
    fit(model, seed=0, progress=False, refine=False)
    errors = torch.autograd.functional.hessian(evidence, theta.detach()).neg().inverse()
    found = torch.tensor([value("mu"), math.log(value("s"))])
    assert ((found - theta.detach()).abs() < 0.1 * errors.diagonal().sqrt()).all()


class Decoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 3)

    def forward(self, y):
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(y.new_zeros(1), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(self.net(z), 0.3).to_event(1), obs=y)


def test_a_linear_decoder_is_factor_analysis():
    # y ~ N(b, W W' + 0.09): b is the mean, W the first principal component, less the noise.
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(12, 1, generator=generator), torch.randn(12, 3, generator=generator)
    y = 5 + z * torch.tensor([1.0, -2.0, 0.5]) + 0.3 * noise
    model = Decoder()
    fit(model, y, seed=0, progress=False, refine=False)
    centred = y - y.mean(0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(y))
    exact = (values[-1] - 0.09).sqrt() * vectors[:, -1]
    found = model.net.weight.detach()[:, 0]
    found = found * (found @ exact).sign()
    assert (found - exact).norm() < 0.05 * exact.norm()
    assert (model.net.bias.detach() - y.mean(0)).abs().max() < 0.1


def test_another_guide_says_what_it_has_left_on_its_way(tmp_path):
    y = rows(20, 1000.0, torch.tensor(9.0))
    five = {"scale": torch.tensor(5.0)}
    guide = AutoNormal(hierarchy)
    guide(y, 3.0, **five)  # no new one, so that nothing is moved before
    with pytest.warns(UserWarning, match="mu, of the model's own parameters, is not yet"):
        posterior = fit(
            hierarchy, y, 3.0, **five, guide=guide, steps=50, seed=0, progress=False, refine=False
        )
    assert value("mu") < 500  # the warning is true
    assert posterior.moving == ("mu",)
    diagnosis = posterior.diagnose(1000)
    assert diagnosis.verdict == "poor"
    posterior.save(tmp_path / "file")
    loaded = Posterior.load(
        tmp_path / "file", hierarchy, y, 3.0, guide=AutoNormal(hierarchy), **five
    )
    assert loaded.moving == ("mu",)


def test_another_guide_goes_on_while_they_move():
    y = rows(20, 0.0, torch.tensor(4.0**2 + 1))
    guide = AutoNormal(hierarchy)
    posterior = fit(
        hierarchy, y, 1.0, loc=torch.tensor(0.0), guide=guide, seed=0, progress=False, refine=False
    )
    assert abs(math.log(value("tau") / 4.0)) < 0.1 * (1 + 1 / 16) / math.sqrt(2 * len(y))
    assert not posterior.moving


def test_a_scale_arrives_with_another_guide():
    y = rows(20, 0.0, torch.tensor(19.3**2 + 10.0**2))
    guide = AutoNormal(hierarchy)
    posterior = fit(
        hierarchy, y, 10.0, loc=torch.tensor(0.0), guide=guide, seed=0, progress=False, refine=False
    )
    error = (1 + (10 / 19.3) ** 2) / math.sqrt(2 * len(y))
    assert abs(math.log(value("tau") / 19.3)) < 0.1 * error
    assert not posterior.moving
    assert "the loss alone" not in posterior.message


def test_a_plateau_is_told_from_an_arrival():
    y, zero = rows(20, 0.0, torch.tensor(19.3**2 + 10.0**2)), torch.tensor(0.0)
    guide = AutoNormal(hierarchy)
    guide(y, 10.0, loc=zero)  # no new one, so that nothing is moved before
    with pytest.warns(UserWarning, match="tau, of the model's own parameters, is not yet"):
        posterior = fit(
            hierarchy, y, 10.0, loc=zero, guide=guide, seed=0, progress=False, refine=False
        )
    assert value("tau") < 1  # the guide is the posterior there, and learns nothing more
    assert posterior.moving == ("tau",)
    assert posterior.diagnose(1000).verdict == "poor"
    assert "nats larger at tau = 19.3" in posterior.message


def test_a_mean_field_guide_whose_own_summit_is_elsewhere_says_so():
    def model(y):
        s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
        total = pyro.sample("a", dist.Normal(0.0, s)) + pyro.sample("b", dist.Normal(0.0, s))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(total, 1.0), obs=y)

    y = rows(20, 3.0, torch.tensor(1.0))  # their mean ~ N(0, 2 s^2 + 1 / 20)
    exact = math.sqrt((9 - 1 / 20) / 2)
    with pytest.warns(UserWarning, match="or take a guide that can come nearer"):
        posterior = fit(
            model, y, guide=AutoNormal(model), steps=1000, seed=0, progress=False, refine=False
        )
    assert value("s") < 0.8 * exact
    assert posterior.moving == ("s",)
    assert "where this guide's lower bound has led" in posterior.message


def test_a_prior_that_cannot_be_sampled_is_no_obstacle():
    def model():
        z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.3))

    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"z": torch.tensor(0.0)}))
    posterior = fit(model, guide=guide, steps=5, seed=0, progress=False, refine=False)
    assert posterior.message.startswith("finished after 5 steps")


def test_in_the_middle_of_the_only_round_they_go_free():
    y = rows(20, 0.0, torch.tensor(19.3**2 + 10.0**2))
    guide = AutoNormal(hierarchy)
    with pytest.warns(UserWarning, match="tau, of the model's own parameters"):
        fit(
            hierarchy,
            y,
            10.0,
            guide=guide,
            loc=y.mean(),
            steps=20,
            seed=0,
            progress=False,
            refine=False,
        )
    assert 10 < value("tau") < 19  # drawn to a guide that has not come to them


def test_what_is_at_rest_is_told_from_what_is_not():
    y = rows(20, 1000.0, torch.tensor(9.0))
    options = Options.checked(
        (),
        batches=None,
        batch_size=None,
        steps=10,
        seconds=None,
        epochs=None,
        particles=None,
        lr=0.01,
        anneal=None,
        anneal_steps=1,
        compile=False,
        progress=False,
        checkpoint=None,
        refine=False,
    )
    kwargs = {"scale": torch.tensor(5.0)}
    setup = prepare(hierarchy, (y, 3.0), kwargs, None, None, None, options, RECIPE)
    parameters = ModelParameters(setup.step, RECIPE, watched=True)
    assert parameters.names == ["mu"]
    schedule = Schedule.of(RECIPE, 0.01, 10, 0)
    assert parameters.moving(schedule, None) == []
    there = setup.step.parameters()
    assert parameters.moving(schedule, there) == []
    with torch.no_grad():
        parameters.leaves[0].add_(5.0)
    assert parameters.moving(schedule, None) == ["mu"]
    with torch.no_grad():
        parameters.leaves[0].sub_(5.0)
    assert parameters.moving(schedule, there - 1.0) == ["mu"]
    parameters.tune()
    # The unit of mu, if all theta were known, is 5 / sqrt(20).
    assert float(setup.step.adam.rates.max()) == pytest.approx(5 / math.sqrt(20), rel=1e-3)
