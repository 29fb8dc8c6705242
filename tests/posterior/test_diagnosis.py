"""Diagnosis: verdicts on posteriors that are known."""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_value

from pyro_nf import fit
from pyro_nf.guides.auto_flow import AutoFlowGuide
from pyro_nf.posterior.chain_drift import TURNS
from pyro_nf.posterior.chain_drift import drift as how_far
from pyro_nf.posterior.diagnosis import diagnose, voted
from pyro_nf.posterior.finding import Finding
from pyro_nf.posterior.posterior import Posterior
from pyro_nf.posterior.trained import corrected
from pyro_nf.sampling.importance import smooth

X = torch.tensor([[1.0, 0.5], [1.0, -0.3], [1.0, 1.2], [1.0, 0.1]], dtype=torch.float64)
Y = torch.tensor([1.0, 0.2, 1.9, 0.4], dtype=torch.float64)
NOISE = 0.5


def regression(y):
    """Linear regression with a known noise, of which posterior and evidence are known."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2).to(y), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X.to(y) @ beta, NOISE), obs=y)


def exact(dtype=torch.float64):
    """Mean, covariance and log evidence of the regression."""
    x = X.to(dtype)
    precision = torch.eye(2, dtype=dtype) / 4 + x.T @ x / NOISE**2
    covariance = torch.linalg.inv(precision)
    marginal = 4 * x @ x.T + NOISE**2 * torch.eye(4, dtype=dtype)
    evidence = dist.MultivariateNormal(torch.zeros(4, dtype=dtype), marginal).log_prob(Y.to(dtype))
    return covariance @ x.T @ Y.to(dtype) / NOISE**2, covariance, float(evidence)


@torch.no_grad()
def normal_guide(model, loc, covariance, *args):
    """AutoMultivariateNormal with this location and this covariance."""
    guide = AutoMultivariateNormal(model)
    guide(*args)
    tril = torch.linalg.cholesky(covariance)
    guide.loc.copy_(loc)
    guide.scale = tril.diagonal()
    guide.scale_tril = tril / tril.diagonal().unsqueeze(-1)
    return guide


def test_verdicts_follow_k_hat():
    for k, verdict in ((0.2, "usable"), (0.6, "usable"), (1.0, "poor")):
        tail = dist.Exponential(1 / k).sample((20_000,))  # its exponential is Pareto, of index k
        result = diagnose(tail)
        assert result.verdict == verdict
        assert result.k_hat == pytest.approx(k, abs=0.15)  # 4 s.e. of 424 tail weights
        assert result.corrects == (k == 0.2)
        assert f"{result.k_hat:.2f}" in str(result)
    assert diagnose(torch.randn(100)).k_threshold == pytest.approx(0.5)
    assert diagnose(torch.randn(10**5)).k_threshold == 0.7


def test_weights_that_are_not_finite():
    weights = 0.05 * torch.randn(1000)
    for value, share, verdict in (
        (math.inf, 1, "poor"),
        (math.nan, 5, "good"),
        (math.nan, 50, "poor"),
        (-math.inf, 50, "poor"),
        (math.nan, 1000, "poor"),
    ):
        spoiled = weights.clone()
        spoiled[:share] = value
        result = diagnose(spoiled)
        assert result.verdict == verdict
        assert result.nonfinite == pytest.approx(share / 1000)
        assert "finite" in str(result)
    assert not math.isnan(result.k_hat)


def test_a_draw_outside_the_support_counts_in_the_evidence():
    half = torch.where(torch.arange(1000) < 500, 0.0, -math.inf)
    assert diagnose(half).log_evidence == pytest.approx(math.log(0.5))
    assert diagnose(half).ess == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_guide_is_good_and_knows_the_evidence(dtype):
    loc, covariance, evidence = exact(dtype)
    guide = normal_guide(regression, loc, covariance, Y.to(dtype))
    result = Posterior(regression, guide, Y.to(dtype)).diagnose(1000)
    assert result.verdict == "good"
    assert result.k_hat == -math.inf
    assert result.ess == pytest.approx(1.0, abs=1e-3)
    assert abs(result.log_evidence - evidence) < 3 * result.log_evidence_se
    assert abs(result.elbo - evidence) < 3 * result.elbo_se
    assert result.log_evidence_se < (1e-5 if dtype == torch.float32 else 1e-12)
    assert result.missed == 0


def test_a_wider_guide_corrects_and_its_evidence_is_within_its_error():
    loc, covariance, evidence = exact()
    guide = normal_guide(regression, loc + 0.02, 1.3 * covariance, Y)
    errors = []
    for _ in range(20):
        result = Posterior(regression, guide, Y).diagnose(500, search=False)
        assert result.corrects
        assert result.verdict == "usable"  # a log sd of 0.13 too many
        errors.append((result.log_evidence - evidence) / result.log_evidence_se)
        # KL(q, p) is about 0.04 here, against a standard error of 0.01.
        assert result.elbo < evidence
    assert max(map(abs, errors)) < 4  # the worst of 20
    assert 0.4 < torch.tensor(errors).square().mean() < 2.2  # chi squared, 20 degrees: 1 +- 4 s.e.


def test_a_mean_field_guide_for_a_correlated_posterior_warns():
    def correlated():
        pyro.sample(
            "z",
            dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.98], [0.98, 1.0]])),
        )

    # What mean-field variational inference converges to: variances 1 / precision_ii.
    guide = normal_guide(correlated, torch.zeros(2), (1 - 0.98**2) * torch.eye(2))
    posterior = Posterior(correlated, guide)
    result = posterior.diagnose()
    assert result.verdict == "poor"
    assert result.k_hat > 0.7
    with pytest.warns(UserWarning, match="resampling cannot repair"):
        posterior.resample(10)


def two_modes(x=None):
    z = pyro.sample("z", dist.Normal(0.0, 5.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    far = torch.stack([-((z - 6) ** 2), -((z + 6) ** 2)]) / (2 * 0.3**2)
    pyro.factor("modes", far.logsumexp(0))
    pyro.sample("x", dist.Normal(s, 1.0), obs=torch.tensor(1.0))


def test_a_guide_in_one_of_two_modes_warns():
    guide = AutoNormal(
        two_modes,
        init_loc_fn=init_to_value(values={"z": torch.tensor(6.0), "s": torch.tensor(1.0)}),
    )
    guide()
    with torch.no_grad():
        guide.scales.z = torch.tensor(0.3)
        guide.scales.s = torch.tensor(0.4)
    posterior = Posterior(two_modes, guide)
    blind = posterior.diagnose(2000, search=False)
    assert blind.verdict != "poor"  # twelve of its standard deviations lie between
    assert math.isnan(blind.missed)
    result = posterior.diagnose(2000)
    assert result.verdict == "poor"
    assert result.missed == pytest.approx(0.5, abs=0.1)
    assert "mode" in result.message


def test_no_search_where_it_cannot_be():
    def discrete():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("k", dist.Bernoulli(0.5))

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.05))
        pyro.sample("k", dist.Bernoulli(0.5))

    result = Posterior(discrete, guide).diagnose(500)
    assert math.isnan(result.missed)
    assert result.verdict == "good"


def test_the_search_leaves_alone_where_the_numerics_of_a_model_fail():
    calls = []

    def narrow():
        """Correlations, each of a latent over four: more than one is none."""
        calls.append(1)
        z = pyro.sample("z", dist.Normal(torch.zeros(10), 1.0).to_event(1))
        matrix = torch.eye(2) + z[..., None, None] / 4 * torch.eye(2).flip(0)
        like = dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.linalg.cholesky(matrix))
        pyro.sample("y", like.to_event(1), obs=torch.zeros(10, 2))

    guide = AutoNormal(narrow, init_scale=0.9)
    guide()
    result = Posterior(narrow, guide).diagnose(500)
    assert not math.isnan(result.missed)  # there was a search
    # Of some hundred climbs that begin in the void, each would cost one call at each of 150 steps.
    assert len(calls) < 10_000


def test_resampling_corrects_a_biased_guide():
    loc, covariance, _ = exact()
    sd = covariance.diagonal().sqrt()
    guide = normal_guide(regression, loc + 0.5 * sd, 1.5 * covariance, Y)
    posterior = Posterior(regression, guide, Y)
    n = 4000
    raw, kept = posterior.draws(n)["beta"], posterior.resample(n)["beta"]
    assert kept.shape == (n, 2)
    bias = (raw.mean(0) - loc).abs() / sd
    assert bias.min() > 0.4
    # 16,000 proposals at an effective share of 1/2 or so: errors of 1 / sqrt(8000).
    assert ((kept.mean(0) - loc).abs() / sd).max() < 4 / math.sqrt(8000) + 0.01
    assert ((kept.std(0) / sd).log().abs()).max() < 0.06
    assert torch.cov(kept.T).sub(covariance).abs().max() < 0.1 * covariance.max()


def test_corrected_draws_are_as_good_as_independent_ones():
    """By no more proposals than their weights ask for."""
    torch.manual_seed(0)
    loc, covariance, _ = exact()
    guide = normal_guide(regression, loc, 1.5 * covariance, Y)
    posterior, n, times = Posterior(regression, guide, Y), 200, 300
    share = posterior.diagnose(10_000, search=False).ess
    means = torch.stack(
        [corrected(posterior, n, share).values["beta"].mean(0) for _ in range(times)]
    )
    variance = n * (means - loc).square().mean(0) / covariance.diagonal()
    assert variance.max() < 1 + 4 * math.sqrt(2 / times)


def test_too_few_draws():
    loc, covariance, _ = exact()
    posterior = Posterior(regression, normal_guide(regression, loc, covariance, Y), Y)
    with pytest.raises(ValueError, match=r"50 draws are too few.*diagnose\(4000\)"):
        posterior.diagnose(50)


def test_a_point_has_no_weights():
    guide = AutoDelta(regression)
    guide(Y)
    posterior = Posterior(regression, guide, Y)
    assert posterior.draws(3)["beta"].shape == (3, 2)
    for ask in (posterior.diagnose, posterior.log_weights, posterior.resample):
        with pytest.raises(ValueError, match="'beta' at one point, as AutoDelta"):
            ask(200)


def test_a_minibatch_has_no_weights():
    def model(y, size):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y), subsample_size=size) as index:
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y[index])

    guide = AutoNormal(model)
    guide(Y.float(), 2)
    posterior = Posterior(model, guide, Y.float(), 2)
    assert posterior.draws(3)["mean"].shape == (3,)
    with pytest.raises(ValueError, match=r"'data' has 2 of its 4 rows.*whole data"):
        posterior.diagnose()
    with pytest.raises(ValueError, match="'data' takes 2 of its rows at random"):
        posterior.predict(3)
    assert Posterior(model, guide, Y.float(), 4).diagnose(500).n == 500
    assert posterior.predict(3, Y.float(), 4)["y"].shape == (3, 4)


@pytest.mark.parametrize("search", [True, False])
def test_noise_of_the_model_is_never_good(search):
    def model():
        pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("noise", 0.1 * torch.randn(()))

    pyro.set_rng_seed(0)
    guide = AutoNormal(model, init_scale=1.0)  # the posterior, but for the noise
    guide()
    diagnosis = Posterior(model, guide).diagnose(1000, search)
    assert diagnosis.k_hat < 0.5
    assert diagnosis.ess > 0.9
    assert diagnosis.verdict == "poor"
    assert "outside of pyro.sample" in diagnosis.message
    # Two runs differ by a normal number of variance 2 * 0.1**2; its size has mean 0.113, and that
    # of 32 of them a standard error of 0.015.
    assert abs(diagnosis.findings[0].value - 0.1 * 2 / math.sqrt(math.pi)) < 4 * 0.015


def test_a_heavy_tail_of_nearly_equal_weights_is_no_fault():
    torch.manual_seed(0)
    tail = torch.distributions.StudentT(1.6).sample((4000,)).abs()
    even, uneven = diagnose(torch.log1p(1e-3 * tail)), diagnose(torch.log1p(tail))
    assert even.k_hat > 0.5
    assert even.ess > 0.99
    assert even.verdict == "good"
    assert uneven.verdict == "usable"
    tail = torch.distributions.StudentT(1.2).sample((4000,)).abs()
    even, uneven = diagnose(torch.log1p(1e-4 * tail)), diagnose(torch.log1p(tail))
    assert even.k_hat > even.k_threshold
    assert even.ess > 0.99
    assert (even.verdict, uneven.verdict) == ("usable", "poor")


def test_a_guide_of_few_effective_draws_is_not_good():
    """Light tails alone do not make it so: weights of a normal guide in many dimensions."""
    torch.manual_seed(0)
    one, many = torch.randn(4000, 1), torch.randn(4000, 40)
    # The log weights of N(0, 1) as a guide for N(0, 0.8), summed over the coordinates.
    ratio = {x.shape[1]: -(x.square().sum(-1) * (1 / 0.8**2 - 1) / 2) for x in (one, many)}
    assert diagnose(ratio[1]).corrects
    result = diagnose(ratio[40])
    assert not result.corrects
    assert result.k_hat < 0.5
    assert result.ess < 0.5
    assert result.verdict == "usable"


def scaled_normal(scales):
    """A posterior of independent normal variables, and a guide that has other scales."""

    def model():
        pyro.sample("x", dist.Normal(torch.zeros_like(scales), 1.0).to_event(1))

    guide = AutoFlowGuide(model, "diag").setup()
    guide.flow.move(torch.zeros_like(scales), scales.diag())
    return Posterior(model, guide)


def test_many_small_errors_are_not_a_large_one():
    """Of 800 scales that are off by 2.5 per cent the weights make much, and chains little."""
    torch.manual_seed(0)
    scales = torch.full((800,), 0.025, dtype=torch.float64).exp()
    posterior = scaled_normal(scales)
    plain = posterior.diagnose(search=False)
    assert plain.ess < 0.5
    assert plain.verdict == "usable"
    assert math.isnan(plain.drift)
    found = posterior.diagnose()
    assert found.drift == pytest.approx(0.025, abs=0.06)  # its noise, the largest of 1,600
    assert found.verdict == "good"
    assert f"{found.drift:.2f} sd in chains, 0.001 nats a number" in str(found)
    assert found.decided.startswith("chains moved nothing by more than 0.09 sd")
    assert [part.vote for part in found.findings] == ["lifts"]  # 800 dimensions: no search


def test_chains_find_the_one_marginal_that_is_off():
    torch.manual_seed(0)
    scales = torch.full((800,), 0.025, dtype=torch.float64).exp()
    scales[7] = 0.8
    found = scaled_normal(scales).diagnose()
    assert found.drift == pytest.approx(-math.log(0.8), abs=0.05)
    assert found.verdict == "usable"


def test_a_wrong_shape_is_not_good_though_means_and_widths_are_right():
    """Of two numbers on a ring a normal guide knows mean and width, and nothing else."""

    def ring():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        pyro.factor("ring", -((z.norm(dim=-1) - 2.0) ** 2) / 0.8)

    guide = AutoFlowGuide(ring, "diag").setup()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ends = fit(ring, seed=0, progress=False).draws(10_000)["z"]
        guide.flow.move(ends.mean(0), ends.std(0).diag())
        found = Posterior(ring, guide).diagnose()
    assert found.drift < 0.09
    assert found.verdict == "usable"


def test_chains_that_stay_where_they_start_tell_nothing(monkeypatch):
    torch.manual_seed(0)
    posterior = scaled_normal(torch.full((800,), 0.025, dtype=torch.float64).exp())
    stuck = lambda density, flow, starts, **options: starts.repeat(25, 1)  # noqa: E731
    monkeypatch.setattr("pyro_nf.posterior.chain_drift.chains", stuck)
    found = posterior.diagnose()
    assert math.isnan(found.drift)
    assert found.verdict == "usable"


@pytest.mark.parametrize(
    ("shifts", "turns", "drift"),
    [
        ([0.02], 1, 0.02),
        ([0.3], 1, 0.3),
        ([0.12, 0.02, -0.02], 3, 0.04),  # after two, 0.07 is still too near to the mark
        ([0.1] * 9, TURNS, 0.1),
    ],
)
def test_chains_follow_each_other_where_noise_could_decide(monkeypatch, shifts, turns, drift):
    torch.manual_seed(0)
    posterior = scaled_normal(torch.ones(2, dtype=torch.float64))
    left = list(shifts)

    def moved(density, flow, starts, **options):
        return torch.randn(25 * len(starts), 2, dtype=torch.float64) + left.pop(0)

    monkeypatch.setattr("pyro_nf.posterior.chain_drift.chains", moved)
    with posterior._joint.scope():
        assert how_far(posterior._joint) == pytest.approx(drift, abs=0.025)
    assert len(shifts) - len(left) == turns


def test_chains_spare_a_guide_only_from_being_usable():
    log_weights = 3 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert diagnose(log_weights).verdict == "poor"
    assert voted(diagnose(log_weights), [STILL]).verdict == "poor"
    missing = torch.zeros(4000)
    for found in ([MISSED, STILL], [STILL, MISSED]):
        assert voted(diagnose(missing), found).verdict == "poor"


# ---------------------------------------------------------------- findings and their votes

STILL = Finding("drift", 0.02, "lifts", "0.02 sd", "chains moved nothing")
MOVED = Finding("drift", 0.3, "neutral", "0.3 sd")
MISSED = Finding("missed mass", 0.5, "spoils", "50 %", "there is more mass", "look elsewhere")


def weighed(verdict):
    """A diagnosis by weights alone: Pareto tails, of an index for each verdict."""
    index = {"good": 0.02, "usable": 0.6, "poor": 1.0}[verdict]
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = diagnose(-index * grid.log())
    assert found.verdict == verdict
    return found


@pytest.mark.parametrize("before", ["good", "usable", "poor"])
@pytest.mark.parametrize("found", [MISSED, STILL, MOVED], ids=lambda found: found.vote)
def test_each_vote(found, before):
    plain = weighed(before)
    after = voted(plain, [found])
    lifted = "good" if before == "usable" else before
    assert after.verdict == {"spoils": "poor", "lifts": lifted, "neutral": before}[found.vote]
    assert after.findings == (found,)
    if after.verdict == plain.verdict and found.vote != "spoils":
        assert (after.message, after.decided) == (plain.message, plain.decided)
    else:
        assert after.decided == found.decided
        assert after.message == (found.message or weighed("good").message)
    assert f"  decided by    {after.decided}\n" in str(after)
    assert f"  {found.name:<13} {found.words}" in str(after)
    assert repr(after) == str(after)
    same = ("k_hat", "ess", "elbo", "elbo_se", "log_evidence", "log_evidence_se", "n")
    assert all(getattr(after, name) == getattr(plain, name) for name in same)


def test_findings_by_name():
    found = voted(weighed("usable"), [MISSED, MOVED])
    assert (found.missed, found.drift) == (0.5, 0.3)
    assert math.isnan(weighed("usable").missed)
    assert math.isnan(weighed("usable").drift)


def test_of_what_spoils_the_weights_come_first():
    spoiled = torch.zeros(1000)
    spoiled[:50] = math.nan
    found = voted(diagnose(spoiled), [MISSED])
    assert found.message.startswith("5.0 % of the draws have no finite log density")
    assert found.decided == "5.0 % of the draws without a finite weight"
    assert [each.name for each in found.findings] == ["missed mass", "not finite"]
    spoiled[0] = math.inf
    assert diagnose(spoiled).decided == "weights that are infinite"
    few = torch.zeros(1000)
    few[0] = math.nan
    assert diagnose(few).findings[0].vote == "neutral"
    assert diagnose(few).decided.startswith("weights nearly equal, an effective share of 0.999")


DECIDED = {
    "weights nearly equal, an effective share of 0.995, and k-hat 0.60 below 0.70": (
        0.6,
        0.995,
        "good",
    ),
    "weights unequal, an effective share of 0.980, but k-hat 0.20 below 0.70": (
        0.2,
        0.98,
        "usable",
    ),
    "weights nearly equal, an effective share of 0.960, though k-hat 0.90": (0.9, 0.96, "usable"),
    "k-hat 0.90, not below 0.70": (0.9, 0.9, "poor"),
}


@pytest.mark.parametrize("sentence", DECIDED)
def test_each_rule_of_the_weights_is_said(sentence, monkeypatch):
    k_hat, ess, verdict = DECIDED[sentence]
    smoothed = dataclasses.replace(smooth(torch.zeros(1000)), k_hat=k_hat)
    monkeypatch.setattr("pyro_nf.posterior.diagnosis.smooth", lambda weights: smoothed)
    monkeypatch.setattr("pyro_nf.posterior.diagnosis.effective_share", lambda weights: ess)
    found = diagnose(torch.zeros(4000))
    assert (found.verdict, found.decided) == (verdict, sentence)
    assert found.corrects == (k_hat < 0.5)


def test_a_check_that_finds_nothing_leaves_the_verdict_to_the_weights():
    torch.manual_seed(0)
    whole = scaled_normal(torch.ones(2, dtype=torch.float64)).diagnose()
    assert whole.decided.startswith("weights nearly equal, an effective share of 1.000, and k-hat")
    assert [(found.name, found.vote) for found in whole.findings] == [("missed mass", "neutral")]


def test_another_check_is_a_function_in_a_list(monkeypatch):
    asked = []

    def third(case):
        asked.append(case)
        return Finding("mean", 7.0, "spoils", "7", "its mean is off", "move it")

    def fourth(case):
        return None

    monkeypatch.setattr("pyro_nf.posterior.diagnosis.CHECKS", (fourth, third))
    posterior = scaled_normal(torch.ones(2, dtype=torch.float64))
    assert posterior.diagnose(search=False).verdict == "good"
    assert not asked
    found = posterior.diagnose(500)
    (case,) = asked
    assert (case.verdict, len(case.log_p), len(case.log_q)) == ("good", 500, 500)
    assert case.joint is posterior._joint
    assert case.values["x"].shape == (500, 2)
    assert (found.verdict, found.message, found.decided) == ("poor", "move it", "its mean is off")
    assert "  mean          7" in str(found)


def test_nothing_is_looked_for_where_the_weights_find_great_fault(monkeypatch):
    monkeypatch.setattr(
        "pyro_nf.posterior.diagnosis.CHECKS", (lambda case: pytest.fail("it was looked for"),)
    )
    posterior = scaled_normal(torch.full((40,), 0.2, dtype=torch.float64))
    assert posterior.diagnose().verdict == "poor"


def batting(hits):
    """Of Beta densities that single numbers round to what a search takes for summits."""
    mean = pyro.sample("mean", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("players", len(hits)):
        chance = pyro.sample("chance", dist.Beta(mean * kappa, (1 - mean) * kappa))
        pyro.sample("hits", dist.Binomial(45, chance), obs=hits)


def test_a_search_believes_no_rounding():
    hits = torch.tensor([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7.0])
    posterior = fit(batting, hits, steps=400, seed=0, progress=False, refine=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # with which the guide's weights do not decide alone
        found = {each.name: each for each in posterior.diagnose().findings}
    assert found["missed mass"].value == 0.0
