"""Latents of a hierarchy: what ties them to their parents, and coordinates without these ties."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import NeuTraReparam

from pyro_nf.fitting.chain_pool import ChainPool
from pyro_nf.fitting.fit import fit
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.guides import find_hierarchy as module
from pyro_nf.guides.auto_flow import AutoFlowGuide
from pyro_nf.guides.find_hierarchy import find_ties, untied
from pyro_nf.guides.hierarchy import GENERATIONS, Generation, Hierarchy, Ties
from pyro_nf.model.log_density import through
from pyro_nf.model.target import Target
from pyro_nf.posterior.posterior import Posterior
from pyro_nf.sampling.normal import Coordinates
from pyro_nf.testing import check_flow

EFFECTS = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
ERRORS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)


def schools():
    mean = pyro.sample("mean", dist.Normal(ZERO, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(ZERO + 2.0))
    with pyro.plate("schools", 3):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("found", dist.Normal(effect, ERRORS), obs=EFFECTS)


def funnel():
    v = pyro.sample("v", dist.Normal(ZERO, 3.0))
    with pyro.plate("rest", 9):
        pyro.sample("x", dist.Normal(ZERO, (v / 2).exp()))


def correlated_funnel():
    v = pyro.sample("v", dist.Normal(ZERO, 3.0))
    tril = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    with pyro.plate("rest", 4):
        x = dist.MultivariateNormal(torch.zeros_like(tril[0]), scale_tril=(v / 2).exp() * tril)
        pyro.sample("x", x)


def banana():
    x = pyro.sample("x", dist.Normal(ZERO + 1.0, 10**0.5))
    pyro.sample("y", dist.Normal(x.square(), 0.1**0.5))


def nested():
    """Towns in regions, four measurements of each."""
    mean = pyro.sample("mean", dist.Normal(ZERO, 5.0))
    outer = pyro.sample("outer", dist.HalfNormal(ZERO + 1.0))
    inner = pyro.sample("inner", dist.HalfNormal(ZERO + 1.0))
    with pyro.plate("regions", 2):
        region = pyro.sample("region", dist.Normal(mean, outer))
    with pyro.plate("towns", 6):
        town = pyro.sample("town", dist.Normal(region[..., [0, 0, 0, 1, 1, 1]], inner))
        data = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)
        pyro.sample("found", dist.Normal(town, 0.5), obs=data)


def ties_of(model, point=None):
    guide = AutoFlowGuide(model, "diag").setup()
    target = Target.of(guide)
    return find_ties(target, target.start if point is None else point)


def some(generator):
    """Ties of three children in six dimensions: without data, with some, with much."""
    loc, log_scale = torch.zeros(2, 3, 6, dtype=torch.float64)
    loc[:, 0], log_scale[:, 1], log_scale[2, 4] = 1.0, 1.0, 0.3
    bend = torch.zeros_like(loc)
    bend[0, 1], bend[2, 0] = 0.5, -0.3
    bias, log_bias, middle = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    precision = torch.tensor([0.0, 1.0, 50.0], dtype=torch.float64)
    child, parent = torch.tensor([2, 3, 5]), torch.arange(6)
    return Ties(child, parent, loc, bend, bias, log_scale, log_bias, middle, precision)


# ---------------------------------------------------------------- the flow


def test_a_generation_keeps_the_contract_of_a_flow():
    flow = Generation(6).double()
    check_flow(flow)
    flow.set(some(torch.Generator().manual_seed(0)))
    check_flow(flow)


def test_its_score_is_that_of_its_density():
    flow = Generation(6)
    flow.set(some(torch.Generator().manual_seed(0)))
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, log_det, score = flow.forward_and_score(x, -x)
    y = y.detach().requires_grad_()
    back, back_log_det = flow.inverse_and_log_det(y)
    (expected,) = torch.autograd.grad((back_log_det - back.square().sum(-1) / 2).sum(), y)
    assert torch.allclose(score, expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(log_det, -back_log_det, rtol=1e-12, atol=1e-12)


def test_a_child_is_what_prior_and_data_say_together():
    """The product of N(y; m, s) and N(y; t, h^-1/2), normalized, at any parents."""
    ties = some(torch.Generator().manual_seed(0))
    flow = Generation(6)
    flow.set(ties)
    parents = torch.randn(20, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    loc, log_scale = ties.prior(parents)
    middle = flow(parents.index_fill(-1, ties.child, 0.0))[:, ties.child]
    width = flow(parents.index_fill(-1, ties.child, 1.0))[:, ties.child] - middle
    prior = (-2 * log_scale).exp()
    together = prior + ties.precision
    assert torch.allclose(width, together**-0.5, rtol=1e-9)
    assert torch.allclose(middle, (prior * loc + ties.precision * ties.middle) / together)


# ---------------------------------------------------------------- what ties are found


def test_ties_of_the_eight_schools_are_their_data():
    (ties,) = ties_of(schools)
    assert ties.child.tolist() == [2, 3, 4]
    assert torch.allclose(ties.middle, EFFECTS)
    assert torch.allclose(ties.precision, ERRORS**-2)
    u = torch.tensor([0.7, -1.3, 9.0, 9.0, 9.0], dtype=torch.float64)
    loc, log_scale = ties.prior(u)
    assert torch.allclose(loc, u[:1])
    assert torch.allclose(log_scale, u[1:2])


def test_of_children_the_data_speak_to_their_parents_through_their_spread():
    """A town's message to its region has the variance s^2 + 1 / h, and the same middle."""
    point = torch.zeros(11, dtype=torch.float64)
    point[2] = math.log(0.3)  # inner
    regions, towns = ties_of(nested, point)
    assert towns.child.tolist() == [*range(5, 11)]
    assert torch.allclose(towns.precision, torch.full((6,), 4.0, dtype=torch.float64))
    assert regions.child.tolist() == [3, 4]
    message = 1 / (0.3**2 + 1 / 4)
    assert torch.allclose(regions.precision, torch.full((2,), 3 * message, dtype=torch.float64))
    data = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)
    assert torch.allclose(regions.middle, data.reshape(2, 3).mean(1))


