"""Ranks of known faults: what is found, what is not, and what is said of it."""

import pytest
import torch

from pyro_nf.studies.calibration import LIKELIHOOD, Calibration

NUMBERS, SIMULATIONS = 10, 300
SEEDS = range(10)


def ranks(seed, shift=0.0, width=1.0, shape=(SIMULATIONS, NUMBERS)):
    """Those of standard normal true values among 199 draws that are off by as many deviations."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(shape, generator=generator)
    draws = shift + width * torch.randn(199, *shape, generator=generator)
    return (draws < true).sum(0)


def calibration(seed, **fault):
    """With a log likelihood of which the ranks are uniform."""
    likely = ranks(100 + seed, shape=(SIMULATIONS,))
    return Calibration({"x": ranks(seed, **fault), LIKELIHOOD: likely}, 199)


@pytest.mark.parametrize("seed", SEEDS)
def test_right_fits_are_inside(seed):
    found = calibration(seed)
    assert found.verdict == "calibrated"
    assert "± 0.06 sd" in found.message  # 1 / sqrt(300)


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_that_are_ten_per_cent_too_narrow_are_found(seed):
    found = calibration(seed, width=0.9)
    assert found.verdict == "off"
    assert "too narrow on average" in found.message
    assert found.table[found.worst]["width"] < 1


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_that_are_shifted_are_found(seed):
    found = calibration(seed, shift=0.2)
    assert found.verdict == "off"
    assert "shifted, by 0.2" in found.message or "shifted, by 0.1" in found.message
    assert found.table[found.worst]["shift"] > 0


def test_shift_and_width_are_those_of_the_draws():
    table = calibration(0, shift=-0.3, width=1.4).table
    values = torch.tensor([[table[f"x[{k}]"][c] for c in ("shift", "width")] for k in range(10)])
    # The error of a mean of 3,000 normal numbers is 0.02, of their log width 0.013.
    assert values.mean(0).tolist() == pytest.approx([-0.3, 1.4], abs=0.06)


def test_one_number_of_many_is_named():
    rank = ranks(0)
    rank[:, 3] = ranks(1, shift=1.0, shape=(SIMULATIONS,))
    found = Calibration({"x": rank}, 199)
    assert found.worst == "x[3]"
    assert found.table.rows[0] == "x[3]"
    assert "of 10 numbers leave their band" in found.message
    assert "worst is x[3]: its draws are 0.9" in found.message


def test_a_fault_without_shift_or_width_is_found_by_the_band():
    # True values of which the scores have mean 0 and mean square 1, in two heaps.
    rank = torch.where(torch.arange(SIMULATIONS) % 2 == 0, 31, 168)
    rank = rank + torch.randint(-5, 6, (SIMULATIONS,))
    found = Calibration({"x": rank}, 199)
    assert found.found == ("the ranks of 1 of 1 numbers leave their band",)


def test_numbers_that_depend_on_one_another_do_no_harm():
    # Ten copies of one number say no more than that number, which is right.
    wrong = sum(
        Calibration({"x": ranks(seed, shape=(SIMULATIONS, 1)).expand(-1, NUMBERS)}, 199).verdict
        == "off"
        for seed in range(20)
    )
    assert wrong <= 1


def test_coverage_counts_true_values_in_central_intervals():
    found = Calibration({"x": torch.arange(200)}, 199)
    shares = [float(found.coverage(share)) for share in (0.5, 0.8, 0.95)]
    assert shares == [0.5, 0.8, 0.95]
    outermost = Calibration({"x": torch.tensor([0, 4, 5, 194, 195, 199])}, 199)
    assert float(outermost.coverage(0.95)) == pytest.approx(2 / 6)


def test_failures_and_warnings_are_told():
    found = Calibration({"x": ranks(0)}, 199, failed=("FitError: no start",), warned=("slow",) * 3)
    text = str(found)
    assert "1 of 301 simulations failed" in text
    assert "FitError: no start" in text
    assert "3 of the fits warned; the first: slow" in text
    assert "<p>3 of the fits warned" in found._repr_html_()
    assert found._repr_html_().count("<tr>") == 1 + NUMBERS


def test_the_picture_names_what_is_outside():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    rank = ranks(0)
    rank[:, 3] = ranks(1, shift=1.0, shape=(SIMULATIONS,))
    figure = Calibration({"x": rank}, 199).plot()
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert "x[3]" in labels
    assert "leave the band" in figure.axes[0].get_title()
    pyplot.close(figure)
