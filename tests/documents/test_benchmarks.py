"""The benchmarks of gradients, tails, hierarchies, bridges and second fits run, on little."""

import functools
from pathlib import Path

import pytest

from pyro_nf import fit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_gradients(monkeypatch):
    import gradients

    from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools

    for name, value in {"STEPS": 20, "TIMED": 5, "REPEATS": 20, "MANY": 100}.items():
        monkeypatch.setattr(gradients, name, value)

    def model():
        eight_schools(*EIGHT_SCHOOLS.data)

    ratio, counts, results, gaps = gradients.compared(model, "planar*2", 0)
    assert 0 < ratio < 1
    assert counts["total"] >= counts["path"] == 20
    assert set(results) == set(gaps) == {"path", "total"}


@pytest.mark.parametrize("name", ["location", "scales", "funnel"])
def test_tails(monkeypatch, name):
    import tails

    monkeypatch.setattr(tails, "fit", functools.partial(fit, steps=20))
    monkeypatch.setattr(tails, "MANY", 1000)
    elbo, _, spread, _ = tails.judged(getattr(tails, name), "diag", 0)
    assert -10 < elbo < 1e-3  # the densities are normalised, and the funnel is met
    assert (spread > 0) == (name == "funnel")


@pytest.mark.parametrize("name", ["horseshoe", "nested", "poisson", "parabola"])
def test_hierarchies(monkeypatch, name):
    import hierarchies

    from pyro_nf.guides import auto_flow as guide

    untied = guide.untied
    monkeypatch.setattr(hierarchies, "DRAWS", 1000)
    model = hierarchies.models()[name]
    kept, free = (float(hierarchies.judged(model, keep, 0, 20)[0]) for keep in (True, False))
    assert free > kept
    assert guide.untied is untied


def test_warm():
    import warm

    row = warm.raced(None, warm.OWN, {"compile": "quick", "steps": 20})
    assert len(row) == len(warm.HEAD)
    assert row[-1] == "yes"


def test_calibration(monkeypatch):
    import calibration

    monkeypatch.setattr(calibration, "SIZES", ((100, 10),))
    lines = calibration.table(seeds=1)
    assert lines[2].startswith("| ranks, 100 simulations, 10 numbers | 0 |")
    assert lines[3] == "| fits, 300 simulations, 5 numbers | 0 | 1 | 1 |"


def test_comparison(capsys):
    import comparison

    assert comparison.counted(seeds=1).startswith("gap above 3: ")
    assert capsys.readouterr().out.startswith("| 0 | line |")


@pytest.mark.parametrize(("name", "log_z"), [("seeds", -73.40), ("funnel", 0.0), ("modes", 1.62)])
def test_bridges(monkeypatch, name, log_z):
    import bridges

    monkeypatch.setattr(bridges, "fit", functools.partial(fit, steps=50))
    monkeypatch.setattr(bridges, "DRAWS", 2000)
    row = bridges.row(name, bridges.TARGETS[name](None), "diag", 2, 0, 0)
    found = dict(zip(bridges.HEAD, row, strict=True))
    elbo, evidence = (float(found[key].split()[0]) for key in ("ELBO", "log Z"))
    assert elbo - 0.01 < log_z < elbo + 3
    assert abs(evidence - log_z) < 1
