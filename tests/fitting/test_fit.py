"""fit: right on conjugate models, careful with failures, resumable, and quiet about itself."""

import copy
import functools
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_nf import AutoFlowGuide, fit
from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.run import Run
from pyro_nf.fitting.step import Step
from pyro_nf.model import blame

X = torch.tensor([[1.0, 0.2], [1.0, -1.0], [1.0, 0.7], [1.0, 1.5], [1.0, -0.4]])
Y = torch.tensor([1.0, -0.5, 1.4, 2.9, 0.3])
NOISE = 0.5


def regression(x, y):
    """Known noise and a normal prior: the posterior is normal."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("rows", len(y)):
        mean = (x * beta.unsqueeze(-2)).sum(-1) if beta.dim() == 1 else beta @ x.T
        mean = mean.squeeze(-2) if mean.dim() > 2 else mean
        pyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def exact():
    precision = torch.eye(2) / 4 + X.T @ X / NOISE**2
    covariance = precision.inverse()
    return covariance @ X.T @ Y / NOISE**2, covariance


def quiet(model, *data, **options):
    return fit(model, *data, **{"progress": False, "seed": 0, "refine": False} | options)


@pytest.mark.parametrize("compile", ["quick", False])
def test_the_posterior_of_a_conjugate_model(compile):
    steps = 600 if compile else 150
    posterior = quiet(regression, X, Y, flow="tril", steps=steps, compile=compile)
    mean, covariance = exact()
    draws = posterior.draws(20_000)["beta"]
    # Monte Carlo error of 20,000 draws is 0.007 sd in the mean; 0.05 leaves room for Adam's.
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() / sd).max() < 0.05
    # That of a covariance in units of the sds is 0.01, and Adam's noise adds as much again.
    assert ((draws.T.cov() - covariance) / torch.outer(sd, sd)).abs().max() < 0.05


def test_fit_stops_by_itself():
    exact = quiet(regression, X, Y, flow="tril")
    assert exact.message.startswith("stationary after 400 steps")
    # The posterior is correlated, so that this guide is never exact: it has all rounds.
    independent = quiet(regression, X, Y, guide=AutoDiagonalNormal(regression))
    assert independent.message.startswith("finished after 4,000 steps")
    late = independent.losses[-100:].mean()
    assert exact.losses[-100:].mean() < late < independent.losses[:10].mean()


def test_a_round_that_wins_nothing_is_the_last():
    start = init_to_value(values={"beta": exact()[0]})
    guide = AutoDiagonalNormal(regression, init_loc_fn=start, init_scale=0.01)
    posterior = quiet(regression, X, Y, guide=guide, lr=0.05)
    assert posterior.message.startswith("stationary after 2,000 steps")


def push(monkeypatch, at):
    """After so many steps, move all parameters."""
    block = Run._take_block

    def push_and_block(self):
        if len(self.losses) == at:
            self.step.set_parameters(self.step.parameters() + 3.0)
        block(self)

    monkeypatch.setattr(Run, "_take_block", push_and_block)


def test_a_run_that_strays_returns_to_its_best_state(monkeypatch):
    push(monkeypatch, 600)
    posterior = quiet(regression, X, Y, guide=AutoDiagonalNormal(regression))
    before, astray, after = posterior.losses[550:600], posterior.losses[600:650], posterior.losses
    assert float(astray.median()) > float(before.median()) + 10
    assert float(after[650:700].median()) < float(before.median()) + 0.2
    assert "1 returns to the best state" in posterior.message


def test_steps_that_fail_and_stray_return_once(monkeypatch):
    """A block of both is one event, which costs the rate one cut."""
    call, seen = Step.__call__, []

    def call_or_fail(self, lr):
        seen.append(lr)
        index = len(seen) - 1
        if 600 <= index < 650:
            return torch.tensor(math.nan if index < 640 else 1e6)
        return call(self, lr)

    monkeypatch.setattr(Step, "__call__", call_or_fail)
    posterior = quiet(regression, X, Y, guide=AutoDiagonalNormal(regression), steps=1_000)
    assert "40 steps were skipped; 1 returns to the best state" in posterior.message
    assert seen[650] == pytest.approx(
        RECIPE.shrink * RECIPE.lr * (1 + math.cos(0.65 * math.pi)) / 2
    )


def test_a_run_that_strays_while_it_is_annealed_returns_too(monkeypatch):
    push(monkeypatch, 300)
    options = {"anneal": "energy", "anneal_steps": 600, "steps": 1_500, "seed": 1}
    posterior = quiet(regression, X, Y, guide=AutoDiagonalNormal(regression), **options)
    losses = posterior.losses
    assert float(losses[300:350].median()) > float(losses[250:300].median()) + 10
    # Where the run was, with more weight on the energy.
    assert float(losses[350:400].median()) < float(losses[250:300].median()) + 3
    assert "1 returns to the best state" in posterior.message


def test_a_seed_gives_the_same_result_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    one = quiet(eight_schools, *EIGHT_SCHOOLS.data, steps=60)
    two = quiet(eight_schools, *EIGHT_SCHOOLS.data, steps=60)
    assert torch.equal(one.losses, two.losses)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_any_guide_may_be_given(guide):
    posterior = quiet(regression, X, Y, guide=guide(regression), steps=400, lr=0.05)
    mean, _ = exact()
    assert (posterior.draws(4000)["beta"].mean(0) - mean).abs().max() < 0.1


def test_a_hand_written_guide():
    def guide(x, y):
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        pyro.sample("beta", dist.Normal(loc, scale).to_event(1))

    quiet(regression, X, Y, guide=guide, steps=500, lr=0.05)
    assert (pyro.param("loc") - exact()[0]).abs().max() < 0.15


def test_a_guide_that_was_fitted_is_fitted_on():
    guide = AutoFlowGuide(regression, "diag")
    quiet(regression, X, Y, guide=guide, steps=300)
    posterior = quiet(regression, X, Y, guide=guide, steps=50)
    # The second run begins where the first ended: within noise of the optimum.
    assert posterior.losses[0] < posterior.losses.mean() + 1


def test_a_copy_of_a_guide_goes_on_with_new_data_and_the_posterior_stays():
    before = quiet(regression, X, Y, flow="diag", steps=300)
    beta = {"beta": torch.zeros(2)}
    density = before.log_prob(beta)
    guide = copy.deepcopy(before.guide)
    after = quiet(regression, X, Y + 0.1, guide=guide, steps=50)
    assert after.losses[0] < after.losses.mean() + 1
    assert torch.equal(before.log_prob(beta), density)


class TestUglyModels:
    """Each runs to the end, compiled or not, and says what it does not do."""

    def run(self, model, *data, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            posterior = quiet(model, *data, **{"steps": 30, "flow": "planar*2"} | options)
        assert posterior.losses.isfinite().any()
        assert posterior.message.startswith("finished")
        return posterior

    def test_control_flow_on_data(self):
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            for value in x:
                family = dist.Normal if value > 0 else dist.Laplace
                pyro.sample(f"x_{float(value)}", family(loc, 1.0), obs=value)

        self.run(model, torch.tensor([1.0, -2.0]))

    def test_control_flow_on_a_latent(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(x if (x > 0).all() else -x, 1.0), obs=torch.tensor(1.0))

        self.run(model)

    def test_enumerated_out(self):
        @config_enumerate
        def model(data):
            loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
            with pyro.plate("rows", len(data)):
                z = pyro.sample("z", dist.Categorical(torch.ones(2)))
                pyro.sample("x", dist.Normal(loc[..., z], 1.0), obs=data)

        guide = AutoFlowGuide(poutine.block(model, hide=["z"]), "planar")
        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        self.run(model, torch.tensor([-2.0, 2.0]), guide=guide, elbo=elbo, flow=None)

    def test_slices_that_a_plate_of_particles_misreads(self):
        """Under a plate of particles, `at[..., :1]` counts the data once for each of them."""
        posts, heard = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([3.8, 2.1, 2.9])

        def model():
            at = pyro.sample("at", dist.Normal(torch.zeros(2), 3.0).to_event(1))
            away = (posts - at[..., :1]).hypot(at[..., 1:])
            with pyro.plate("posts", 3):
                pyro.sample("heard", dist.Normal(away, 0.3), obs=heard)

        posterior = self.run(model)
        result = posterior.diagnose(1000, search=False)
        assert -posterior.losses[-1] == pytest.approx(result.elbo, abs=2.0)  # it was off by 40

    @pytest.mark.parametrize("make", [AutoNormal, AutoDelta, AutoDiagonalNormal])
    def test_rows_that_a_plate_of_particles_misreads_with_any_guide(self, make):
        """(n, 1, 4) @ (4, 40) is (n, 1, 40): each particle's likelihood would count n times."""
        x, y = torch.randn(40, 4), torch.bernoulli(torch.full((40,), 0.5))

        def model():
            beta = pyro.sample("beta", dist.Normal(torch.zeros(4), 2.0).to_event(1))
            with pyro.plate("rows", 40):
                pyro.sample("y", dist.Bernoulli(logits=beta @ x.T), obs=y)

        guide = make(model)
        posterior = fit(model, guide=guide, steps=200, seed=0, progress=False, refine=False)
        assert 20 < posterior.losses[-50:].mean() < 60  # 28 nats of coin tosses, and the prior

    def test_a_shape_that_depends_on_values_runs_eagerly(self):
        """A traced step would fail in most of its runs, and so drop them."""

        def model():
            x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            inside = x.abs() < 1
            pyro.factor("share", x[inside].square().sum())

        with pytest.warns(UserWarning, match="shape of what .* depends on values"):
            posterior = fit(model, particles=1, steps=50, seed=0, progress=False, refine=False)
        assert "skipped" not in posterior.message

    def test_a_sequential_plate(self):
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            for i in pyro.plate("rows", len(x)):
                pyro.sample(f"x_{i}", dist.Normal(loc, 1.0), obs=x[i])

        self.run(model, torch.randn(3))

    def test_a_bayesian_network(self):
        class Net(PyroModule):
            def __init__(self):
                super().__init__()
                self.linear = PyroModule[nn.Linear](2, 1)
                self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))

            def forward(self, x, y):
                mean = self.linear(x).squeeze(-1)
                with pyro.plate("rows", len(x)):
                    pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

        self.run(Net(), torch.randn(5, 2), torch.randn(5))

    def test_nested_plates_with_a_mask(self):
        def model(x, mask):
            with pyro.plate("columns", 3, dim=-1):
                loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
                with pyro.plate("rows", 4, dim=-2), poutine.mask(mask=mask):
                    pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        self.run(model, torch.randn(4, 3), torch.rand(4, 3) > 0.5)

    def test_a_factor(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.factor("half", -0.5 * x.square())

        self.run(model)

    def test_missing_entries(self):
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                known = ~x.isnan()
                pyro.sample("x", dist.Normal(loc, 1.0).mask(known), obs=x.nan_to_num())

        self.run(model, torch.tensor([1.0, torch.nan, 2.0]))

    def test_a_model_that_calls_numpy(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            shift = torch.tensor(np.tanh(x.detach().numpy()), dtype=x.dtype)
            pyro.sample("y", dist.Normal(x + shift, 1.0), obs=torch.tensor(1.0))

        self.run(model)

    @pytest.mark.parametrize("compile", ["quick", False])
    def test_a_model_that_raises_now_and_then(self, compile):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            off = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
            covariance = torch.eye(2) + x[..., None, None] * off  # of no factor for |x| >= 1
            y = dist.MultivariateNormal(torch.zeros(2), covariance_matrix=covariance)
            pyro.sample("y", y, obs=torch.tensor([0.5, -0.2]))

        posterior = self.run(model, particles=4, steps=100, compile=compile)
        assert 0 < posterior.losses.isnan().sum() < 50
        assert "skipped" in posterior.message
        assert (posterior.guide.median()["x"].abs() < 1).all()

    def test_minus_infinity_at_the_start(self):
        def model(x):
            width = pyro.sample("width", dist.LogNormal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Uniform(0.0, width, validate_args=False), obs=x)

        self.run(model, torch.tensor([2.0, 3.0]), steps=200)

    def test_one_latent_and_no_data(self):  # Pyro itself refuses a plate of size zero
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            rows = loc.unsqueeze(-1).expand(*loc.shape, len(x))
            pyro.sample("x", dist.Normal(rows, 1.0).to_event(1), obs=x)

        self.run(model, torch.zeros(0))


class TestFailures:
    def test_nan_in_the_data_names_the_site(self):
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        x = torch.zeros(10_000)
        x[3::10] = torch.nan
        for guide in (None, AutoNormal(model)):
            with pytest.raises(
                ValueError, match=r"'x' are NaN in 1,000 of 10,000 rows, .* row 3\."
            ):
                quiet(model, x, guide=guide)
        assert not list(pyro.get_param_store())

    def test_nan_as_a_distribution_for_missing_values_takes_it(self):
        class Missing(dist.Normal):
            def log_prob(self, value):
                return torch.where(value.isnan(), 0.0, super().log_prob(value.nan_to_num()))

        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", Missing(loc, 1.0, validate_args=False), obs=x)

        posterior = quiet(model, torch.tensor([1.0, torch.nan, 2.0]), steps=20)
        assert posterior.draws(1000)["loc"].mean() == pytest.approx(1.0, abs=0.1)

    def test_a_density_that_is_not_finite_says_where(self):
        def model():
            with pyro.plate("rows", 1000):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                high = torch.arange(1000) >= 600
                pyro.factor("wall", torch.where(high, -math.inf, 0.0) * z.exp())

        guide = AutoNormal(model)
        guide()
        words = blame(model, guide, (), {})
        assert "'wall' has a log density that is not finite in 400 of 1,000 rows" in words
        assert "the first at row 600" in words
        assert len(words) < 400

    def test_a_parameter_without_gradient_is_named(self):
        def model():
            unused = pyro.param("unused", torch.tensor(1.0))
            pyro.sample("x", dist.Normal(unused.detach(), 1.0))

        with pytest.warns(UserWarning, match="no gradient reaches unused"):
            quiet(model, steps=20, flow="diag", compile=False)

    def test_a_step_that_cannot_be_compiled_says_so_once(self):
        def model():
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            if (x > 10).all():
                raise ValueError("unreachable")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            quiet(model, steps=20, flow="diag")
        (slow,) = caught
        assert re.search(
            "one draw at a time.*after the site 'x'.*decides what is run.*torch.where.*"
            "cannot be compiled and runs eagerly",
            str(slow.message),
        )
        assert slow.filename == __file__

    def test_a_subsampled_plate_is_told_in_warning_and_message(self):
        def model(x):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("rows", len(x), subsample_size=5) as rows:
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x[rows])

        for guide in (None, AutoNormal(model)):
            with pytest.warns(UserWarning, match="random, of a subsample.*fit.*batches="):
                posterior = quiet(model, torch.arange(20.0), guide=guide, steps=20, compile=False)
            assert re.search("random, of a subsample.*fit.*batches=", posterior.message)

    def test_a_step_that_inductor_cannot_take_is_not_compiled_again(self, monkeypatch, change):
        def full(graph, inputs):
            tries.append(graph)
            raise RuntimeError("no C++ compiler")

        def model():
            pyro.sample("x", dist.Normal(0.0, 1.0))

        tries = []
        monkeypatch.setattr("pyro_nf.engines.full", full)
        change(compile_seconds=(0.0, 0.0))  # it always repays
        posterior = quiet(model, guide=AutoNormal(model), steps=500)
        assert posterior.message.startswith("finished after 500 steps (quick)")
        assert len(tries) == 1

    def test_ctrl_c_returns_what_there_is(self):
        calls = []

        def model():
            calls.append(1)
            if len(calls) == 120:
                raise KeyboardInterrupt
            pyro.sample("x", dist.Normal(0.0, 1.0))

        posterior = quiet(
            model, guide=AutoNormal(model), elbo=Trace_ELBO(), compile=False, steps=500
        )
        assert posterior.message.startswith("interrupted after")
        assert 0 < len(posterior.losses) < 120

    @pytest.mark.parametrize("stage", ["AutoFlowGuide.whiten", "chain_pool.ChainPool.explore"])
    def test_ctrl_c_before_the_first_step_returns_the_start(self, stage, monkeypatch, tmp_path):
        def stopped(*_):
            raise KeyboardInterrupt

        where = "pyro_nf.guides.auto_flow." if "whiten" in stage else "pyro_nf.fitting."
        monkeypatch.setattr(where + stage, stopped)
        path = tmp_path / "fit.pt"
        posterior = quiet(regression, X, Y, checkpoint=path)
        assert posterior.message.startswith("interrupted after 0 steps")
        assert posterior.draws(3)["beta"].isfinite().all()
        monkeypatch.undo()
        assert quiet(regression, X, Y, checkpoint=path).message.startswith("stationary")

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"steps": 0}, ValueError, "steps must be 1 or more"),
            ({"steps": 1.5}, TypeError, "steps must be an int"),
            ({"particles": 0}, ValueError, "particles must be 1 or more"),
            ({"lr": -1.0}, ValueError, "lr must be a positive"),
            ({"lr": float("nan")}, ValueError, "lr must be a positive"),
            ({"compile": "fast"}, ValueError, "compile must be"),
            ({"flow": "planet"}, ValueError, "did you mean 'planar'"),
            ({"flow": "diag", "guide": lambda: None}, ValueError, "either a guide or a flow"),
        ],
    )
    def test_bad_options(self, options, error, match):
        with pytest.raises(error, match=match):
            quiet(eight_schools, *EIGHT_SCHOOLS.data, **options)


