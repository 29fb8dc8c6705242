"""Tables: quantiles, narrowest intervals, and the error of a mean against its spread over runs."""

import pytest
import torch

from pyro_nf.posterior.summary import Columns, narrowest, summarize


def test_columns_are_those_that_were_asked_for():
    draws = {"x": torch.arange(101.0)}
    table = summarize(draws, Columns(levels=(0.25, 0.9), hdi=0.5))
    assert table.columns == ("mean", "sd", "25%", "90%", "hdi 50% from", "to", "mcse")
    assert table["x"]["25%"] == 25.0
    assert table["x"]["90%"] == 90.0


@pytest.mark.parametrize("columns", [{"levels": (0.0, 0.5)}, {"hdi": 94}, {"levels": (95,)}])
def test_what_is_no_share_is_refused(columns):
    with pytest.raises(ValueError, match="shares between 0 and 1"):
        Columns(**columns)


def test_the_narrowest_interval_of_an_exponential_starts_at_zero():
    draws = torch.distributions.Exponential(1.0).sample((200_000, 1))
    low, high = narrowest(draws, 0.9)
    assert float(low) < 0.01
    assert float(high) == pytest.approx(-torch.tensor(0.1).log().item(), abs=0.05)


def test_the_error_of_a_mean_is_its_spread_over_runs():
    # Chains of 50 draws that are nearly the same: the mean is that of 32 numbers, not of 1,600.
    def run():
        centre = torch.randn(32, 1)
        return (centre + 0.1 * torch.randn(32, 50)).flatten()

    tables = [summarize({"x": run()}, Columns(chains=32))["x"] for _ in range(400)]
    spread = torch.tensor([table["mean"] for table in tables]).std()
    told = torch.tensor([table["mcse"] for table in tables]).mean()
    assert float(told / spread) == pytest.approx(1.0, abs=0.12)  # 400 runs know it to 4 %
    alone = summarize({"x": torch.randn(10_000)})["x"]["mcse"]
    assert alone == pytest.approx(0.01, rel=0.05)


def test_the_error_of_corrected_draws_counts_their_proposals():
    from pyro_nf.posterior.corrected import Corrected
    from pyro_nf.sampling import effective_share, resampled

    # The weights of draws of N(0, 1) for N(0.7, 1), of which the effective share is exp(-0.49).
    means, told = [], []
    for _ in range(300):
        x = torch.randn(4000, dtype=torch.float64)
        log_weights = 0.7 * x
        kept = x[resampled(log_weights, 1000)]
        corrected = Corrected({"x": kept}, 0.3, effective_share(log_weights))
        columns = Columns(inflation=corrected.inflation(1000))
        table = summarize({"x": kept}, columns)["x"]
        means.append(table["mean"])
        told.append(table["mcse"])
    ratio = float(torch.tensor(told).mean() / torch.tensor(means).std())
    assert ratio == pytest.approx(1.0, abs=0.15)
