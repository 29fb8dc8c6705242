"""Leapfrog steps in a guide: a bijection, unbiased weights, a bound, and what Pyro does with it."""

import copy
import io
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_value
from pyro.infer.reparam import NeuTraReparam
from pyro.optim import Adam

from pyro_nf import AutoFlowGuide, Posterior, fit, make_flow
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.guides.hamiltonian import FAILED, QUICK, Bridge, Leapfrogs
from pyro_nf.testing import check_flow

DOUBLE, SURE = torch.float64, 3.5  # standard errors


def bent_energy(u):
    return u[..., 0].square() / 2 + u[..., 0] ** 4 / 40 + (u[..., 1] - 0.3 * u[..., 0] ** 2) ** 2


def line_energy(u):
    return u[..., 0].square() / 2 + u[..., 0] ** 4 / 10 - u[..., 0].sin()


def funnel_energy(u):
    x = u[..., 1] / (u[..., 0] / 2).exp()
    return 2 * u[..., 0].square() + x.square() / 2 + u[..., 0] / 2


ENERGIES = {"bent": (bent_energy, 2), "line": (line_energy, 1), "funnel": (funnel_energy, 2)}


def minus_bent(u):
    return -bent_energy(u)


def minus_line(u):
    return -line_energy(u)


def model_of(energy, dim, dtype=DOUBLE):
    def model():
        zero = torch.zeros(dim, dtype=dtype)
        u = pyro.sample("u", dist.Normal(zero, 1.0).to_event(1))
        pyro.factor("energy", dist.Normal(zero, 1.0).to_event(1).log_prob(u).neg() - energy(u))

    return model


def log_evidence(energy, dim):
    """By quadrature."""
    axis = torch.linspace(-12.0, 12.0, 4801 if dim == 1 else 1201, dtype=DOUBLE)
    points = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1)
    return float((-energy(points)).flatten().logsumexp(0) + dim * (axis[1] - axis[0]).log())


def guide_of(model, steps, size=0.5, **options):
    """A guide wider than the posterior, with steps of some size."""
    guide = AutoFlowGuide(model, "planar*2", hamiltonian=steps, init_scale=1.6, **options).setup()
    with torch.no_grad():
        sizes, *_ = guide.noise.params.theta.split([steps, len(guide.noise.params.theta) - steps])
        sizes.fill_(math.log(size / (1 - size)) / QUICK)
    return guide


@torch.no_grad()
def log_weights(guide, n):
    q = guide.get_posterior()
    u = q.rsample((n,))
    return (guide.noise.target(u) - q.log_prob(u)).double()


# -------------------------------------------------------------------- the bijection


@pytest.mark.parametrize("persistence", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("density", "dim", "steps"), [(minus_bent, 2, 3), (minus_line, 1, 2)])
def test_it_keeps_the_contract_of_a_flow(density, dim, steps, persistence):
    flow = Leapfrogs(make_flow("planar*2", dim), Bridge(steps, persistence), density)
    report = check_flow(flow)
    assert report.inverse
    assert flow.dim == dim * (steps + 1)


def unrolled(flow, bridge, density, x):
    """The log weights of paths, as in the papers, of noise with shape (K + 1, n, D)."""
    sizes, b, keep, renewed = bridge()
    normal = dist.Normal(torch.zeros((), dtype=x.dtype), 1.0)

    def slope(e, k):
        def bridge_density(e):
            u, log_det = flow.forward_and_log_det(e)
            return b[k] * (density(u) + log_det) - (1 - b[k]) * e.square().sum(-1) / 2

        return torch.autograd.grad(bridge_density(e).sum(), e, create_graph=True)[0]

    e = x[0].clone().requires_grad_()
    speed, weight = x[1], -normal.log_prob(e).sum(-1)
    for k in range(len(sizes)):
        speed = speed if k == 0 else keep * speed + renewed * x[k + 1]
        weight = weight - normal.log_prob(speed).sum(-1)
        speed = speed + sizes[k] / 2 * slope(e, k)
        e = e + sizes[k] * speed
        speed = speed + sizes[k] / 2 * slope(e, k)
        weight = weight + normal.log_prob(speed).sum(-1)
    u, log_det = flow.forward_and_log_det(e)
    return weight + density(u) + log_det


