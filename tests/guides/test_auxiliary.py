"""Auxiliary variables beside the latents of a guide: birth, weights, a bound, gradients."""

import copy
import io
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Predictive, RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.optim import Adam

from pyro_nf import AutoFlowGuide, Posterior, fit

DOUBLE, SURE = torch.float64, 3.5  # standard errors
QUIET = {"seed": 0, "progress": False}


def ring_energy(u):
    return 8 * (u.square().sum(-1).sqrt() - 2).square()


def two_energy(u):
    left, right = ((u - shift).square().sum(-1) for shift in (1.5, -1.5))
    return -torch.logaddexp(-left, -right - 0.5)


def line_energy(u):
    return u[..., 0].square() / 2 + u[..., 0] ** 4 / 10 - u[..., 0].sin()


ENERGIES = {"ring": (ring_energy, 2), "two": (two_energy, 2), "line": (line_energy, 1)}


def model_of(energy, dim, dtype=DOUBLE):
    def model():
        normal = dist.Normal(torch.zeros(dim, dtype=dtype), 1.0).to_event(1)
        u = pyro.sample("u", normal)
        pyro.factor("energy", -normal.log_prob(u) - energy(u))

    return model


def log_evidence(energy, dim):
    """By quadrature."""
    axis = torch.linspace(-8.0, 8.0, 1601, dtype=DOUBLE)
    points = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1)
    return float((-energy(points)).flatten().logsumexp(0) + dim * (axis[1] - axis[0]).log())


def moved(guide, spread=0.3):
    """A guide away from its birth."""
    guide.setup()
    with torch.no_grad():
        for parameter in guide.noise.parameters():
            parameter += spread * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return guide


@torch.no_grad()
def log_weights(guide, energy, n):
    q = guide.get_posterior()
    u = q.rsample((n,))
    return (-energy(u) - q.log_prob(u)).double()


def test_a_new_guide_is_mean_field():
    model = model_of(two_energy, 2, torch.float32)
    guide = AutoFlowGuide(model, "planar*4", auxiliary=3, init_scale=0.3).setup()
    q = guide.get_posterior()
    u = q.rsample((100,))
    plain = AutoDiagonalNormal(model, init_scale=0.3)
    plain()
    expected = dist.Normal(guide.flow(torch.zeros(2)), 0.3).to_event(1)
    assert (q.log_prob(u) - expected.log_prob(u)).abs().max() < 0.2  # of networks near zero
    assert (u.std(0) / 0.3 - 1).abs().max() < 0.3


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("more", [1, 3])
def test_weights_have_the_evidence_as_their_mean(name, more):
    energy, dim = ENERGIES[name]
    guide = moved(AutoFlowGuide(model_of(energy, dim), "planar*3", auxiliary=more, init_scale=1.7))
    weights = log_weights(guide, energy, 100_000) - log_evidence(energy, dim)
    mean, error = weights.exp().mean(), weights.exp().std() / len(weights) ** 0.5
    assert error < 0.03
    assert abs(mean - 1) < SURE * error
    assert weights.mean() < 0


def test_given_values_have_the_density_of_draws():
    guide = moved(AutoFlowGuide(model_of(line_energy, 1), "planar*3", auxiliary=2), 0.5)
    axis = torch.linspace(-4, 4, 801, dtype=DOUBLE)
    with torch.no_grad():
        q = guide.get_posterior()
        draws = q.sample((100_000,)).squeeze(-1)
        middle, spread = draws.mean(), draws.std()
        points = middle + 2 * spread * axis
        density = torch.stack([q.log_prob(points.unsqueeze(-1)).exp() for _ in range(10)]).mean(0)
    assert abs(torch.trapezoid(density, points) - 1) < 0.03
    below = points <= middle
    share = torch.trapezoid(density[below], points[below])
    assert abs(share - (draws < middle).double().mean()) < 0.02


def test_the_gradient_along_paths_is_the_total_one_on_average():
    gradients = []
    for gradient in ("path", "total"):
        torch.manual_seed(0)
        guide = AutoFlowGuide(
            model_of(two_energy, 2), "planar*2", auxiliary=1, init_scale=1.0, gradient=gradient
        )
        q = moved(guide).get_posterior()
        u = q.rsample((200_000,))
        loss = (q.log_prob(u) + two_energy(u)).mean()
        leaves = [*guide.flow.parameters(), *guide.noise.parameters()]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)]))
    assert torch.allclose(*gradients, atol=0.02)
    assert (gradients[0] != gradients[1]).any()


def test_it_reaches_what_one_bijection_does_not():
    model, exact, bounds = model_of(ring_energy, 2), log_evidence(ring_energy, 2), []
    for more in (0, 2):
        pyro.clear_param_store()
        guide = AutoFlowGuide(model, "planar*8", auxiliary=more, init_scale=1.0)
        posterior = fit(model, guide=guide, steps=600, refine=False, **QUIET)
        weights = posterior.log_weights(10_000) - exact
        assert weights.mean() < 0
        bounds.append(weights.mean())
    assert bounds[1] > bounds[0] + 0.1