def test_log_normal_children_are_tied_in_their_logarithm():
    def model():
        spread = pyro.sample("spread", dist.HalfNormal(ZERO + 1.0))
        slope = dist.LogNormal(torch.zeros(3).double(), 2 * spread.unsqueeze(-1)).to_event(1)
        pyro.sample("slope", slope)

    (ties,) = ties_of(model)
    assert ties.child.tolist() == [1, 2, 3]
    assert torch.allclose(ties.log_scale_bias, torch.full((3,), math.log(2.0)).double())
    assert bool((ties.precision == 0).all())


def test_numbers_of_a_multivariate_normal_have_their_own_scales():
    """The rows of a correlation's Cholesky factor have norm one, whatever it is."""

    def model():
        spread = pyro.sample("spread", dist.HalfNormal(torch.ones(2).double()).to_event(1))
        corner = pyro.sample("corner", dist.LKJCholesky(2, ZERO + 2.0))
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("pairs", 2):
            pyro.sample("pair", dist.MultivariateNormal(mean, scale_tril=spread.diag() @ corner))

    (ties,) = ties_of(model)
    assert ties.child.tolist() == [5, 6, 7, 8]
    u = torch.tensor([0.7, -1.3, 0.4, 3.0, -2.0, 9.0, 9.0, 9.0, 9.0], dtype=torch.float64)
    loc, log_scale = ties.prior(u)
    assert torch.allclose(loc, u[[3, 4, 3, 4]])
    assert torch.allclose(log_scale, u[[0, 1, 0, 1]])


def bent():
    x = pyro.sample("x", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(x.square(), 1 + x.square()))


def cubic():
    x = pyro.sample("x", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(x**3, x.exp()))


def steady():
    x = pyro.sample("x", dist.Normal(ZERO, 1.0))
    pyro.sample("y", dist.Normal(x, 0.1))


def not_exponential():
    spread = pyro.sample("spread", dist.Uniform(ZERO, 3.0))
    pyro.sample("y", dist.Normal(ZERO, spread))


def not_normal():
    spread = pyro.sample("spread", dist.HalfNormal(ZERO + 1.0))
    pyro.sample("y", dist.StudentT(3.0, ZERO, spread))


def masked():
    spread = pyro.sample("spread", dist.HalfNormal(ZERO + 1.0))
    y = pyro.sample("y", dist.Normal(ZERO, spread).mask(False))
    pyro.sample("x", dist.Normal(y, 1.0), obs=ZERO)


