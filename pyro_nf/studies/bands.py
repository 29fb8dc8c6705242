"""The band that holds the empirical distribution function of uniform numbers, all of it at once."""

import math

import torch
from torch import Tensor

__all__ = ["Band"]

HALVINGS = 12  # of the search for the level, on a log scale
SLACK = 4  # times the number of points by which that of one point is smaller, at most


class Band:
    r"""The counts of n uniform numbers below each of some points.

    With N_j of them below :math:`z_j = j / K`, each count is binomial. Its level is the chance of
    one as far out,

    .. math:: 2 \min(P(\mathrm{Bin}(n, z_j) \le N_j), P(\mathrm{Bin}(n, z_j) \ge N_j)).

    The counts are a Markov chain, :math:`N_{j+1} - N_j \sim \mathrm{Bin}(n - N_j, 1 / (K - j))`, by
    which the chance that all of them stay above a level is summed up exactly.

    References:
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (Säilynoja, Bürkner and Vehtari, 2022)
        https://arxiv.org/abs/2103.10522

    Arguments:
        n: The number of uniform numbers.
        points: The number K.

    Attributes:
        z: The points, with shape ``(K - 1,)``.

    Example:
        >>> band = Band(100, 20)
        >>> low, high = band.limits(band.level_of(0.05))
        >>> int(low[9]), int(high[9])  # of 100 numbers below a half
        (37, 63)
    """

    def __init__(self, n: int, points: int) -> None:
        self.n = n
        self.z = torch.arange(1, points, dtype=torch.float64) / points
        self._log_factorial = torch.lgamma(torch.arange(1, n + 2, dtype=torch.float64))
        density = self._binomial(torch.arange(n + 1), torch.tensor(n), self.z.unsqueeze(-1))
        self._below = density.cumsum(-1)  # P(Bin <= k), with shape (K - 1, n + 1)
        self._above = density.flip(-1).cumsum(-1).flip(-1)  # P(Bin >= k)
        self._first = density[0]

    def counts(self, u: Tensor) -> Tensor:
        """How many of n numbers, of shape ``(n, *shape)``, are below each point, with shape
        ``(*shape, K - 1)``."""
        return (u.unsqueeze(-1) < self.z).sum(0)

    def levels(self, counts: Tensor) -> Tensor:
        """The smallest level of all points, of counts with shape ``(*shape, K - 1)``."""
        at = counts.unsqueeze(-1)
        below, above = (
            table.expand(*counts.shape, -1).gather(-1, at).squeeze(-1)
            for table in (self._below, self._above)
        )
        return 2 * torch.minimum(below, above).amin(-1)

    def limits(self, level: float) -> tuple[Tensor, Tensor]:
        """The least and the largest count at each point that have at least this level."""
        low = (self._below < level / 2).sum(-1)
        high = (self._above >= level / 2).sum(-1) - 1
        return low, high

    def chance(self, level: float) -> float:
        """The chance that all points have at least this level."""
        low, high = self.limits(level)
        now = torch.arange(int(low[0]), int(high[0]) + 1)
        mass = self._first[now]
        for j in range(1, len(self.z)):
            share = (self.z[j] - self.z[j - 1]) / (1 - self.z[j - 1])
            then = torch.arange(int(low[j]), int(high[j]) + 1)
            more = then - now.unsqueeze(-1)  # with shape (now, then)
            mass = mass @ self._binomial(more, self.n - now.unsqueeze(-1), share)
            now = then
        return float(mass.sum())

    def level_of(self, alpha: float) -> float:
        """The level that some point falls short of with chance alpha."""
        low, high = math.log(alpha / (SLACK * len(self.z))), math.log(alpha)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self.chance(math.exp(middle)) < 1 - alpha:
                high = middle
            else:
                low = middle
        return math.exp(low)

    def _binomial(self, k: Tensor, n: Tensor, p: Tensor) -> Tensor:
        """The chance of k out of n."""
        possible = (k >= 0) & (k <= n)
        k = torch.where(possible, k, 0)
        choices = self._log_factorial[n] - self._log_factorial[k] - self._log_factorial[n - k]
        density = choices + torch.xlogy(k, p) + torch.xlogy(n - k, 1 - p)
        return torch.where(possible, density.exp(), 0.0)
