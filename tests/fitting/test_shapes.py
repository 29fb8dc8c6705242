"""Posteriors of small models of all shapes, from fit to file, against exact answers."""

import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.infer import Trace_ELBO
from torch import tensor
from torch.distributions import AffineTransform, constraints

from pyro_nf import Posterior, fit

pytestmark = pytest.mark.filterwarnings(
    "ignore:Singular sample detected"  # by torch's Wishart, of samples that are not
)
QUICK = {"seed": 0, "progress": False, "compile": "quick", "refine": False}


def checked(posterior, tmp_path):
    """Draws, after what any posterior must do."""
    n = 100
    draws = posterior.draws(4000)
    few = {name: value[:n] for name, value in draws.items()}
    density = posterior.log_prob(few)
    assert density.shape == (n,)
    assert density.isfinite().all()
    posterior.save(tmp_path / "posterior.pt")
    again = Posterior.load(
        tmp_path / "posterior.pt", posterior.model, *posterior.args, **posterior.kwargs
    )
    torch.testing.assert_close(again.log_prob(few), density)
    assert repr(again) == repr(posterior)
    rows = sum(shape.numel() for shape in posterior.shapes.values())
    assert len(posterior.summary(n).rows) == rows
    data = posterior.to_arviz(n)
    for name, value in draws.items():
        assert data["posterior"][name].shape == (1, n, *value.shape[1:])
    return draws


def close(numbers, exact, error):
    torch.testing.assert_close(numbers.mean(0).double(), exact.double(), atol=error, rtol=0.02)


def quadrature(log_density, grid):
    """The log evidence and the weights of points of an even grid."""
    log_p = log_density(grid)
    evidence = log_p.logsumexp(0)
    return float(evidence + (grid[1] - grid[0]).log()), (log_p - evidence).exp()


def normal_posterior(design, data, prior_variance, noise_variance):
    """Mean and covariance of coefficients with a normal prior, given y = design @ b + noise."""
    design, data = design.double(), data.double()
    identity = torch.eye(design.shape[1], dtype=torch.float64)
    precision = identity / prior_variance + design.mT @ design / noise_variance
    covariance = torch.linalg.inv(precision)
    return covariance @ design.mT @ data / noise_variance, covariance


# -------------------------------------------------------------------- matrices and angles

MIXING = tensor([[1.0, 0.8], [0.0, 0.6]])
PAIRS = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) @ MIXING


def log_multigamma(a, p):
    return p * (p - 1) / 4 * math.log(math.pi) + sum(math.lgamma(a - i / 2) for i in range(p))


def precision():
    matrix = pyro.sample("precision", dist.Wishart(tensor(4.0), torch.eye(2)))
    with pyro.plate("rows", len(PAIRS)):
        noise = dist.MultivariateNormal(torch.zeros(2), precision_matrix=matrix)
        pyro.sample("x", noise, obs=PAIRS)


def covariance():
    """The same, by the inverse-Wishart density of the covariance and a flat prior."""
    matrix = pyro.sample(
        "covariance", dist.ImproperUniform(constraints.positive_definite, (), (2, 2))
    )
    inverse = torch.linalg.inv(matrix)
    pyro.factor("prior", -3.5 * matrix.logdet() - inverse.diagonal().sum() / 2)
    with pyro.plate("rows", len(PAIRS)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), matrix), obs=PAIRS)


def factor():
    """The same, by the Cholesky factor of the precision: the Wishart's, by Bartlett."""
    flat = dist.ImproperUniform(constraints.lower_cholesky, (), (2, 2))
    lower = pyro.sample("factor", flat)
    density = dist.Wishart(tensor(4.0), torch.eye(2)).log_prob(lower @ lower.mT)
    stretch = math.log(4.0) + 2 * lower[0, 0].log() + lower[1, 1].log()
    pyro.factor("prior", density + stretch)
    noise = dist.MultivariateNormal(torch.zeros(2), precision_matrix=lower @ lower.mT)
    with pyro.plate("rows", len(PAIRS)):
        pyro.sample("x", noise, obs=PAIRS)


@pytest.mark.parametrize("model", [precision, covariance, factor])
def test_matrices_by_conjugacy(model, tmp_path):
    posterior = fit(model, **QUICK)
    diagnosis = posterior.diagnose()
    assert diagnosis.verdict == "good"
    draws = checked(posterior, tmp_path)
    inverse = torch.eye(2) + PAIRS.mT @ PAIRS
    scale, df = torch.linalg.inv(inverse), 4.0 + len(PAIRS)
    if model is covariance:
        close(draws["covariance"], inverse / (df - 3), 0.02)
        return
    matrices = draws.get("precision")
    if model is factor:
        matrices = draws["factor"] @ draws["factor"].mT
    close(matrices, df * scale, 0.05)
    spread = df * (scale.square() + scale.diagonal().outer(scale.diagonal()))
    torch.testing.assert_close(matrices.var(0), spread, rtol=0.1, atol=0.0)

    def constant(df, scale):
        return df * math.log(2) + df / 2 * float(scale.logdet()) + log_multigamma(df / 2, 2)

    exact = constant(df, scale) - constant(4.0, torch.eye(2)) - len(PAIRS) * math.log(2 * math.pi)
    assert diagnosis.log_evidence == pytest.approx(exact, abs=0.02)


