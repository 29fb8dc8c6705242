"""What the ranks of true values among draws say of the fits that have made these."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_nf.posterior import Summary, components
from pyro_nf.studies.bands import Band
from pyro_nf.studies.ecdf import ecdf

__all__ = ["DRAWS", "LIKELIHOOD", "Calibration"]

DRAWS = 199  # of each fit; a true value then has one of 200 ranks
POINTS = 100  # at which the distribution of the ranks is looked at
ALPHA = 0.003  # the chance that right fits are called off; benchmarks/calibration.py counts them
COVERAGES = (0.5, 0.8, 0.95)
FLIPS = 4000  # of signs
SURE = 2  # standard errors from which a fault is named
LIKELIHOOD = "log likelihood"
SHOWN = 10  # rows of the table that is printed


@dataclass(frozen=True)
class Calibration:
    r"""Whether fits are right on average over data that the model makes.

    Where they are, the rank of a true value among the draws is uniform. Of the rank r among n draws
    come :math:`u = (r + 1/2) / (n + 1)` and :math:`s = \Phi^{-1}(u)`, a normal number then. Three
    things are looked for, each with a chance of 0.001 to be found in right fits:

    - the distribution of u of some number leaves its simultaneous band (:class:`Band`; the band is
      as wide as so many numbers ask for);
    - the draws are shifted: the sum of :math:`\bar s^2` over all numbers is larger than with
      random signs of the simulations;
    - they are too narrow or too wide: so is the sum of :math:`\overline{(s - \bar s)^2} - 1` over
      all numbers.

    The signs belong to a simulation as a whole, so that dependence between numbers does no harm.

    Attributes:
        ranks: For each site, and for the log likelihood, how many of the draws are below the true
            value, from 0 to `draws`, with shape ``(simulations, *shape)``; ties are broken at
            random.
        draws: The number of draws of each fit.
        failed: What was said by the fits that failed, whose simulations the ranks lack.
        warned: What was warned of, fit by fit, by those that warned.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> ranks = torch.randint(0, 200, (100, 2), generator=generator)  # as of right fits
        >>> Calibration({"theta": ranks}, draws=199).verdict
        'calibrated'
        >>> print(Calibration({"theta": ranks // 2}, draws=199).message)
        the ranks of 2 of 2 numbers leave their band; ... its draws are ... sd too high and ...
    """

    ranks: Mapping[str, Tensor]
    draws: int
    failed: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()

    # ---------------------------------------------------------------- numbers

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all numbers."""
        return tuple(
            part for name, rank in self.ranks.items() for part in components(name, rank.shape[1:])
        )

    @cached_property
    def u(self) -> Tensor:
        """The ranks of all numbers as shares, with shape ``(simulations, numbers)``."""
        flat = torch.cat(
            [rank.flatten(1) if rank.dim() > 1 else rank[:, None] for rank in self.ranks.values()],
            1,
        )
        return (flat.double() + 0.5) / (self.draws + 1)

    @cached_property
    def scores(self) -> Tensor:
        """Their normal scores s."""
        return torch.special.ndtri(self.u)

    @cached_property
    def band(self) -> Band:
        """The band of one number."""
        return Band(len(self.u), POINTS)

    @cached_property
    def levels(self) -> Tensor:
        """For each number the level of the point of its distribution that is farthest out."""
        return self.band.levels(self.band.counts(self.u))

    @cached_property
    def level(self) -> float:
        """The level that is found in one of all numbers with a chance of 0.001."""
        return self.band.level_of(ALPHA / 3 / len(self.names))

    # ---------------------------------------------------------------- the verdict

    @cached_property
    def found(self) -> tuple[str, ...]:
        """What is wrong, in words; empty if nothing was found."""
        latent = torch.tensor([name != LIKELIHOOD for name in self.names])
        scores = self.scores[:, latent]
        found = []
        outside = int((self.levels < self.level).sum())
        if outside:
            found.append(f"the ranks of {outside} of {len(self.names)} numbers leave their band")
        if _chance(scores) < ALPHA / 3:
            size = float(scores.mean(0).square().mean().sqrt())
            found.append(f"the draws are shifted, by {size:.2f} sd (root mean square)")
        excess = ((scores - scores.mean(0)).square() - 1).mean(1, keepdim=True)
        if _chance(excess) < ALPHA / 3:
            found.append(f"the draws are {_width((1 + float(excess.mean())) ** -0.5)} on average")
        return tuple(found)

    @property
    def verdict(self) -> Literal["calibrated", "off"]:
        """Whether nothing was found."""
        return "off" if self.found else "calibrated"

    @property
    def worst(self) -> str:
        """The number of which the ranks are farthest from uniform."""
        return self.names[int(self.levels.argmin())]

    def coverage(self, share: float) -> Tensor:
        """How many true values lie in the central interval with this share of the draws, for each
        number, as a share of the simulations."""
        return ((self.u - 0.5).abs() < share / 2).double().mean(0)

    @cached_property
    def table(self) -> Summary:
        """A row for each number, the worst first.

        Shift is that of the draws in posterior standard deviations, width theirs over what it
        should be, both by the scores s; then come shares of true values in central intervals, and
        the level, to be compared with the attribute of this name.
        """
        width = 1 / self.scores.std(0)
        shift = -width * self.scores.mean(0)
        columns = [shift, width, *map(self.coverage, COVERAGES), self.levels]
        order = self.levels.argsort(stable=True)
        names = ("shift", "width", *(f"in {share:.0%}" for share in COVERAGES), "level")
        rows = tuple(self.names[place] for place in order.tolist())
        return Summary(rows, names, torch.stack(columns, -1)[order])

    # ---------------------------------------------------------------- words and pictures

    @property
    def message(self) -> str:
        """The verdict in words, and the worst number."""
        n = len(self.u)
        if not self.found:
            text = f"nothing is wrong that {n} simulations could show"
            more = (
                f"; the shift of a number is known to ± {1 / math.sqrt(n):.2f} sd, its width to "
                f"± {1 / math.sqrt(2 * n):.0%}"
            )
            return text + more
        return f"{'; '.join(self.found)}; the worst is {self.worst}: its draws are {self._worst}"

    @property
    def _worst(self) -> str:
        """What is wrong with the worst number, as far as the simulations know it."""
        n, row = len(self.u), self.table[self.worst]
        parts = []
        if abs(row["shift"]) > SURE / math.sqrt(n):
            high = "high" if row["shift"] > 0 else "low"
            parts.append(f"{abs(row['shift']):.2f} sd too {high}")
        if abs(math.log(row["width"])) > SURE / math.sqrt(2 * n):
            parts.append(_width(row["width"]))
        words = " and ".join(parts) or "off, though neither shifted nor too narrow or wide"
        return f"{words}; {row['in 80%']:.0%} of the true values are in intervals of 80 %"

    def _words(self) -> Iterator[str]:
        """The verdict, and what became of single fits."""
        yield f"{self.verdict}: {self.message}"
        if self.failed:
            total = len(self.u) + len(self.failed)
            yield (
                f"{len(self.failed)} of {total} simulations failed, of which the ranks say "
                f"nothing; the first: {self.failed[0]}"
            )
        if self.warned:
            yield f"{len(self.warned)} of the fits warned; the first: {self.warned[0]}"

    def __str__(self) -> str:
        shown = min(SHOWN, len(self.names))
        top = Summary(self.table.rows[:shown], self.table.columns, self.table.values[:shown])
        more = len(self.names) - shown
        rest = [f"... {more:,} more, all in table"] if more else []
        return "\n".join([*self._words(), str(top), *rest])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{escape(line)}</p>" for line in self._words())
        return f"{words}{self.table._repr_html_()}"

    def plot(self) -> Any:
        """The distribution of the ranks of each number less the uniform one, and its band, as a
        matplotlib figure."""
        counts = self.band.counts(self.u)
        return ecdf(self.band, counts, self.level, self.names, self.levels)


def _chance(columns: Tensor) -> float:
    """How often the means of some columns, of shape ``(n, columns)``, are together as large when
    each row gets a sign at random."""
    generator = torch.Generator().manual_seed(0)
    shape = FLIPS, len(columns)
    signs = 2.0 * torch.randint(2, shape, generator=generator, dtype=torch.float64) - 1
    size = columns.sum(0).square().sum()
    others = (signs @ columns).square().sum(1)
    return (1 + float((others >= size).sum())) / (1 + FLIPS)


def _width(width: float) -> str:
    """The width of draws, over what it should be, in words."""
    return f"{abs(1 - width):.0%} too {'narrow' if width < 1 else 'wide'}"
