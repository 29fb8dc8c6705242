"""Latents of a hierarchy by what is left of them once their parents are known."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from pyro_nf.flows import Buffers, Chain, Flow

__all__ = ["GENERATIONS", "Generation", "Hierarchy", "Ties"]

GENERATIONS = 3  # children, their children, and those of these


class Ties(NamedTuple):
    r"""How normal latents depend on their parents, and what the rest of the model says of them.

    Given its parents v a child is normal with mean :math:`A v + C v^2 + a`, in which each parent
    is squared by itself, and the logarithm :math:`B v + b` of its standard deviation. The
    rest of the model, as a function of the child, is nearly a normal density.

    Attributes:
        child: Where in u the n children are.
        parent: Where in u the m parents are, each as often as it suits.
        loc: A, with shape ``(n, m)``.
        bend: C, with shape ``(n, m)``.
        loc_bias: a, with shape ``(n,)``.
        log_scale: B, with shape ``(n, m)``.
        log_scale_bias: b, with shape ``(n,)``.
        middle: The mean of that density, with shape ``(n,)``.
        precision: One over its variance, or 0, with shape ``(n,)``.
    """

    child: Tensor
    parent: Tensor
    loc: Tensor
    bend: Tensor
    loc_bias: Tensor
    log_scale: Tensor
    log_scale_bias: Tensor
    middle: Tensor
    precision: Tensor

    def prior(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The means of the children and their log scales, with parents in u."""
        v = u.index_select(-1, self.parent)
        loc = linear(v, self.loc, self.loc_bias) + linear(v.square(), self.bend)
        return loc, linear(v, self.log_scale, self.log_scale_bias)


class Generation(Buffers, Flow):
    r"""Children from standard variables and their parents; the identity at first.

    A child has the prior :math:`N(m, s^2)`, in which m and s follow from its parents, and the rest
    of the model is to it like a normal density with mean t and precision h. Given its parents it is
    then normal, too, and is made of x by

    .. math:: y = t + w (m - t) + s \sqrt{w}\, x, \qquad w = \frac{1}{1 + h s^2},
        \qquad \log \det = \sum_i \log (s_i \sqrt{w_i}).

    Without data, at h = 0, these are non-centred coordinates; the more the data say of a child, the
    nearer it is to centred ones. A funnel, in which s goes from large to small, is straight in x,
    and so is a banana, in which m is bent.

    References:
        Automatic Structured Variational Inference (Ambrogioni et al., 2021), which has weights of
        prior and data that are learned https://arxiv.org/abs/2002.00643

        Hamiltonian Monte Carlo for Hierarchical Models (Betancourt and Girolami, 2015)
        https://arxiv.org/abs/1312.0906

    Arguments:
        dim: The dimension :math:`D`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        for name in Ties._fields:
            self.register_buffer(name, None)

    @property
    def ties(self) -> Ties | None:
        """What it goes by."""
        if self.child is None:
            return None
        return Ties(*(getattr(self, name) for name in Ties._fields))

    def set(self, ties: Ties | None) -> None:
        """Use these ties, or be the identity."""
        for name in Ties._fields:
            setattr(self, name, None if ties is None else getattr(ties, name))

    def forward_and_log_det(
        self, x: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        ties = self.ties
        if ties is None:
            return x, x.new_zeros(x.shape[:-1])
        middle, log_scale, *_ = _given(ties, x)
        child = middle + log_scale.exp() * x[..., ties.child]
        return x.index_copy(-1, ties.child, child), log_scale.sum(-1)

    def inverse_and_log_det(
        self, y: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        ties = self.ties
        if ties is None:
            return y, y.new_zeros(y.shape[:-1])
        middle, log_scale, *_ = _given(ties, y)
        child = (y[..., ties.child] - middle) * (-log_scale).exp()
        return y.index_copy(-1, ties.child, child), -log_scale.sum(-1)

    def forward_and_score(
        self, x: Tensor, score: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        ties = self.ties
        if ties is None:
            return *self.forward_and_log_det(x), score
        middle, log_scale, away, weight = _given(ties, x)
        moved = log_scale.exp() * x[..., ties.child]
        with torch.no_grad():
            own = score[..., ties.child] * (-log_scale).exp()
            # What parents do to the child and to the log-determinant, by m and by log s, where
            # d log(s sqrt(w)) / d log s = w and dw / d log s = -2 w (1 - w).
            by_log_scale = weight * (1 + own * (moved - 2 * (1 - weight) * away))
            by_loc = weight * own
            by_parent = by_loc @ ties.loc + by_log_scale @ ties.log_scale
            by_parent = by_parent + 2 * x.index_select(-1, ties.parent) * (by_loc @ ties.bend)
            rest = score.index_add(-1, ties.parent, -by_parent)
            score = rest.index_copy(-1, ties.child, own)
        return x.index_copy(-1, ties.child, middle + moved), log_scale.sum(-1), score


def _given(ties: Ties, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of children with parents in u: t + w (m - t), log(s sqrt(w)), m - t and w."""
    loc, log_scale = ties.prior(u)
    logit = -2 * log_scale - ties.precision.log()
    away, weight = loc - ties.middle, torch.sigmoid(logit)
    return ties.middle + weight * away, log_scale + logsigmoid(logit) / 2, away, weight


class Hierarchy(Chain):
    """Generations one after the other, from parents to children; the identity at first.

    Arguments:
        dim: The dimension D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(Generation(dim) for _ in range(GENERATIONS))

    def __len__(self) -> int:
        """Of those that are set, or else the first: more would cost an eager step their share."""
        return max(self.generations, 1)

    def __iter__(self) -> Iterator[Flow]:
        return islice(super().__iter__(), len(self))

    def set(self, ties: Sequence[Ties]) -> None:
        """Use the ties of each generation, or none."""
        for index, generation in enumerate(self.flows):
            generation.set(ties[index] if index < len(ties) else None)  # type: ignore[operator]

    @property
    def generations(self) -> int:
        """How many there are."""
        return sum(generation.child is not None for generation in self.flows)