def test_correlations_by_quadrature(tmp_path):
    def model():
        factor = pyro.sample("factor", dist.LKJCholesky(2, 2.0))
        with pyro.plate("rows", len(PAIRS)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=factor), obs=PAIRS)

    def log_density(r):  # of the off-diagonal: LKJ of 2 by 2 matrices is det^(eta - 1)
        quadratic = PAIRS.double().square().sum() - 2 * r * PAIRS.double().prod(-1).sum()
        square = 1 - r**2
        return (1 - len(PAIRS) / 2) * square.log() - quadratic / square / 2

    grid = torch.linspace(-0.9999, 0.9999, 20001, dtype=torch.float64)
    weights = quadrature(log_density, grid)[1]
    posterior = fit(model, seed=0, progress=False, compile=False, steps=20)
    assert posterior.diagnose().verdict == "good"
    draws = checked(posterior, tmp_path)["factor"]
    close(draws[:, 1, 0], (weights * grid).sum(), 0.005)


@pytest.mark.parametrize("loc", [0.3, -0.8])
def test_an_angle_by_quadrature(loc, tmp_path):
    data = loc + tensor([0.1, 0.3, -0.4])

    def model():
        angle = pyro.sample("angle", dist.VonMises(tensor(loc), 1.0))
        with pyro.plate("rows", len(data)):
            pyro.sample("x", dist.VonMises(angle, 2.0), obs=data)

    posterior = fit(model, **QUICK)
    diagnosis = posterior.diagnose()
    assert diagnosis.verdict == "good"
    grid = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)

    def log_density(angle):
        likelihood = dist.VonMises(angle, 2.0).log_prob(data.double().unsqueeze(-1)).sum(0)
        return dist.VonMises(tensor(loc).double(), 1.0).log_prob(angle) + likelihood

    evidence, weights = quadrature(log_density, grid)
    assert diagnosis.log_evidence == pytest.approx(evidence, abs=0.02)
    draws = checked(posterior, tmp_path)["angle"]
    assert draws.abs().max() < math.pi
    close(draws.cos(), (weights * grid.cos()).sum(), 0.02)
    close(draws.sin(), (weights * grid.sin()).sum(), 0.02)


@pytest.mark.parametrize("loc", [3.1, 2.4])
def test_an_angle_on_both_sides_of_the_cut(loc):
    """Of the second three per cent lie behind it."""

    def model():
        angle = pyro.sample("angle", dist.VonMises(tensor(loc), 5.0))
        pyro.sample("x", dist.VonMises(angle, 2.0), obs=tensor(-3.1))

    elbo = Trace_ELBO(
        num_particles=64, vectorize_particles=True
    )  # for which no modes are looked for
    diagnosis = fit(model, elbo=elbo, **QUICK, steps=200).diagnose()
    assert diagnosis.verdict == "poor"
    assert "'angle' is cut" in diagnosis.message


# -------------------------------------------------------------------- priors and predictions


