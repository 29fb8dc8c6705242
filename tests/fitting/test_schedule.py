"""Rounds of a falling rate, and when there are enough of them."""

import math

import torch

from pyro_nf.fitting.recipe import RECIPE
from pyro_nf.fitting.schedule import Schedule

ROUNDS = RECIPE.rounds


def noisy(count, loss, spread):
    """Losses around a value."""
    generator = torch.Generator().manual_seed(count)
    return (loss + spread * torch.randn(count, generator=generator)).tolist()


def test_the_rate_falls_to_zero_in_each_round():
    schedule = Schedule.of(RECIPE, 0.1, None, 0)
    assert schedule.rate(0) == 0.1
    assert schedule.rate(ROUNDS[0] // 2) == 0.05
    assert schedule.rate(schedule.end - 1) < 1e-4
    schedule.advance(to_last=False)
    assert (schedule.turn, schedule.length) == ROUNDS[:2]
    assert schedule.rate(schedule.turn) == 0.1
    schedule.advance(to_last=False)
    assert schedule.is_last
    assert schedule.end == sum(ROUNDS)


def test_the_last_round_may_follow_the_first():
    schedule = Schedule.of(RECIPE, 0.1, None, 0)
    schedule.advance(to_last=True)
    assert schedule.is_last
    assert schedule.end == ROUNDS[0] + ROUNDS[-1]


def test_given_steps_are_one_round():
    schedule = Schedule.of(RECIPE, 0.1, 70, 20)
    assert (schedule.turn, schedule.end, schedule.is_last) == (0, 70, True)


def test_the_rate_stays_while_a_weight_rises():
    schedule = Schedule.of(RECIPE, 0.1, None, 300)
    assert schedule.rate(299) == schedule.rate(300) == 0.1
    assert schedule.end == 300 + ROUNDS[0]


def test_constant_log_weights_leave_nothing_to_win():
    # With 64 particles a log weight varies by 64 times the variance of a loss.
    schedule = Schedule.of(RECIPE, 0.1, None, 0)
    assert schedule.is_exact(noisy(400, 3.0, 0.01), 64)
    assert not schedule.is_exact(noisy(400, 3.0, 0.02), 64)
    rare = noisy(400, 3.0, 0.001)
    rare[-7] += 0.2  # a draw far out, for which the guide has too little mass
    assert not schedule.is_exact(rare, 64)
    rare[-7] = math.nan
    assert not schedule.is_exact(rare, 64)


def test_a_round_that_wins_nothing_is_idle():
    schedule = Schedule.of(RECIPE, 0.1, None, 0)
    first = noisy(ROUNDS[0], 3.0, 0.1)
    assert not schedule.is_idle(first)  # there is none to compare it with
    schedule.advance(to_last=False)
    assert schedule.is_idle(first + noisy(ROUNDS[1], 3.0, 0.1))
    assert not schedule.is_idle(first + noisy(ROUNDS[1], 2.9, 0.1))
    # Of wild losses the noise counts: the medians' standard error is 0.15 here.
    assert schedule.is_idle(noisy(ROUNDS[0], 3.0, 1.0) + noisy(ROUNDS[1], 2.95, 1.0))
