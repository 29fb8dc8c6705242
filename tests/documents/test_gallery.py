"""The gallery: a handful of its models are right, and sums by hand are those of enumeration."""

import math
from pathlib import Path

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

from pyro_nf import fit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SUMMED = ["coal", "dirichlet_process", "hmm", "mixed_hmm", "raters", "topics"]
SUMMED += ["cjs_1", "cjs_2", "cjs_3", "cjs_5"]
QUICK = ["golf", "poisson_wide", "rugged", "half_weight", "cjs_1"]


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("gallery")


@pytest.fixture
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_there_are_enough(gallery):
    assert len(gallery.ALL) >= 30
    refused = {name for name, make in gallery.ALL.items() if make().refused}
    stored = gallery.stored().keys()
    assert refused == {"counted_twice"}
    assert stored <= gallery.ALL.keys() - refused
    assert set(QUICK) <= stored
    assert {name for name in gallery.ALL if gallery.has_nuts(name)} >= {"schools", "mixed_hmm"}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", SUMMED)
def test_a_sum_by_hand_is_that_of_enumeration(gallery, name):
    written = gallery.ALL[name]()
    args = [gallery.as_tensors(value) for value in written.args]
    nodes = poutine.trace(written.twin).get_trace(*args)
    latents = {key: nodes.nodes[key]["value"] for key in nodes.stochastic_nodes}
    model = config_enumerate(poutine.condition(written.model, latents))
    loss = TraceEnum_ELBO(max_plate_nesting=2).loss(model, lambda *args: None, *args)
    assert -loss == pytest.approx(float(nodes.log_prob_sum()), rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_a_model_is_right(gallery, name):
    written = gallery.ALL[name]()
    posterior = fit(
        written.model, *written.args, steps=300, compile="quick", seed=0, progress=False
    )
    torch.manual_seed(0)
    found = gallery.numbers(written, posterior)
    # 0.04 is four standard errors of a mean of 10,000 draws, and as many of a log sd of normals.
    assert max(gallery.errors(found, gallery.stored()[name]["moments"])) < 0.06


def test_what_cannot_be_summed_is_refused(gallery):
    cells, said = gallery.row("counted_twice", 0, None)
    assert cells[2] == "refused"
    assert "'n'" in said


def test_errors(gallery):
    found = {"a": torch.randn(4000, 2, dtype=torch.float64) * 2 + 1}
    mean, log_sd = gallery.errors(found, {"a": [[1.0, 2.0], [2.0, 1.0]], "b": [[0.0], [1.0]]})
    assert mean == pytest.approx(1.0, abs=0.1)
    assert log_sd == pytest.approx(math.log(2), abs=0.1)
    with pytest.raises(KeyError, match="nothing to compare"):
        gallery.errors(found, {"b": [[0.0], [1.0]]})


def test_chains_that_do_not_mix_are_no_reference(gallery):
    written = gallery.ALL["poisson_wide"]()
    draws = {name: torch.randn(4, 200).numpy() for name in ("a", "b")}
    how = gallery.of_nuts(written, draws)["how"]
    assert how.startswith("NumPyro's NUTS, 4 chains of 200, R-hat 1.0")
    draws["a"][0] += 3
    with pytest.raises(RuntimeError, match="no reference: R-hat"):
        gallery.of_nuts(written, draws)


def test_a_fault_is_no_refusal(gallery, monkeypatch):
    def model():
        pyro.sample("x", "no distribution")

    monkeypatch.setitem(gallery.ALL, "faulty", lambda: gallery.Written(model))
    cells, said = gallery.row("faulty", 0, None)
    assert cells[2] == "RAISED"
    assert said