# -------------------------------------------------------------------- in Pyro


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal((x * slope).sum(-1), scale), obs=y)


X = torch.linspace(-1, 1, 20).unsqueeze(-1) ** torch.tensor([1.0, 2.0])
Y = X @ torch.tensor([1.0, -0.5]) + 0.3 * torch.sin(20 * X[:, 0])


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(5, vectorize_particles=True, max_plate_nesting=1),
        RenyiELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
        JitTrace_ELBO(),
    ],
    ids=lambda elbo: type(elbo).__name__,
)
def test_plain_svi_trains_all_parts(elbo):
    guide = AutoFlowGuide(regression, "planar*2", auxiliary=2, gradient="total").setup(X, Y)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    svi = SVI(regression, guide, Adam({"lr": 0.01}), elbo)
    for _ in range(3):
        assert math.isfinite(svi.step(X, Y))
    still = [name for name, value in guide.state_dict().items() if (value == before[name]).all()]
    assert not still


def test_a_part_of_a_list_may_have_them():
    guides = AutoGuideList(regression)
    guides.append(AutoNormal(poutine.block(regression, expose=["scale"])))
    part = poutine.block(regression, expose=["slope", "y"])
    guides.append(AutoFlowGuide(part, "planar*2", auxiliary=1))
    posterior = fit(regression, X, Y, guide=guides, steps=20, **QUIET)
    assert posterior.log_weights(10).isfinite().all()


def test_a_fit_gives_draws_a_verdict_and_a_file(tmp_path):
    guide = AutoFlowGuide(regression, auxiliary=2)
    posterior = fit(regression, X, Y, guide=guide, steps=300, **QUIET)
    assert "not refined: AutoFlowGuide has a flow of latents and auxiliary" in posterior.message
    verdict = posterior.diagnose()
    assert verdict.verdict in ("good", "usable")
    assert posterior.vectorized
    assert posterior.predict(10, X[:1])["y"].shape == (10, 1)
    assert Predictive(regression, guide=guide, num_samples=5)(X[:1])["y"].shape == (5, 1)
    medians, draws = guide.median(), posterior.draws(4000)
    assert (medians["slope"] - draws["slope"].median(0).values).abs().max() < 0.05
    assert abs(guide.loc[2] - draws["scale"].log().mean()) < 0.05
    posterior.save(tmp_path / "posterior.pt")
    again = Posterior.load(tmp_path / "posterior.pt", regression, X, Y)
    assert repr(again.guide) == repr(guide)
    assert "D=3" in repr(guide)
    assert "auxiliary=2" in repr(guide)
    assert abs(again.diagnose(search=False).elbo - verdict.elbo) < 0.1
    with pytest.warns(UserWarning, match="is estimated, too low on average"):
        assert posterior.log_prob(posterior.draws(5)).isfinite().all()


def test_copies_and_pickles_draw_alike():
    guide = moved(AutoFlowGuide(model_of(line_energy, 1), "planar*2", auxiliary=2))
    stream = io.BytesIO()
    torch.save(guide, stream)
    stream.seek(0)
    drawn = []
    for one in (guide, copy.deepcopy(guide), torch.load(stream, weights_only=False)):
        torch.manual_seed(0)
        drawn.append(one.get_posterior().sample((3,)))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"auxiliary": -1}, "auxiliary must be 0 or more"),
        ({"auxiliary": 2, "hamiltonian": 2}, "a guide has one kind of noise"),
        ({"auxiliary": 2, "sites": "slope"}, "leave out sites or auxiliary"),
        ({"auxiliary": 2, "persistence": 0.5}, "type hamiltonian=8, say, too"),
    ],
)
def test_what_cannot_be_asked_for(options, why):
    with pytest.raises(ValueError, match=why):
        AutoFlowGuide(regression, "diag", **options)


def test_there_is_no_transform():
    guide = AutoFlowGuide(regression, "planar*2", auxiliary=2).setup(X, Y)
    with pytest.raises(NotImplementedError, match="its flow is of the auxiliary variables, too"):
        guide.get_transform()
    with pytest.raises(ValueError, match="chains need one of the latents alone"):
        Posterior(regression, guide, X, Y).refine(progress=False)


def test_a_fit_starts_over_all_modes():
    model, exact = model_of(two_energy, 2, torch.float32), log_evidence(two_energy, 2)
    guide = AutoFlowGuide(model, "planar*8", auxiliary=2)
    posterior = fit(model, guide=guide, steps=400, refine=False, **QUIET)
    share = (posterior.draws(4000)["u"].sum(-1) < 0).double().mean()
    assert abs(share - 1 / (1 + math.exp(0.5))) < 0.1
    assert posterior.log_weights(10_000).mean() > exact - 0.3  # one mode alone: 0.47