@pytest.mark.parametrize("persistence", [0.0, 0.7])
def test_values_and_gradients_are_those_of_an_unrolled_loop(persistence):
    model, steps, n = model_of(bent_energy, 2), 3, 50
    guide = guide_of(model, steps, persistence=persistence)
    q = guide.get_posterior()
    torch.manual_seed(1)
    u = q.rsample((n,))
    weights = guide.noise.target(u) - q.log_prob(u)
    torch.manual_seed(1)
    x = q.joint.base.rsample((n,)).reshape(n, steps + 1, 2).movedim(1, 0)
    expected = unrolled(guide.flow, guide.noise, guide.noise.target, x)
    assert torch.allclose(weights, expected, atol=1e-10)
    leaves = [*guide.flow.parameters(), *guide.noise.parameters()]
    found, wanted = (
        torch.autograd.grad(value.mean(), leaves, retain_graph=True)
        for value in (weights, expected)
    )
    assert all(torch.allclose(*pair, atol=1e-9) for pair in zip(found, wanted, strict=True))
    assert all(bool((grad != 0).any()) for grad in found)


def test_steps_of_no_size_leave_the_flow_as_it_is():
    guide = guide_of(model_of(bent_energy, 2), 4, size=1e-9)
    q = guide.get_posterior()
    u = q.rsample((20,))
    e, log_det = guide.flow.inverse_and_log_det(u)
    assert torch.allclose(q.log_prob(u), guide.get_base_dist().log_prob(e) + log_det, atol=1e-6)


# -------------------------------------------------------------------- weights and bounds


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize(("steps", "persistence"), [(1, 0.5), (4, 0.0), (4, 0.9), (8, 1.0)])
def test_weights_have_the_evidence_as_their_mean(name, steps, persistence):
    energy, dim = ENERGIES[name]
    guide = guide_of(model_of(energy, dim), steps, 0.3, persistence=persistence)
    weights = log_weights(guide, 50_000) - log_evidence(energy, dim)
    mean, error = weights.exp().mean(), weights.exp().std() / len(weights) ** 0.5
    assert error < 0.03
    assert abs(mean - 1) < SURE * error
    assert weights.mean() < 0  # the bound


def test_weights_in_single_precision():
    guide = guide_of(model_of(bent_energy, 2, torch.float32), 4)
    weights = log_weights(guide, 50_000) - log_evidence(bent_energy, 2)
    error = weights.exp().std() / len(weights) ** 0.5
    assert abs(weights.exp().mean() - 1) < SURE * error < 0.1


@pytest.mark.parametrize("persistence", [0.0, 0.9])
def test_reverse_paths_estimate_the_density_of_given_values(persistence):
    guide = guide_of(model_of(line_energy, 1), 3, persistence=persistence)
    axis = torch.linspace(-9, 9, 1501, dtype=DOUBLE)
    with torch.no_grad():
        q = guide.get_posterior()
        density = torch.stack([q.log_prob(axis.unsqueeze(-1)).exp() for _ in range(20)]).mean(0)
        draws = q.sample((40_000,)).squeeze(-1)
    assert abs(torch.trapezoid(density, axis) - 1) < 0.03
    assert abs(torch.trapezoid(density * axis, axis) - draws.mean()) < 0.05
    share = torch.trapezoid(density[axis < 0], axis[axis < 0])
    assert abs(share - (draws < 0).double().mean()) < 0.02


def test_a_path_that_fails_makes_steps_shorter():
    model = model_of(lambda u: 2000 * u.square().sum(-1), 2)
    guide = guide_of(model, 8, size=0.9)
    q = guide.get_posterior()
    u = q.rsample((50,))
    weights = guide.noise.target(u) - q.log_prob(u)
    assert (weights < -FAILED).any()
    (-weights.mean()).backward()
    slope = guide.noise.params.theta.grad
    assert slope.isfinite().all()
    assert (slope[:8] > 0).all()  # descent makes them smaller
    assert all(p.grad.isfinite().all() for p in guide.flow.parameters())


def test_training_brings_the_bound_nearer():
    model, found = model_of(bent_energy, 2), []
    for steps in (0, 4):
        pyro.clear_param_store()
        guide = AutoFlowGuide(model, "diag", hamiltonian=steps, init_scale=0.7)
        posterior = fit(model, guide=guide, steps=300, seed=0, progress=False, refine=False)
        found.append(posterior.log_weights(20_000) - log_evidence(bent_energy, 2))
    assert found[1].mean() > found[0].mean() + 0.02
    assert all(weights.mean() < 0 for weights in found)


