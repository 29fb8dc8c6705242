"""Random states are given back, those of NumPy and Python too."""

import numpy as np
import pyro
import torch

from pyro_nf.randomness import kept_random_state


def test_kept_random_state():
    def draws():
        return torch.randn(3).tolist(), np.random.randn(3).tolist()  # noqa: NPY002

    pyro.set_rng_seed(7)
    expected = draws()
    pyro.set_rng_seed(7)
    with kept_random_state():
        draws()
    assert draws() == expected
