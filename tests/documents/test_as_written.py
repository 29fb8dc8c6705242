"""The two forms of each model of as_written.py are one model, and its rows are made."""

import functools
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from pyro_nf import Posterior

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ["linear", "logistic", "groups", "funnel", "process", "path", "module"]
POINTS = 3


@pytest.fixture
def as_written(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("as_written")


@pytest.fixture
def _quick(as_written, monkeypatch):
    judged = functools.partialmethod(Posterior.diagnose, search=False)
    monkeypatch.setattr(Posterior, "diagnose", judged)
    monkeypatch.setattr(as_written, "DRAWS", 200)


@pytest.fixture
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def latents(model, data):
    """The latent sites of a run, its plates left out."""
    nodes = poutine.trace(model).get_trace(*data).nodes
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
    }


def density(model, data, values):
    return poutine.trace(poutine.condition(model, values)).get_trace(*data).log_prob_sum()


def under_a_plate(model, data, points):
    """The sum of the log densities of points that the model runs with together."""
    sites = latents(model, data)
    nodes = poutine.trace(model).get_trace(*data).nodes.values()
    frames = [frame for node in nodes for frame in node.get("cond_indep_stack", ())]
    nesting = max((-frame.dim for frame in frames), default=0)
    values = {}
    for name, site in sites.items():
        together = torch.stack([point[name] for point in points])
        ones = (1,) * (nesting + site["fn"].event_dim - site["value"].dim())
        values[name] = together.reshape(POINTS, *ones, *site["value"].shape)
    with pyro.plate("points", POINTS, dim=-1 - nesting):
        return density(model, data, values)


def test_these_are_all(as_written):
    assert list(as_written.PAIRS) == NAMES


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", NAMES)
def test_both_have_one_density_and_one_takes_a_plate(as_written, name):
    written, plated, data = as_written.PAIRS[name]()
    assert all(part.dtype in (torch.float64, torch.int64) for part in data)
    points = []
    for _ in range(POINTS):
        points.append({key: site["value"] for key, site in latents(written, data).items()})
    assert {key: value.shape for key, value in points[0].items()} == {
        key: site["value"].shape for key, site in latents(plated, data).items()
    }
    singly = [float(density(written, data, point)) for point in points]
    assert [float(density(plated, data, point)) for point in points] == pytest.approx(
        singly, rel=1e-10, abs=1e-5
    )
    total = pytest.approx(sum(singly), rel=1e-10, abs=1e-5)
    assert float(under_a_plate(plated, data, points)) == total
    try:
        found = float(under_a_plate(written, data, points))
    except (RuntimeError, ValueError, IndexError):
        return
    assert found != total


@pytest.mark.usefixtures("_quick")
def test_a_row(as_written):
    notes = []
    row = as_written.row("linear", repeats=1, seed=0, steps=5, notes=notes)
    cells = dict(zip(as_written.HEAD, row.cells, strict=True))
    assert (cells["model"], cells["D"]) == ("linear", "10")
    assert row.ratio > 0
    assert float(cells["gap"]) < 1
    assert cells["vectorized"].endswith("yes")
    assert cells["warnings"].endswith(", none")
    assert (cells["warnings"] == "none, none") == (not notes)


@pytest.mark.usefixtures("_quick")
def test_warnings_are_told(as_written, monkeypatch):
    def fit(*args, **options):
        warnings.warn("the model runs in a loop", stacklevel=1)
        return real(*args, **options)

    real, pair = as_written.fit, as_written.linear()
    monkeypatch.setattr(as_written, "fit", fit)
    monkeypatch.setitem(as_written.PAIRS, "linear", lambda: pair._replace(written=pair.plated))
    notes = ["something else"]
    row = as_written.row("linear", repeats=1, seed=0, steps=2, notes=notes)
    assert row.cells[-1] == "2, 2"
    assert notes == ["something else", "the model runs in a loop"]
    assert as_written.gap(*row.draws) == 0.0


def test_gap(as_written):
    first = {"a": torch.randn(1000, 2), "b": torch.randn(1000)}
    second = {"a": first["a"] + torch.tensor([0.0, 0.5]), "b": first["b"]}
    assert as_written.gap(first, second) == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("name", ["linear", "groups"])
def test_a_row_of_a_data_frame(as_written, name):
    cells = dict(zip(as_written.FRAME_HEAD, as_written.frame_row(name, 0, 2), strict=True))
    assert "float64" in cells["columns"]
    assert ("int64" in cells["columns"]) == (name == "groups")
    assert float(cells["gap of means"]) < 5e-4
    assert float(cells["of log sd"]) < 5e-4