class TestCheckpoints:
    def test_a_resumed_fit_ends_where_an_unbroken_one_ends(self, tmp_path, monkeypatch, change):
        options = {"steps": 300, "compile": "quick", "flow": "planar*2"}
        whole = quiet(regression, X, Y, **options)
        path = tmp_path / "fit.pt"
        change(save_every=0.0)
        stop = 150

        class StopError(Exception):
            pass

        after_block = Run._after_block

        def stopping(self):
            after_block(self)
            if len(self.losses) == stop:
                raise StopError

        monkeypatch.setattr(Run, "_after_block", stopping)
        with pytest.raises(StopError):
            quiet(regression, X, Y, checkpoint=path, **options)
        monkeypatch.setattr(Run, "_after_block", after_block)
        resumed = quiet(regression, X, Y, checkpoint=path, **options)
        assert torch.equal(resumed.losses, whole.losses)
        state, expected = resumed.guide.state_dict(), whole.guide.state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        again = quiet(regression, X, Y, checkpoint=path, **options)
        assert torch.equal(again.losses, whole.losses)

    def test_a_file_of_another_fit_is_refused(self, tmp_path):
        path = tmp_path / "fit.pt"
        quiet(regression, X, Y, steps=20, flow="diag", checkpoint=path)
        with pytest.raises(ValueError, match="of another fit"):
            quiet(regression, X, Y + 1, steps=20, flow="diag", checkpoint=path)
        with pytest.raises(ValueError, match="of another fit"):
            quiet(regression, X, Y, steps=20, flow="tril", checkpoint=path)

    def test_a_foreign_file_is_refused(self, tmp_path):
        path = tmp_path / "fit.pt"
        path.write_bytes(b"not a checkpoint")
        with pytest.raises(ValueError, match="no checkpoint of pyro_nf"):
            quiet(regression, X, Y, steps=20, checkpoint=path)
        assert path.read_bytes() == b"not a checkpoint"

    def test_a_path_that_cannot_be_written_costs_a_warning(self, tmp_path):
        path = tmp_path / "missing" / "fit.pt"
        with pytest.warns(UserWarning, match="cannot be written"):
            posterior = quiet(regression, X, Y, steps=20, flow="diag", checkpoint=path)
        assert posterior.draws(2)["beta"].shape == (2, 2)

    def test_a_kill_leaves_a_file_that_can_be_resumed(self, tmp_path):
        """The full run over 20 random moments is benchmarks/kills.py."""
        script = tmp_path / "run.py"
        script.write_text(
            "import dataclasses, sys\n"
            "from pyro_nf import fit\n"
            "from pyro_nf.fitting import recipe\n"
            "recipe.RECIPE = dataclasses.replace(recipe.RECIPE, save_every=0.0)\n"
            "from pyro_nf.examples import EIGHT_SCHOOLS, eight_schools\n"
            "posterior = fit(eight_schools, *EIGHT_SCHOOLS.data, steps=2000, seed=0, flow='diag',\n"
            "                compile='quick', progress=False, checkpoint=sys.argv[1])\n"
            "print(posterior.losses.sum().item())\n"
        )
        command = [sys.executable, str(script)]
        path = tmp_path / "killed.pt"
        process = subprocess.Popen([*command, str(path)])
        try:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.02)
            time.sleep(0.1)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert 0 < len(torch.load(path, weights_only=True)["state"]["losses"]) < 2000
        ends = [
            subprocess.run([*command, str(name)], check=True, capture_output=True, text=True).stdout
            for name in (path, tmp_path / "whole.pt")
        ]
        assert ends[0] == ends[1]


