"""A limit on the time of a fit: its round ends by then at a rate of zero, and nothing is lost."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_nf import fit
from pyro_nf.fitting import deadline as module
from pyro_nf.fitting.deadline import Deadline
from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.schedule import Schedule

OPTIONS = {"seed": 0, "compile": False, "progress": False, "refine": False}


def model():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0), obs=torch.tensor(2.0))


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_round_ends_by_then_at_a_rate_of_zero(clock):
    schedule = Schedule.of(RECIPE, 0.1, None, 0)
    deadline = Deadline(10.0)
    deadline.took(1.0, 10)
    schedule.cut(20, deadline.steps)
    assert (schedule.end, schedule.is_cut, deadline.is_over) == (120, True, False)
    assert schedule.rate(120) == 0 < schedule.rate(119) < 1e-4
    clock[0] = 101.0
    deadline.took(1.0, 100)  # compiled
    schedule.cut(30, deadline.steps)
    assert (schedule.end, schedule.is_cut) == (RECIPE.rounds[0], False)
    clock[0] = 111.0
    schedule.cut(40, deadline.steps)
    assert (schedule.end, schedule.is_cut, deadline.is_over) == (41, True, True)


def test_of_a_given_number_of_steps_it_lets_none_be_more(clock):
    schedule = Schedule.of(RECIPE, 0.1, 70, 20)
    deadline = Deadline(10.0)
    deadline.took(1.0, 3)
    schedule.cut(50, deadline.steps)
    assert schedule.end == 70
    assert not schedule.is_cut
    deadline.took(1.0, 1)
    schedule.cut(50, deadline.steps)
    assert schedule.end == 60


def test_without_a_limit_nothing_is_cut():
    schedule = Schedule.of(RECIPE, 0.1, None, 0)
    deadline = Deadline(None)
    deadline.took(1e9, 1)
    schedule.cut(0, deadline.steps)
    assert schedule.end == RECIPE.rounds[0]
    assert not deadline.is_over


def test_a_fit_whose_time_is_out_returns_what_it_has():
    posterior = fit(model, seconds=1e-6, **OPTIONS)
    assert posterior.message.startswith("out of time after 1 steps")
    assert posterior.draws(10)["x"].isfinite().all()


def test_a_limit_that_is_not_met_changes_nothing():
    expected, found = fit(model, **OPTIONS), fit(model, seconds=1e6, **OPTIONS)
    assert torch.equal(found.losses, expected.losses)
    assert found.message == expected.message


def test_the_next_call_with_its_checkpoint_goes_on(tmp_path):
    path = tmp_path / "fit"
    first = fit(model, steps=60, seconds=1e-6, checkpoint=path, **OPTIONS)
    second = fit(model, steps=60, seconds=1e6, checkpoint=path, **OPTIONS)
    assert torch.equal(second.losses[:1], first.losses)
    assert len(second.losses) == 60
    assert second.message.startswith("finished after 60 steps")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), "60"])
def test_what_is_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be a positive number, got"):
        fit(model, seconds=seconds)
