"""What a log density costs."""

import math

import pytest
import torch

from pyro_nf.model.log_density import work


def test_work_counts_what_a_point_costs():
    def squares(times):
        return lambda u: sum((u * k).square().sum(-1) for k in range(1, times + 1))

    points = torch.randn(16, 3)
    one, ten = work(squares(1), points), work(squares(10), points)
    assert one >= 3 + 3 + 1  # products, squares and their sum; and the gradients
    assert 5 * one < ten < 20 * one
    assert work(squares(1), points[:4]) == pytest.approx(one, rel=0.2)
    assert work(lambda u: u.sum(-1) * float(u.sum()), points) == math.inf  # leaves the graph
