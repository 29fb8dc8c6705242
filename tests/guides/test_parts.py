"""A flow for some sites, and normal distributions or points for the others, in one guide."""

import copy
import io
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal, init_to_feasible
from pyro.infer.reparam import NeuTraReparam
from pyro.optim import Adam

from pyro_nf import AutoFlowGuide, Posterior, fit

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

BENT, WIDTH, OBSERVED = "bent.*", 0.3, 2.0
Y = torch.linspace(-2.0, 2.0, 200)


def model(y):
    """Three latents on a bent sheet between two rows of easy ones, which are normal."""
    a = pyro.sample("bent.a", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        easy = pyro.sample("easy", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(easy, 0.5), obs=y)
    b = pyro.sample("bent.b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mean = a * b[..., 0] + b[..., 1]
    pyro.sample("z", dist.Normal(mean, WIDTH), obs=torch.tensor(OBSERVED))
    return scale


@pytest.fixture(scope="module")
def exact():
    """Log evidence, means and standard deviations of the bent latents, by quadrature."""
    axis = torch.linspace(-6, 6, 181, dtype=torch.float64)
    u = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    normal = dist.Normal(0.0, 1.0)
    mean = u[..., 0].exp() * u[..., 1] + u[..., 2]
    log_p = normal.log_prob(u).sum(-1) + dist.Normal(mean, WIDTH).log_prob(torch.tensor(OBSERVED))
    cell = (axis[1] - axis[0]) ** 3
    log_evidence = torch.logsumexp(log_p.flatten(), 0) + cell.log()
    weight = (log_p - log_evidence).exp() * cell
    mean = (weight.unsqueeze(-1) * u).sum((0, 1, 2))
    variance = (weight.unsqueeze(-1) * (u - mean).square()).sum((0, 1, 2))
    return log_evidence.item(), mean.float(), variance.sqrt().float()


def bent(draws):
    return torch.cat([draws["bent.a"].log().unsqueeze(-1), draws["bent.b"]], -1)


def guide_of(rest, y=None, **options):
    options = {"init_loc_fn": init_to_feasible} | options
    guide = AutoFlowGuide(model, "planar*2 + tril", sites=BENT, rest=rest, **options)
    return guide if y is None else guide.setup(y)


def snapshot(guide):
    return {key: value.clone() for key, value in guide.state_dict().items()}


# -------------------------------------------------------------------- right answers


def test_few_hard_latents_among_many_easy_ones(exact):
    log_evidence, mean, sd = exact
    guide = AutoFlowGuide(model, sites=BENT)
    # Steps in which the default flow of three numbers comes to a k-hat of 0.35.
    posterior = fit(
        model, Y, guide=guide, steps=1000, seed=0, compile="quick", progress=False, refine=False
    )
    draws = posterior.draws(4000)
    found = bent(draws)
    # Four standard errors of 4,000 draws are 0.063 and, for a log sd of heavier tails, about that.
    assert ((found.mean(0) - mean).abs() < 0.08 * sd).all()
    assert ((found.std(0) / sd).log().abs() < 0.08).all()
    easy = draws["easy"]
    assert ((easy.mean(0) - 0.8 * Y).abs() < 0.09 * 0.2**0.5).all()
    assert ((easy.std(0) / 0.2**0.5).log().abs() < 0.08).all()
    diagnosis = posterior.diagnose(search=False)
    expected = log_evidence + dist.Normal(0.0, 1.25**0.5).log_prob(Y).sum().item()
    assert diagnosis.verdict == "good"
    assert diagnosis.log_evidence == pytest.approx(expected, abs=0.05)


def test_points_for_the_others_are_the_most_probable_and_given_them_the_flow_is_right(exact):
    log_evidence, mean, sd = exact
    y = torch.linspace(-0.5, 0.5, 20)
    posterior = fit(
        model,
        y,
        guide=AutoFlowGuide(model, sites=BENT, rest="delta"),
        steps=1000,
        seed=0,
        compile="quick",
        progress=False,
    )
    draws = posterior.draws(4000)
    points = draws["easy"][0], draws["scale"][0]
    assert bool((draws["easy"] == points[0]).all())
    assert torch.allclose(points[0], 0.8 * y, atol=0.01)
    assert points[1].item() == pytest.approx(math.exp(-(0.5**2)), abs=0.01)  # LogNormal's mode
    found = bent(draws)
    assert ((found.mean(0) - mean).abs() < 0.08 * sd).all()
    assert ((found.std(0) / sd).log().abs() < 0.08).all()

    diagnosis = posterior.diagnose()
    expected = log_evidence + sum(
        part.sum().item()
        for part in (
            dist.Normal(0.0, 1.0).log_prob(points[0]),
            dist.Normal(points[0], 0.5).log_prob(y),
            dist.LogNormal(0.0, 0.5).log_prob(points[1]),
        )
    )
    assert diagnosis.log_evidence == pytest.approx(expected, abs=0.05)
    assert diagnosis.ess > 0.9
    assert diagnosis.verdict == "usable"  # never good: nothing is known of the points
    assert "of how far the points are known they say nothing (easy, scale)" in diagnosis.message
    assert "points" in str(diagnosis)
    assert posterior.diagnose(search=False).verdict == "usable"


def test_a_posterior_that_misses_is_poor_whatever_the_points():
    guide = guide_of("delta", Y[:5])
    with torch.no_grad():
        guide.flow.get_parameter("flows.1.params.theta").add_(5.0)
    assert Posterior(model, guide, Y[:5]).diagnose(search=False).verdict == "poor"


def test_whitened_blocks_are_those_of_the_nearest_normal_distribution():
    def cut(root):
        white = pyro.sample("one", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        rest = pyro.sample("two", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.factor(
            "tie",
            dist.MultivariateNormal(torch.ones(5), root @ root.mT).log_prob(
                torch.cat([white, rest])
            )
            - dist.Normal(0.0, 1.0).log_prob(torch.cat([white, rest])).sum(),
        )

    root = torch.randn(5, 5) / 2 + torch.eye(5)
    guide = AutoFlowGuide(cut, "tril", sites="one").warm_start(root)
    precision = torch.linalg.inv(root @ root.mT)
    draws = guide.get_posterior().fixed_draws().detach()
    covariance = draws.mT.cov()
    expected = torch.diag(1 / precision.diagonal())
    expected[:2, :2] = torch.linalg.inv(precision[:2, :2])
    assert torch.allclose(guide.loc, torch.ones(5), atol=0.05)
    scale = expected.diagonal().sqrt()
    gap = (covariance - expected) / (scale * scale.unsqueeze(-1))
    assert gap.abs().max() < 0.05


# -------------------------------------------------------------------- as any guide


@pytest.mark.parametrize("rest", ["normal", "delta"])
def test_its_numbers_grow_as_those_of_a_mean_field_guide(rest):
    def numbers(count):
        guide = guide_of(rest, torch.zeros(count))
        if rest == "normal":
            dim = guide.latent_dim
            guide.flow.move(torch.zeros(dim), torch.eye(dim))  # as a warm start does
        tensors = [*guide.parameters(), *guide.buffers()]
        return sum(tensor.numel() for tensor in tensors)

    few, more, most = map(numbers, (50, 100, 200))
    assert most - more == 2 * (more - few)
    assert more - few <= 4 * 50  # two parameters each, and where and how wide it is


@pytest.mark.parametrize("rest", ["normal", "delta"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, partial(JitTrace_ELBO, ignore_jit_warnings=True)])
def test_plain_svi_trains_all_parts(rest, elbo):
    y = Y[:4]
    guide = guide_of(rest, y)
    before = snapshot(guide)
    options = {"num_particles": 8, "vectorize_particles": True, "max_plate_nesting": 1}
    svi = SVI(model, guide, Adam({"lr": 0.01}), elbo(**options))
    assert all(math.isfinite(svi.step(y)) for _ in range(4))
    changed = {key for key, value in guide.state_dict().items() if not value.equal(before[key])}
    assert {key for key, _ in guide.named_parameters()} == changed
    trace = poutine.trace(guide).get_trace(y)
    latents = {name for name in trace.stochastic_nodes if not name.startswith("_")}
    assert latents - {"rows"} == {"bent.a", "bent.b", "easy", "scale"}


@pytest.mark.parametrize("rest", ["normal", "delta"])
def test_copies_pickles_and_the_store(rest):
    y = Y[:4]
    guide = guide_of(rest, y)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1)
    buffer = io.BytesIO()
    torch.save(guide, buffer)
    buffer.seek(0)
    expected = guide.median(y)
    for other in (copy.deepcopy(guide), torch.load(buffer, weights_only=False)):
        found = other.median(y)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert repr(other) == repr(guide)
    again = guide_of(rest, y)
    again.load_state_dict(guide.state_dict())
    assert all(torch.equal(again.median(y)[name], expected[name]) for name in expected)

    # What the store has loaded is what is used and trained.
    named = guide_of(rest, y, name="mine")
    named.load_state_dict(guide.state_dict())
    named(y)
    state = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    fresh = guide_of(rest, y, name="mine")
    fresh(y)
    assert all(torch.equal(fresh.median(y)[name], expected[name]) for name in expected)


@pytest.mark.parametrize("rest", ["normal", "delta"])
def test_one_file(rest, tmp_path):
    y = Y[:4]
    posterior = fit(
        model, y, guide=guide_of(rest), steps=5, seed=0, compile=False, progress=False, refine=False
    )
    posterior.save(tmp_path / "p.pt")
    pyro.clear_param_store()
    loaded = Posterior.load(tmp_path / "p.pt", model, y)
    values = posterior.draws(6)
    assert torch.equal(loaded.log_prob(values), posterior.log_prob(values))
    assert bool(posterior.log_prob(values).isfinite().all())
    assert repr(loaded) == repr(posterior)
    assert f"sites=('{BENT}',), rest='{rest}'" in repr(loaded)
    values["easy"] = values["easy"] + 1
    away = posterior.log_prob(values)
    assert bool(away.isfinite().all()) == (rest == "normal")  # none beside the points
    assert loaded.predict(3)["y"].shape == (3, 4)


def test_a_fit_goes_on_from_a_checkpoint(tmp_path):
    options = {"steps": 6, "compile": False, "progress": False, "seed": 0}
    whole = fit(model, Y[:4], guide=guide_of("delta"), **options)
    path = tmp_path / "c.pt"
    fit(model, Y[:4], guide=guide_of("delta"), checkpoint=path, **options)
    again = fit(model, Y[:4], guide=guide_of("delta"), checkpoint=path, **options)
    assert torch.equal(again.losses, whole.losses)
    median, expected = again.guide.median(Y[:4]), whole.guide.median(Y[:4])
    assert all(torch.equal(median[name], expected[name]) for name in expected)


def test_neutra_transports_what_has_the_flow():
    y = Y[:4]
    for rest, left in (("normal", []), ("delta", ["easy", "scale"])):
        guide = guide_of(rest, y)
        transported = NeuTraReparam(guide).reparam(model)
        trace = poutine.trace(transported).get_trace(y)
        free = [name for name in trace.stochastic_nodes if trace.nodes[name]["type"] == "sample"]
        latent = {name for name in free if not name.startswith("rows")}
        assert latent == {"bent.a_shared_latent", *left}
        assert trace.nodes["bent.a_shared_latent"]["value"].shape == (guide.latent_dim,)


def test_beside_other_guides_and_with_predictive():
    y = Y[:4]
    guides = AutoGuideList(model)
    guides.append(
        AutoFlowGuide(poutine.block(model, hide=["easy"]), "tril", sites=["bent.a"], rest="delta")
    )
    guides.append(AutoNormal(poutine.block(model, expose=["easy"])))
    SVI(model, guides, Adam({"lr": 0.01}), Trace_ELBO()).step(y)
    assert set(guides(y)) == {"bent.a", "bent.b", "scale", "easy"}
    found = Predictive(model, guide=guides, num_samples=3)(y)
    assert found["bent.b"].shape == (3, 1, 2)


def test_quantiles_of_points_are_the_points():
    guide = guide_of("delta", Y[:4])
    quantiles = guide.quantiles([0.1, 0.9], Y[:4])
    assert quantiles["easy"].shape == (2, 4)
    assert torch.equal(quantiles["easy"][0], quantiles["easy"][1])
    assert (quantiles["bent.b"][1] > quantiles["bent.b"][0]).all()


def test_frozen_points_stay_without_a_warning():
    guide = guide_of("delta", Y[:4])
    guide.points.requires_grad_(False)
    before = snapshot(guide)
    SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step(Y[:4])
    assert torch.equal(guide.points.free, before["points.free"])
    key = "flow.flows.1.params.theta"
    assert not torch.equal(guide.state_dict()[key], before[key])


def test_more_numbers_than_a_warm_start_takes():
    y = torch.zeros(600)
    guide = AutoFlowGuide(model, sites=BENT).warm_start(y)
    assert guide.latent_dim == 604
    assert "tril" in repr(guide)  # the default flow is that of three numbers
    SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO()).step(y)
    assert guide(y)["easy"].shape == (600,)


# -------------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sites": ["tau"]}, ValueError, "no latent site of the model is called 'tau'"),
        ({"sites": ["bent.*", "z"]}, ValueError, "is called 'z'; they are 'bent.a', 'easy'"),
        ({"sites": "*"}, ValueError, "are all latent sites of the model"),
        ({"rest": "normal"}, ValueError, "there are no sites"),
        ({"sites": "bent.a", "rest": "map"}, ValueError, 'rest must be "normal" or "delta"'),
        ({"sites": []}, TypeError, "names or patterns of latent sites"),
        ({"sites": [3]}, TypeError, "names or patterns of latent sites"),
        ({"sites": {"bent.a"}}, TypeError, "names or patterns of latent sites"),
    ],
    ids=str,
)
def test_bad_parts_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        AutoFlowGuide(model, **options).setup(Y)


def test_supports_that_depend_on_other_sites():
    def tied():
        low = pyro.sample("low", dist.Uniform(0.0, 1.0))
        pyro.sample("high", dist.Uniform(0.0, 1.0 - low))
        pyro.sample("free", dist.Normal(0.0, 1.0))

    drawn = AutoFlowGuide(tied, "tril", sites=["low", "high"]).setup()()
    assert drawn["low"] + drawn["high"] < 1
    with pytest.raises(ValueError, match="the supports of 'high' depend on other latent sites"):
        AutoFlowGuide(tied, "tril", sites=["low", "high"], rest="delta").setup()