def not_vectorized():
    spread = pyro.sample("spread", dist.HalfNormal(ZERO + 1.0))
    pyro.sample("y", dist.Normal(ZERO, float(spread)))


@pytest.mark.parametrize(
    "model", [bent, cubic, steady, not_exponential, not_normal, masked, not_vectorized]
)
def test_others_have_no_ties(model):
    assert ties_of(model) == []


def test_a_long_line_of_descent_is_cut():
    def model():
        spread = pyro.sample("spread", dist.HalfNormal(ZERO + 1.0))
        x = ZERO
        for index in range(GENERATIONS + 2):
            x = pyro.sample(f"x{index}", dist.Normal(x, spread))

    assert GENERATIONS == 3
    # The fourth is free, and the fifth its child.
    assert [ties.child.tolist() for ties in ties_of(model)] == [[1, 5], [2], [3]]


def test_numerics_that_fail_beside_the_point_leave_no_ties():
    def model():
        spread = pyro.sample("spread", dist.HalfNormal(ZERO + 1.0))
        x = pyro.sample("x", dist.Normal(ZERO, spread))
        if bool((x.abs() > 0.9).any()):
            raise ValueError("too far")

    guide = AutoFlowGuide(model, "diag").setup()
    target = Target.of(guide)
    target.vectorized = True
    assert find_ties(target, target.start) == []


def test_single_precision():
    def model():
        spread = pyro.sample("spread", dist.HalfNormal(1.0))
        with pyro.plate("groups", 2):
            x = pyro.sample("x", dist.Normal(100.0, spread))
            pyro.sample("y", dist.Normal(x, 0.1), obs=torch.tensor([99.0, 101.0]))

    (ties,) = ties_of(model)
    assert ties.middle.dtype == torch.float32
    assert torch.allclose(ties.middle, torch.tensor([99.0, 101.0]), atol=1e-2)
    assert not ties.loc.any()  # that x is near 100 comes with rounding, which is no tie


def test_a_mean_may_be_bent():
    """Two chains of bananas, one beside the other, about a point that is not zero."""

    def model():
        with pyro.plate("chains", 2):
            x = pyro.sample("x", dist.Normal(ZERO, 1.0))
            y = pyro.sample("y", dist.Normal(1 + x - 2 * x.square(), 0.1))
            pyro.sample("z", dist.Normal(0.5 * y.square(), x.exp()))

    point = torch.tensor([0.3, -0.7, 0.2, 1.1, -0.4, 0.9], dtype=torch.float64)
    second, third = ties_of(model, point)
    assert second.child.tolist() == [2, 3]
    assert third.child.tolist() == [4, 5]
    u = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y, _ = u.split(2, -1)
    loc, log_scale = second.prior(u)
    assert torch.allclose(loc, 1 + x - 2 * x.square())
    assert torch.allclose(log_scale, torch.full_like(x, math.log(0.1)))
    loc, log_scale = third.prior(u)
    assert torch.allclose(loc, 0.5 * y.square())
    assert torch.allclose(log_scale, x)


# ---------------------------------------------------------------- guides and fits


@pytest.mark.parametrize("model", [funnel, correlated_funnel, banana])
def test_funnels_and_bananas_are_normal_without_their_ties(model):
    guide = AutoFlowGuide(model, "diag").warm_start()
    assert repr(guide).endswith(", whitened, without ties)")
    pyro.set_rng_seed(0)
    diagnosis = Posterior(model, guide).diagnose(1000)
    assert abs(diagnosis.elbo) < 1e-6  # the model is normalized
    assert diagnosis.ess > 1 - 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_a_banana_has_one_mode(seed):
    """Along its ridge climbs end anywhere, but not in coordinates in which it is straight."""
    pyro.set_rng_seed(seed)
    guide = AutoFlowGuide(banana, "affine_coupling*2").warm_start()
    pool = ChainPool(guide, Target.of(guide), 64, RECIPE)
    pool.explore()
    assert pool.modes == 1


