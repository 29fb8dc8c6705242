"""The built-in model: eight schools, with its data and reference posterior."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["EIGHT_SCHOOLS", "Example", "eight_schools"]


def eight_schools(effect: Tensor, error: Tensor) -> None:
    r"""Effects of coaching in eight schools, which resemble each other to an unknown degree.

    .. math::
        \mu \sim N(0, 5), \quad \tau \sim \mathrm{HalfCauchy}(5), \quad z_j \sim N(0, 1), \quad
        y_j \sim N(\mu + \tau z_j, \sigma_j)

    References:
        Estimation in Parallel Randomized Experiments (Rubin, 1981)
        https://doi.org/10.3102/10769986006004377

    Arguments:
        effect: The estimated effects :math:`y`, with shape ``(J,)``.
        error: Their standard errors :math:`\sigma`, with shape ``(J,)``.

    Example:
        >>> from pyro_nf import AutoFlowGuide
        >>> AutoFlowGuide(eight_schools, "planar*8").setup(*EIGHT_SCHOOLS.data)
        AutoFlowGuide(planar*8 + diag, D=10, 188 parameters)
    """
    mu = pyro.sample("mu", dist.Normal(torch.zeros_like(error[0]), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5 * torch.ones_like(error[0])))
    with pyro.plate("schools", len(effect)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(error[0]), 1.0))
        theta = pyro.deterministic("theta", mu + tau * z, event_dim=0)
        pyro.sample("effect", dist.Normal(theta, error), obs=effect)


@dataclass(frozen=True)
class Example:
    """A model's data and the posterior that long runs of MCMC have found for it.

    Attributes:
        data: What the model takes.
        mean: The posterior means of each latent site.
        sd: The posterior standard deviations of each latent site.
    """

    data: tuple[Tensor, ...]
    mean: dict[str, Tensor]
    sd: dict[str, Tensor]


# The reference: 10,000 draws of NUTS, thinned by 10, published in posteriordb (BSD 3-clause) as
# eight_schools-eight_schools_noncentered; https://github.com/stan-dev/posteriordb
EIGHT_SCHOOLS = Example(
    data=(
        torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
        torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
    ),
    mean={
        "mu": torch.tensor(4.411),
        "tau": torch.tensor(3.602),
        "z": torch.tensor([0.290, 0.085, -0.093, 0.077, -0.168, -0.066, 0.366, 0.086]),
    },
    sd={
        "mu": torch.tensor(3.309),
        "tau": torch.tensor(3.198),
        "z": torch.tensor([0.992, 0.933, 0.976, 0.927, 0.928, 0.940, 0.952, 0.973]),
    },
)
