"""The choice among the states of a run."""

import math

import torch

from pyro_nf.fitting.result import Trial, choose, unlike


def test_noise_counts_against_a_state():
    quiet, wild = torch.full((16,), 3.0), torch.tensor([2.0, 3.9] * 8)
    assert choose({"quiet": Trial(quiet, 0.0), "wild": Trial(wild, 0.0)}, batches=False) == "quiet"
    assert choose({"quiet": Trial(quiet, 9.0), "wild": Trial(wild, 0.0)}, batches=False) == "wild"


def test_of_batches_the_average_is_taken_unless_it_is_clearly_worse():
    torch.manual_seed(0)
    rows = 100 * torch.randn(64)  # which rows a batch has, the same for all states
    other = Trial(rows, 0.0)
    for excess, chosen in ((0.1, "the average of 9"), (5.0, "the best")):
        average = Trial(rows + excess + torch.randn(64), 0.0)
        assert choose({"the best": other, "the average of 9": average}, batches=True) == chosen


def test_a_state_whose_losses_are_mostly_not_finite_is_not_chosen():
    broken = Trial(torch.tensor([1.0, *[math.nan] * 15]), 0.0)
    sound = Trial(torch.full((16,), 50.0), 0.0)
    for batches in (False, True):
        scores = {"the average of 9": broken, "the last": sound}
        assert choose(scores, batches) == "the last"


def test_a_state_that_comes_again_is_tried_once():
    ends = {"one": torch.ones(2), "other": torch.tensor([1.0, 2.0]), "again": torch.ones(2)}
    assert list(unlike(ends)) == ["one", "other"]
