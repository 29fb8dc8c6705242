"""What every test starts with: a seed, a generator that is given back, an empty parameter store."""

from collections.abc import Iterator

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_start() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pyro.clear_param_store()
        yield
        pyro.clear_param_store()
