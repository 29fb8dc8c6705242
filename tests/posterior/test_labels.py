"""Names of dimensions and places: given, and found in what a model takes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_nf import Posterior, fit
from pyro_nf.posterior.labels import Labels

NAMES = ("Choate", "Deerfield", "Exeter")


def model(y, x=None):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    slopes = pyro.sample("slopes", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("school", 3):
        effect = pyro.sample("effect", dist.Normal(slopes.sum(), scale))
        pyro.sample("y", dist.Normal(effect, 1.0), obs=y)


def posterior_of(*args):
    guide = AutoNormal(model)
    guide(Y)
    return Posterior(model, guide, *args)


Y = torch.tensor([0.1, 0.2, -0.3])


@pytest.fixture(scope="module")
def posterior():
    with torch.random.fork_rng():
        return posterior_of(Y)


def test_dimensions_without_a_name_have_that_of_their_site():
    labels = Labels({"x": ["plate"]}, {"plate": ["a", "b"]})
    assert labels.of("x", (2, 3)) == ["plate", "x_dim_1"]
    assert list(labels.numbers("x", (2, 1))) == ["x[a,0]", "x[b,0]"]
    assert list(labels.numbers("other", ())) == ["other"]
    assert list(labels.numbers("other", (2,))) == ["other[0]", "other[1]"]


def test_labels_are_in_tables_and_arviz_and_the_first_posterior_stays(posterior):
    named = posterior.label({"school": NAMES, "slope": ["age", "dose"]}, {"slopes": ["slope"]})
    rows = named.summary(100).rows
    assert set(rows) == {
        "scale",
        *("slopes[age]", "slopes[dose]"),
        *(f"effect[{name}]" for name in NAMES),
    }
    assert "effect[0]" in posterior.summary(100).rows
    assert named.summary(100, sites=["slopes"]).rows == ("slopes[age]", "slopes[dose]")
    pytest.importorskip("arviz")
    data = named.to_arviz(20)
    assert data["posterior"]["effect"].dims == ("chain", "draw", "school")
    assert list(data["posterior"]["effect"]["school"].values) == list(NAMES)
    assert list(data["posterior"]["slopes"]["slope"].values) == ["age", "dose"]
    for group in ("posterior_predictive", "log_likelihood", "observed_data"):
        assert list(data[group]["y"]["school"].values) == list(NAMES)


def test_labels_are_in_pictures(posterior):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = posterior.label({"school": NAMES}).plot("pairs", n=50, sites=["effect"])
    names = {axes.get_xlabel() for axes in figure.axes}
    assert names >= {f"effect[{name}]" for name in NAMES}
    pyplot.close(figure)


def test_a_file_keeps_them(posterior, tmp_path):
    posterior.label({"school": NAMES}).save(tmp_path / "posterior")
    again = Posterior.load(tmp_path / "posterior", model, Y, guide=AutoNormal(model))
    assert "effect[Exeter]" in again.summary(100).rows


@pytest.mark.parametrize(
    ("coords", "dims", "words"),
    [
        ({"school": ["a"]}, None, "'school' has 3 places, and coords 1"),
        ({"pupil": ["a"]}, None, "no dimension is called 'pupil'; there are .*school"),
        (None, {"slope": ["a"]}, "dims has a site 'slope'; the sites are"),
        (None, {"slopes": ["a", "b"]}, "expected a list of a name for each dimension"),
        (None, {"slopes": "slope"}, "expected a list"),
    ],
)
def test_what_does_not_fit_is_refused(posterior, coords, dims, words):
    with pytest.raises(ValueError, match=words):
        posterior.label(coords, dims)


# -------------------------------------------------------------------- found


def labels_of(*args):
    return posterior_of(*args).labels.coords


def test_an_index_of_the_data_tells_of_their_dimension():
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(Y.numpy(), index=list(NAMES))
    assert labels_of(series) == {"school": NAMES}


def test_an_index_tells_of_the_dimension_that_has_its_name():
    pandas = pytest.importorskip("pandas")
    index = pandas.Index([2019, 2020, 2021], name="school")
    other = pandas.Series([1.0, 2.0, 3.0], index=index)
    assert labels_of(Y, other) == {"school": (2019, 2020, 2021)}
    assert labels_of(Y, other.rename_axis("year")) == {}  # as long, perhaps by accident


@pytest.mark.parametrize("index", [[0, 1, 2], ["a", "a", "b"]])
def test_counts_and_labels_that_come_twice_tell_nothing(index):
    pandas = pytest.importorskip("pandas")
    assert labels_of(pandas.Series(Y.numpy(), index=index)) == {}


def test_dates_are_words():
    pandas = pytest.importorskip("pandas")
    days = pandas.Series(Y.numpy(), index=pandas.date_range("2024-01-01", periods=3))
    assert labels_of(days)["school"][0].startswith("2024-01-01")


def test_coordinates_of_xarray_tell_of_their_dimension():
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray([5.0, 6.0, 7.0], {"school": list(NAMES)}, ["school"])
    assert labels_of(Y, array) == {"school": NAMES}


def test_fit_sees_them_too():
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(Y.numpy(), index=list(NAMES))
    posterior = fit(model, series, steps=1, refine=False, compile=False, progress=False)
    assert posterior.labels.coords == {"school": NAMES}
