"""The README's code runs as pasted, also twice in one process."""

import re
from pathlib import Path

import pytest
import torch

from pyro_nf.flows import formula as registry

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)


@pytest.fixture
def _registry(monkeypatch):
    monkeypatch.setattr(registry, "_FLOWS", dict(registry._FLOWS))


@pytest.mark.usefixtures("_registry")
def test_every_block_runs_in_order(capsys):
    names = {"__name__": "__main__"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert "AutoFlowGuide(planar*8 + diag, D=10, 188 parameters)" in capsys.readouterr().out


def test_the_first_block_may_run_twice(capsys):
    """As a notebook cell that is run again: the second guide must train, too."""
    for _ in range(2):
        names = {"__name__": "__main__"}
        exec(compile(BLOCKS[0], "README.md", "exec"), names)
        losses = torch.tensor(names["losses"])
        # The optimum is -31.36 nats; the start, mu and tau at their prior medians, above 40.
        assert losses[-50:].mean() < 32.5
        assert losses[:5].mean() > losses[-50:].mean() + 1


def test_there_are_two_commands():
    main, tests = COMMANDS
    assert main.endswith(".venv/bin/pyro-nf fit eight_schools")
    assert tests.endswith(".venv/bin/pytest")
