"""What a log density costs."""

import math

import pytest
import torch

from pyro_nf.model.log_density import scored, soon_traced, work


def test_work_counts_what_a_point_costs():
    def squares(times):
        return lambda u: sum((u * k).square().sum(-1) for k in range(1, times + 1))

    points = torch.randn(16, 3)
    one, ten = work(squares(1), points), work(squares(10), points)
    assert one >= 3 + 3 + 1  # products, squares and their sum; and the gradients
    assert 5 * one < ten < 20 * one
    assert work(squares(1), points[:4]) == pytest.approx(one, rel=0.2)
    assert work(lambda u: u.sum(-1) * float(u.sum()), points) == math.inf  # leaves the graph


def test_a_log_density_runs_a_few_times_and_then_as_a_graph():
    calls = []

    def cubes(u):
        calls.append(len(u))
        return u.pow(3).sum(-1)

    scores = soon_traced(cubes, 2)
    for _ in range(6):
        for count in (1, 5):  # each has its own graph
            u = torch.randn(count, 2)
            for found, expected in zip(scores(u), scored(cubes, u), strict=True):
                torch.testing.assert_close(found, expected)
    own = len(calls) - 12  # those of the comparison above left out
    assert 4 <= own < 12