def test_the_better_coordinates_are_taken(monkeypatch):
    """By the bound, which here is turned round, or by the effective share."""
    real = module.find_coordinates

    def worse(ess):
        return lambda *args: real(*args)._replace(elbo=-1e9, ess=ess)

    monkeypatch.setattr(module, "find_coordinates", worse(module.GOOD / 2))
    guide = AutoFlowGuide(schools, "diag").warm_start()
    assert guide.hierarchy.generations == 0
    monkeypatch.setattr(module, "find_coordinates", worse(1.0))
    assert AutoFlowGuide(funnel, "diag").warm_start().hierarchy.generations == 1
    monkeypatch.setattr(module, "find_coordinates", lambda *_: None)
    assert AutoFlowGuide(schools, "diag").warm_start().hierarchy.generations == 0
    monkeypatch.undo()
    assert AutoFlowGuide(schools, "diag").warm_start().hierarchy.generations == 1


def test_coordinates_without_ties_are_sought_from_the_same_normal_distribution(monkeypatch):
    """Near its centre: linearized there, both have the same covariance."""
    guide = AutoFlowGuide(nested, "diag").setup()
    generator = torch.Generator().manual_seed(0)
    shift = 0.3 * torch.randn(11, generator=generator, dtype=torch.float64)
    tril = torch.eye(11, dtype=torch.float64)
    tril = tril + 0.3 * torch.randn(11, 11, generator=generator, dtype=torch.float64).tril(-1)
    seen = []

    def look(_, start, root, looped):
        slope = torch.autograd.functional.jacobian(guide.hierarchy, start)
        seen.append((guide.hierarchy(start), slope @ root, root))

    monkeypatch.setattr(module, "find_coordinates", look)
    untied(Target.of(guide), guide.hierarchy, Coordinates(shift, tril, 0.0, 0.1))
    ((middle, moved, root),) = seen
    assert torch.allclose(middle, shift)
    assert torch.allclose(moved @ moved.mT, tril @ tril.mT)
    assert not root.triu(1).any()


def test_nested_groups_are_standard_normal_given_what_is_above_them():
    """At the towns' spread of the point, and any mean and spread of the regions."""
    point = torch.zeros(11, dtype=torch.float64)
    point[2] = math.log(0.3)  # inner
    guide = AutoFlowGuide(nested, "diag").setup()
    guide.hierarchy.set(ties_of(nested, point))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, 11, generator=generator, dtype=torch.float64)
    x[..., :2] = x[:, :1, :2]  # five of these, and four values of all the rest with each
    x[..., 2] = point[2]
    log_density = through(guide.hierarchy, Target.of(guide))(x.reshape(20, 11)).reshape(5, 4)
    rest = log_density + x[..., 3:].square().sum(-1) / 2
    assert (rest - rest[:, :1]).abs().max() < 1e-10
    assert (rest[:, 0] - rest[0, 0]).abs().max() > 0.1


def test_fit_save_and_load(tmp_path):
    posterior = fit(schools, steps=60, seed=0, progress=False, refine=False)
    assert posterior.guide.hierarchy.generations == 1
    posterior.save(tmp_path / "p.pt")
    loaded = Posterior.load(tmp_path / "p.pt", schools)
    assert loaded.guide.hierarchy.generations == 1
    pyro.set_rng_seed(1)
    expected = posterior.draws(5)["effect"]
    pyro.set_rng_seed(1)
    assert torch.equal(loaded.draws(5)["effect"], expected)
    other = copy.deepcopy(posterior.guide)
    assert other.hierarchy.generations == 1


def test_neutra_samples_without_ties():
    guide = AutoFlowGuide(schools, "diag").warm_start()
    neutra = NeuTraReparam(guide)
    model = neutra.reparam(schools)
    pyro.set_rng_seed(0)
    trace = poutine.trace(model).get_trace()
    (latent,) = (node["value"] for name, node in trace.nodes.items() if "shared" in name)
    u, log_det = guide.get_transform().forward_and_log_det(latent)
    assert torch.allclose(trace.log_prob_sum(), Target.of(guide)(u) + log_det)


def test_an_empty_hierarchy_is_the_identity():
    x = torch.randn(3, 4)
    hierarchy = Hierarchy(4)
    assert hierarchy.generations == 0
    assert len(hierarchy) == len(list(hierarchy)) == 1
    assert torch.equal(hierarchy(x), x)
    assert not hierarchy.log_abs_det_jacobian(x, x).any()