def test_a_second_guide_of_pyros_leaves_the_first_as_it_is():
    """Pyro names its autoguides by their class, and so they would share their parameters."""

    def model(mean):
        pyro.sample("x", dist.Normal(mean, 1.0))

    options = {"steps": 300, "lr": 0.05, "seed": 0, "progress": False}
    first = fit(model, 0.0, guide=AutoDiagonalNormal(model), **options)
    before = first.guide.median()["x"].clone()
    second = fit(model, 5.0, guide=AutoDiagonalNormal(model), **options)
    assert torch.equal(first.guide.median()["x"], before)
    assert second.guide.median()["x"].item() == pytest.approx(5.0, abs=0.5)


def test_an_own_keyword_of_the_models_is_refused_with_what_to_type():
    def model(x, steps):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([steps]).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x)

    x = torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"argument 'steps', and so has fit.*functools\.partial"):
        fit(model, x, steps=2, progress=False)
    with pytest.raises(ValueError, match="argument 'steps'"):
        fit(model, x, progress=False)
    bound = functools.partial(model, steps=2)
    assert fit(bound, x, steps=20, progress=False).shapes == {"z": torch.Size([2])}
    assert fit(model, x, 3, steps=20, progress=False).shapes == {"z": torch.Size([3])}


def test_a_keyword_with_a_default_is_left_to_the_model_unless_it_is_asked_for():
    def model(x, batch_size=None):
        assert batch_size is None
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    assert len(fit(model, torch.tensor(0.5), steps=20, progress=False).losses) == 20