def test_a_flat_prior_and_a_site_that_cannot_be_sampled(tmp_path):
    class OnlyScored(dist.TorchDistribution):
        """A normal distribution without a sampler."""

        support = constraints.real
        arg_constraints: ClassVar = {}

        def __init__(self, loc):
            self.loc = loc
            super().__init__(torch.Size(), torch.Size())

        def log_prob(self, value):
            return dist.Normal(self.loc, 1.0).log_prob(value)

    def model():
        mean = pyro.sample("mean", dist.ImproperUniform(constraints.real, (), ()))
        pyro.sample("seen", OnlyScored(mean), obs=tensor(1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=tensor([1.0, 2.0, 4.0]))

    posterior = fit(model, **QUICK)
    with pytest.warns(UserWarning, match="'seen'.*cannot be sampled"):
        draws = checked(posterior, tmp_path)
    close(draws["mean"], tensor(2.0), 0.02)
    with pytest.warns(UserWarning, match="'seen'.*cannot be sampled"):
        predicted = posterior.predict(4000)
    assert set(predicted) == {"x"}
    close(predicted["x"], torch.full((3,), 2.0), 0.05)
    close(predicted["x"].var(0), tensor(1.25), 0.1)


class Regression(ForecastingModel):
    def model(self, zero_data, covariates):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        self.predict(dist.Normal(0.0, 0.5), weight * covariates)


class LocalLevel(ForecastingModel):
    def model(self, zero_data, covariates):
        with self.time_plate:
            drift = pyro.sample("drift", dist.Normal(0.0, 0.3))
        self.predict(dist.Normal(0.0, 0.5), drift.cumsum(-1).unsqueeze(-1))


SERIES = tensor([0.4, 0.9, 0.6, 1.4, 1.8, 1.5]).unsqueeze(-1)
TIMES = torch.linspace(0.2, 1.8, 9).unsqueeze(-1)


@pytest.mark.parametrize("model", [Regression(), LocalLevel()], ids=["regression", "level"])
def test_forecasts_by_conditioning_normals(model, tmp_path):
    data, past = SERIES, len(SERIES)
    posterior = fit(model, data, TIMES[:past], **QUICK)
    assert posterior.diagnose().verdict == "good"
    checked(posterior, tmp_path)
    found = posterior.predict(8000, data, TIMES)
    assert found["forecast"].shape == (8000, 3, 1)
    times = TIMES.squeeze(-1).double()
    if isinstance(model, Regression):
        signal = times.outer(times)
    else:
        steps = torch.arange(1.0, 10.0, dtype=torch.float64)
        signal = 0.09 * torch.minimum(steps, steps.unsqueeze(-1))
        assert found["drift"].shape == (8000, 9)
        close(found["drift"][:, past:].var(0), tensor(0.09), 0.005)
    joint = signal + 0.25 * torch.eye(9, dtype=torch.float64)
    gain = joint[past:, :past] @ torch.linalg.inv(joint[:past, :past])
    mean = gain @ data.squeeze(-1).double()
    covariance = joint[past:, past:] - gain @ joint[:past, past:]
    forecasts = found["forecast"].squeeze(-1).double()
    close(forecasts, mean, 0.03)
    torch.testing.assert_close(forecasts.mT.cov(), covariance, atol=0.03, rtol=0.05)


# -------------------------------------------------------------------- plates, masks, parameters


def test_plates_that_overlap_and_missing_cells(tmp_path):
    """Effects of rows and columns of a table, of which some cells were not seen."""
    table = tensor([[1.0, 2.0, 0.5], [0.0, 1.5, -1.0]])
    seen = tensor([[True, False, True], [True, True, True]])

    def model(table, seen):
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            row = pyro.sample("row", dist.Normal(0.0, 1.0))
        with columns:
            column = pyro.sample("column", dist.Normal(0.0, 1.0))
        with rows, columns, poutine.mask(mask=seen):
            cell = pyro.deterministic("cell", row + column)
            pyro.sample("x", dist.Normal(cell, 0.5), obs=table)

    with pytest.raises(ValueError, match=r"'x' are NaN in 1 of 2 rows, the first at row 0.*nan_to"):
        fit(model, torch.where(seen, table, torch.nan), seen, **QUICK)
    posterior = fit(model, table, seen, **QUICK)
    assert posterior.shapes == {"row": (2, 1), "column": (3,)}
    assert posterior.diagnose().verdict == "good"
    draws = checked(posterior, tmp_path)
    effects = torch.cat([draws["row"].squeeze(-1), draws["column"]], -1)
    i, j = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    design = torch.cat([torch.eye(2)[i], torch.eye(3)[j]], -1)
    mean, covariance = normal_posterior(design[seen], table[seen], 1.0, 0.25)
    close(effects, mean, 0.03)
    torch.testing.assert_close(effects.mT.cov().double(), covariance, atol=0.03, rtol=0.05)
    predicted = posterior.predict(4000)
    assert predicted["x"].shape == predicted["cell"].shape == (4000, 2, 3)
    exact = design.double() @ covariance @ design.double().mT
    close(predicted["cell"], design.double() @ mean, 0.03)
    spread = predicted["x"].double().var(0)
    torch.testing.assert_close(spread, 0.25 + exact.diagonal(dim1=-2, dim2=-1), atol=0.06, rtol=0.0)
    data = posterior.to_arviz(50)
    assert data["posterior"]["row"].dims[2:] == ("rows", "row_dim_1")
    assert data["log_likelihood"]["x"].dims == ("chain", "draw", "rows", "columns")
    likelihood = torch.from_numpy(data["log_likelihood"]["x"].values)
    assert ((likelihood == 0).all(0).all(0) == ~seen).all()


def test_a_transformed_prior_in_nested_plates(tmp_path):
    """Groups within groups; the scale of the data is known, the prior's mean is affine."""
    data = tensor([[1.0, 2.0], [0.5, 1.5], [2.5, 3.0]]).unsqueeze(-1).expand(3, 2, 4).clone()
    data += 0.1 * torch.arange(4.0)

    def model(data):
        moved = [AffineTransform(1.0, 2.0)]
        whole = pyro.sample("whole", dist.TransformedDistribution(dist.Normal(0.0, 0.5), moved))
        with pyro.plate("schools", 2, dim=-2):
            school = pyro.sample("school", dist.Normal(0.0, 1.0))
            with pyro.plate("pupils", 4, dim=-1), pyro.plate("years", 3, dim=-3):
                pyro.sample("x", dist.Normal(whole + school, 1.0), obs=data)

    posterior = fit(model, data, **QUICK)
    assert posterior.diagnose().verdict == "good"
    draws = checked(posterior, tmp_path)
    found = torch.cat([draws["whole"].unsqueeze(-1) - 1.0, draws["school"].squeeze(-1)], -1)
    design = torch.cat([torch.ones(2, 1), torch.eye(2)], -1)
    sums = data.sum((0, 2)) - 12.0  # less the prior's mean
    mean, covariance = normal_posterior(
        design.repeat_interleave(12, 0), (sums / 12).repeat_interleave(12, 0), 1.0, 1.0
    )
    close(found, mean, 0.03)
    torch.testing.assert_close(found.mT.cov().double(), covariance, atol=0.02, rtol=0.05)
    assert posterior.predict(10)["x"].shape == (10, 3, 2, 4)


def test_a_parameter_of_the_model(tmp_path):
    """It comes to where the evidence is largest, and goes into the file with the guide."""
    data = tensor([1.0, 2.0, 4.0])

    def model(data):
        mean = pyro.param("mean", tensor(2.0))
        with pyro.plate("rows", len(data)):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data)

    posterior = fit(model, data, **QUICK)
    pyro.clear_param_store()
    draws = checked(posterior, tmp_path)
    close(draws["z"], (data + data.mean()) / 2, 0.03)
    assert list(pyro.get_param_store()) == ["mean"]
    assert pyro.param("mean").item() == pytest.approx(float(data.mean()), abs=0.02)


