"""Have many short chains arrived? Nested R-hat of chains that start together in groups."""

import torch
from torch import Tensor

__all__ = ["between_halves", "nested_r_hat"]


def nested_r_hat(x: Tensor) -> Tensor:
    r"""Nested R-hat of M chains in each of K superchains, of which all start at one point.

    As long as chains remember where they started, the means of superchains lie further apart than
    those of independent draws would. With B the variance of these means and W the mean variance of
    the draws within a superchain,

    .. math:: \hat R = \sqrt{1 + B / W},

    which for chains that have arrived is nearly :math:`1 + 1 / 2 M n`, if each is worth n
    independent draws. It needs no long chain, only many draws together.

    References:
        Nested R-hat: Assessing the Convergence of Markov Chain Monte Carlo When Running Many Short
        Chains (Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2022)
        https://arxiv.org/abs/2110.13017

    Arguments:
        x: With shape ``(draws, K, M, D)``.

    Returns:
        With shape ``(D,)``; one where nothing varies.
    """
    between = x.mean((0, 2)).var(0)
    within = (x - x.mean((0, 2), keepdim=True)).square().mean((0, 1, 2))
    return torch.where(between > 0, (1 + between / within).sqrt(), 1.0)


def between_halves(x: Tensor) -> Tensor:
    """By how much means move from the first half of the draws to the second, beyond noise.

    Noise is two standard errors, which the superchains tell.

    Arguments:
        x: As for :func:`nested_r_hat`, of variance one.

    Returns:
        With shape ``(D,)``.
    """
    first, second = (half.mean((0, 2)) for half in (x[: len(x) // 2], x[len(x) // 2 :]))
    moved = second - first
    error = moved.std(0) / len(moved) ** 0.5
    return (moved.mean(0).abs() - 2 * error).clamp_min(0)