@pytest.mark.parametrize("dim", [1, 2, 106])
def test_a_guide_without_a_formula_is_that_of_fit_and_no_warning_is_told(dim):
    def model():
        pyro.sample("x", dist.Normal(torch.zeros(dim), 1.0).to_event(1))

    plain = AutoFlowGuide(model).setup()  # warnings are errors here
    fitted = fit(model, steps=1, progress=False, compile=False).guide
    assert plain.formula == fitted.formula
    assert [type(layer) for layer in plain.flow] == [type(layer) for layer in fitted.flow]


def test_float64_data_under_float32_priors_have_the_posterior_of_float32_data():
    """As the columns of a data frame are, where the model itself can take them."""
    x = torch.linspace(-1, 1, 30)
    y = 0.5 + 2 * x + 0.3 * torch.sin(40 * x)

    def model(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(level + slope * x, noise), obs=y)

    clean, mixed = (
        fit(model, x.to(kind), y.to(kind), seed=0, progress=False)
        for kind in (torch.float32, torch.float64)
    )
    expected, found = clean.draws(4000), mixed.draws(4000)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        gap = (found[name].mean() - value.mean()) / value.std()
        assert abs(float(gap)) < 0.1  # four standard errors of a difference of 4,000 draws
    assert mixed.diagnose().verdict == "good"


