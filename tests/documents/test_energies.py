"""The benchmark of the four energies: its constants, and that it runs."""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def energies(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("energies")


def test_log_z_is_that_of_quadrature(energies):
    side = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)
    for energy in energies.ENERGIES.values():
        log_z = energy(z).logsumexp(0) + 2 * torch.log(side[1] - side[0])
        assert log_z.item() == pytest.approx(energy.log_z, abs=1e-5)


def test_regions_are_of_some_size(energies):
    for energy, count in zip(energies.ENERGIES.values(), (2, 3, 4, 3), strict=True):
        found = energies.true_shares(energy)
        assert len(found) == count
        assert found.sum().item() == pytest.approx(1.0)
        assert found.min() > 0.05


def test_it_runs(energies, capsys, tmp_path):
    file = tmp_path / "energies.png"
    options = ["--energies", "U1", "U4", "--flows", "planar*2", "diag", "--seeds", "0", "1"]
    small = ["--steps", "20", "--draws", "1000", "--picture", str(file)]
    energies.main([*options, *small])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| U")]
    assert [row.split()[1] for row in rows] == ["U1", "U1", "U4", "U4"]
    assert all(0 < float(row.split("|")[3]) < 100 for row in rows)
    assert file.stat().st_size > 10_000