def test_evidence_of_eight_schools():
    mu, tau = torch.linspace(-30, 40, 281).double(), torch.linspace(0, 150, 3001).double()
    y, sigma = (torch.as_tensor(part).double() for part in EIGHT_SCHOOLS.data)
    spread = (tau.square() + sigma.unsqueeze(-1).square()).sqrt()
    likelihood = dist.Normal(mu.view(-1, 1, 1), spread).log_prob(y.unsqueeze(-1)).sum(1)
    prior = dist.Normal(0.0, 5.0).log_prob(mu).unsqueeze(-1) + dist.HalfCauchy(5.0).log_prob(tau)
    density = (likelihood + prior).exp()
    exact = torch.trapezoid(torch.trapezoid(density, tau), mu).log()
    guide = AutoFlowGuide(eight_schools, "affine_coupling*2 + tails", hamiltonian=4)
    posterior = fit(
        eight_schools,
        *EIGHT_SCHOOLS.data,
        guide=guide,
        steps=200,
        seed=0,
        progress=False,
        refine=False,
    )
    weights = posterior.log_weights(20_000) - exact
    error = weights.exp().std() / len(weights) ** 0.5
    assert abs(weights.exp().mean() - 1) < SURE * error < 0.1
    assert weights.mean() < 0


# -------------------------------------------------------------------- in Pyro


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal((x * slope).sum(-1), scale), obs=y)


X = torch.linspace(-1, 1, 20).unsqueeze(-1) ** torch.tensor([1.0, 2.0])
Y = X @ torch.tensor([1.0, -0.5]) + 0.3 * torch.sin(20 * X[:, 0])


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(),
        Trace_ELBO(5, vectorize_particles=True, max_plate_nesting=1),
        RenyiELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
        TraceGraph_ELBO(),
        pytest.param(
            TraceEnum_ELBO(max_plate_nesting=1),
            marks=pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites"),
        ),
    ],
    ids=lambda elbo: type(elbo).__name__,
)
def test_plain_svi_trains_all_parts(elbo):
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=2).setup(X, Y)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    svi = SVI(regression, guide, Adam({"lr": 0.01}), elbo)
    for _ in range(3):
        assert math.isfinite(svi.step(X, Y))
    moved = [name for name, value in guide.state_dict().items() if (value != before[name]).any()]
    assert moved == ["flow.flows.0.params.theta", "flow.flows.1.params.theta", "noise.params.theta"]


def test_particles_of_svi_have_the_bound_of_draws():
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3).setup(X, Y)
    elbo = Trace_ELBO(20_000, vectorize_particles=True, max_plate_nesting=1)
    weights = Posterior(regression, guide, X, Y).log_weights(20_000)
    gap = -elbo.loss(regression, guide, X, Y) - weights.mean()
    assert abs(gap) < SURE * weights.std() * (2 / 20_000) ** 0.5


def test_a_compiled_fit_takes_the_steps_of_an_eager_one():
    losses = []
    for compile in (False, "quick"):
        guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3, name="same")
        pyro.clear_param_store()
        options = {"steps": 20, "seed": 0, "progress": False, "refine": False, "compile": compile}
        posterior = fit(regression, X, Y, guide=guide, **options)
        assert ("quick" in posterior.message) == (compile == "quick")
        losses.append(posterior.losses)
    assert torch.allclose(*losses, rtol=1e-3)


def test_draws_are_made_together_and_predict_new_rows():
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3)
    posterior = fit(regression, X, Y, guide=guide, steps=100, seed=0, progress=False, refine=False)
    assert posterior.vectorized is None or posterior.vectorized
    new = torch.tensor([[0.5, 0.25]])
    expected = (posterior.draws(4000)["slope"] @ new[0]).mean()
    drawn = posterior.predict(4000, new)["y"]
    assert posterior.vectorized
    assert drawn.shape == (4000, 1)
    assert abs(drawn.mean() - expected) < 0.05  # of the data that were fitted
    found = Predictive(regression, guide=guide, num_samples=200)(new)
    assert abs(found["y"].mean() - expected) < 0.1
    medians = guide.median()
    assert (medians["slope"] - posterior.draws(4000)["slope"].median(0).values).abs().max() < 0.05
    assert abs(guide.loc[2].exp() - medians["scale"]) < 0.05


def test_a_file_brings_it_back(tmp_path):
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3, persistence=0.5)
    posterior = fit(regression, X, Y, guide=guide, steps=20, seed=0, progress=False, refine=False)
    posterior.save(tmp_path / "posterior.pt")
    again = Posterior.load(tmp_path / "posterior.pt", regression, X, Y)
    assert repr(again.guide) == repr(guide)
    assert "hamiltonian=3, persistence=0.5" in repr(guide)
    for one in (posterior, again):
        torch.manual_seed(3)
        weights = one.log_weights(10)
        assert weights.isfinite().all()
        one.weights = weights
    assert torch.allclose(posterior.weights, again.weights, atol=1e-4)


def test_copies_draw_alike_and_pickles_want_a_model():
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3).setup(X, Y)
    drawn = []
    for one in (guide, copy.deepcopy(guide)):
        torch.manual_seed(0)
        drawn.append(one.get_posterior().sample())
    assert torch.equal(*drawn)
    stream = io.BytesIO()
    torch.save(guide, stream)
    stream.seek(0)
    with pytest.raises(RuntimeError, match="neither model nor data are pickled"):
        torch.load(stream, weights_only=False).get_posterior()