# -------------------------------------------------------------------- latents without a density


def chain(data, length, hide_latents):
    """A random walk, seen as far as `length`, as deep Markov models are written."""
    z = tensor(0.0)
    for t in range(len(data)):
        seen = tensor(t < length)
        with poutine.mask(mask=seen if hide_latents else True):
            z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
        with poutine.mask(mask=seen):
            pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=data[t])


def test_latents_that_a_mask_leaves_without_a_prior():
    data = tensor([1.0, 0.5, 9.0])
    with pytest.raises(ValueError, match=r"'z_2' is masked in 1 of 1 places.*Mask the observed"):
        fit(chain, data, 2, True, **QUICK)
    posterior = fit(chain, data, 2, False, **QUICK)
    draws = posterior.draws(4000)
    mean, _ = normal_posterior(torch.tril(torch.ones(3, 3))[:2], data[:2], 1.0, 1.0)  # of the steps
    close(draws["z_1"], mean[:2].sum(), 0.05)
    close(draws["z_2"], mean.sum(), 0.06)


def test_what_to_type_in_place_of_obs_mask():
    def model(x, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 3):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x, obs_mask=seen)

    words = r"'x_unobserved' is masked in 2 of 3 places.*poutine.mask\(mask=seen\): .*'x'"
    with pytest.raises(ValueError, match=words):
        fit(model, torch.ones(3), tensor([True, False, True]), **QUICK)


def test_a_mask_that_makes_a_prior_flat():
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).mask(False).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=tensor([3.0, 5.0]))

    posterior = fit(model, **QUICK)
    assert posterior.diagnose().verdict == "good"
    close(posterior.draws(4000)["z"], tensor([3.0, 5.0]), 0.06)


def test_a_point_mass_is_named_under_event_dimensions():
    def model():
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("twice", dist.Delta(2 * mean).to_event(1))

    with pytest.raises(ValueError, match=r"'twice' is a point mass.*pyro.deterministic"):
        fit(model, **QUICK)


def test_forgotten_data_are_told():
    def named(y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 2):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def other(data=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, 1.0), obs=data)

    for model, words in (
        (named, r"'y' is latent, since the argument 'y' is None.*fit\(model, ..., y=...\)"),
        (other, r"no site of the model is observed, and its argument 'data' is None"),
    ):
        with pytest.warns(UserWarning, match=words):
            fit(model, **QUICK, steps=20)


def test_a_plate_of_no_rows():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.raises(ValueError, match="the plate 'rows' has no rows"):
        fit(model, torch.zeros(0), **QUICK)
