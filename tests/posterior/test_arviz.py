"""What users do with a posterior in ArviZ, of either version: LOO, comparison, pictures, files."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf import fit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 tells of 1.0
    arviz = pytest.importorskip("arviz")

pytestmark = pytest.mark.filterwarnings("ignore")  # ArviZ's, of newer pandas and matplotlib

Y = torch.tensor([0.3, 1.2, -0.4, 0.8, 0.1])
NAMES = list("abcde")


def around(centre):
    def model(y):
        mean = pyro.sample("mean", dist.Normal(centre, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return model


@pytest.fixture(scope="module")
def data():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fits = {c: fit(around(c), Y, progress=False, seed=0) for c in (0.4, 4.0)}
        return {c: each.label({"row": NAMES}).to_arviz(1000) for c, each in fits.items()}


def exact(centre):
    """The log predictive density of all observations, each given the others."""
    n = len(Y)
    mean = (Y.sum() - Y + centre) / n
    return float(torch.distributions.Normal(mean, (1 + 1 / n) ** 0.5).log_prob(Y).sum())


def test_loo_is_that_of_the_formula(data):
    found = arviz.loo(data[0.4])
    elpd = found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd
    assert float(elpd) == pytest.approx(exact(0.4), abs=0.1)


def test_compare_puts_the_better_first(data):
    table = arviz.compare({"far": data[4.0], "near": data[0.4]})
    assert list(table.index) == ["near", "far"]


def test_a_netcdf_file_keeps_labels(data, tmp_path):
    pytest.importorskip("h5netcdf")
    data[0.4].to_netcdf(tmp_path / "posterior.nc")
    again = arviz.from_netcdf(tmp_path / "posterior.nc")
    assert [str(name) for name in again["observed_data"]["y"]["row"].values] == NAMES
    assert again["posterior"]["mean"].shape == data[0.4]["posterior"]["mean"].shape


def test_predictive_checks_are_drawn(data):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    draw = getattr(arviz, "plot_ppc", None) or arviz.plot_ppc_dist
    draw(data[0.4])
    pyplot.close("all")