@pytest.mark.parametrize("given", ["frame", "array", "list", "batches"])
def test_a_data_frame_is_fitted_as_clean_tensors_are(given):
    x = np.random.default_rng(0).normal(size=(40, 2))
    frame = pd.DataFrame(x, columns=["one", "two"])
    frame["y"] = 1 * frame.one - 2 * frame.two

    def model(x, y=None):
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", 40, subsample_size=len(x)):
            pyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)

    design, outcome = frame[["one", "two"]], frame["y"]
    data = {
        "frame": (design, outcome),
        "array": (design.to_numpy(), outcome.to_numpy()),
        "list": (design.to_numpy().tolist(), outcome.tolist()),
        "batches": (design, outcome),
    }[given]
    clean = torch.tensor(x).float(), torch.tensor(outcome.to_numpy()).float()
    options = {"steps": 5, "seed": 0, "compile": False, "progress": False}
    if given == "batches":
        expected = fit(model, batches=clean, batch_size=20, **options)
        found = fit(model, batches=data, batch_size=20, **options)
    else:
        expected, found = fit(model, *clean, **options), fit(model, *data, **options)
    # A frame is one matrix column by column, of which products round differently.
    assert torch.allclose(found.losses, expected.losses, rtol=1e-4)
    assert found.args[0].dtype == torch.float32
    new = pd.DataFrame({"one": [1, 0, 3], "two": [1, 2, 0]})
    assert found.predict(4, new.iloc[:1])["y"].shape == (4, 1)


def test_batches_of_a_loader_get_the_latents_dtype():
    rows = torch.utils.data.TensorDataset(torch.linspace(-1, 1, 20, dtype=torch.float64))

    def model(x):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("rows", 20, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(torch.ones(len(x), 1) @ mean, 1.0), obs=x)
            assert x.dtype == torch.float32

    loader = torch.utils.data.DataLoader(rows, batch_size=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit of few steps
        posterior = fit(model, batches=loader, steps=4, seed=0, compile=False, progress=False)
    assert posterior.losses.isfinite().all()


def test_a_guide_in_plain_svi_says_which_dtypes_do_not_go_together():
    def model(x):
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x @ b, 1.0).to_event(1), obs=torch.zeros(len(x)))

    with pytest.raises(TypeError, match=r"given x as torch.float64, its latents are torch.float32"):
        AutoFlowGuide(model)(torch.ones(3, 2, dtype=torch.float64))