def test_setup_with_other_data_follows_these():
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3).setup(X, Y)
    before = guide.noise.target(torch.zeros(3))
    guide(X, Y + 1)
    assert guide.noise.target(torch.zeros(3)) == before
    guide.setup(X, Y + 1)
    assert guide.noise.target(torch.zeros(3)) != before


def test_given_values_are_scored_with_a_warning():
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3).setup(X, Y)
    posterior = Posterior(regression, guide, X, Y)
    with pytest.warns(UserWarning, match="is estimated, too low on average"):
        assert posterior.log_prob(posterior.draws(5)).isfinite().all()


def test_neutra_and_chains_take_the_flow_alone():
    guide = AutoFlowGuide(regression, "planar*2", hamiltonian=3).setup(X, Y)
    assert guide.get_transform(X, Y) is guide.flow
    neutra = NeuTraReparam(guide)
    trace = poutine.trace(neutra.reparam(regression)).get_trace(X, Y)
    (name,) = [name for name in trace.nodes if name.endswith("_shared_latent")]
    values = neutra.transform_sample(trace.nodes[name]["value"])
    assert torch.allclose(values["slope"], trace.nodes["slope"]["value"])
    posterior = fit(regression, X, Y, guide=guide, steps=20, seed=0, progress=False, refine=True)
    assert posterior.refinement.arrived


# -------------------------------------------------------------------- refusals


def subsampled(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 100, subsample_size=len(x)):
        pyro.sample("y", dist.Normal(slope * x[:, 0], 1.0), obs=y)


def of_numpy(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    fixed = torch.as_tensor(slope.detach().numpy())
    pyro.factor("fit", -10 * (fixed - 1).square())


def with_classes(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    kind = pyro.sample("kind", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(slope * kind, 1.0), obs=y[0])


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (subsampled, "has 20 of its 100 rows"),
        (of_numpy, "no gradients, or not those of its values"),
        (poutine.block(with_classes, hide=["kind"]), "of a site that the guide lacks"),
        (poutine.block(regression, hide=["scale"]), "of a site that the guide lacks"),
    ],
)
def test_a_density_that_cannot_be_followed_is_refused(model, why):
    with pytest.raises(ValueError, match=f"hamiltonian=2 follows the model's density: .*{why}"):
        AutoFlowGuide(model, "diag", hamiltonian=2).setup(X, Y)


def test_a_part_of_a_list_is_refused():
    guides = AutoGuideList(regression)
    guides.append(AutoNormal(poutine.block(regression, expose=["scale"])))
    part = poutine.block(regression, expose=["slope", "y"])
    guides.append(AutoFlowGuide(part, "diag", hamiltonian=2))
    with pytest.raises(ValueError, match="of a site that the guide lacks"):
        guides(X, Y)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"persistence": 0.5}, "type hamiltonian=8, say, too"),
        ({"hamiltonian": -1}, "hamiltonian must be 0 or more"),
        ({"hamiltonian": 2, "persistence": 1.5}, "a number from 0 to 1"),
        ({"hamiltonian": 2, "sites": "slope", "rest": "delta"}, 'type rest="normal"'),
    ],
)
def test_what_cannot_be_asked_for(options, why):
    with pytest.raises(ValueError, match=why):
        AutoFlowGuide(regression, "diag", **options)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
def test_torchs_own_trace_is_refused(capsys):
    guide = AutoFlowGuide(regression, "diag", hamiltonian=2).setup(X, Y)
    with pytest.raises(NotImplementedError, match=r"type pyro_nf.fit\(model"):
        SVI(regression, guide, Adam({"lr": 0.01}), JitTrace_ELBO()).step(X, Y)


def test_sites_beside_the_flow_take_steps_too():
    guide = AutoFlowGuide(
        regression,
        "planar*2",
        sites="slope",
        hamiltonian=2,
        init_loc_fn=init_to_value(values={"slope": torch.zeros(2), "scale": torch.tensor(1.0)}),
    ).setup(X, Y)
    weights = Posterior(regression, guide, X, Y).log_weights(100)
    assert weights.isfinite().all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batches": (X, Y), "batch_size": 5}, "follows the density of all data"),
        ({"elbo": TraceMeanField_ELBO()}, "a bound for all together"),
    ],
)
def test_what_fit_refuses(options, why):
    guide = AutoFlowGuide(regression, "diag", hamiltonian=2)
    data = () if "batches" in options else (X, Y)
    with pytest.raises(ValueError, match=why):
        fit(regression, *data, guide=guide, steps=5, progress=False, **options)
