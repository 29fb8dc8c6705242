"""Latent sites that a mask leaves without a prior, and so, perhaps, without a posterior."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

__all__ = ["refuse_masked"]


def refuse_masked(
    model: Callable[..., Any],
    sites: Mapping[str, Any],
    values: Mapping[str, Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    """Refuse masked places of latent sites on which nothing depends: their density is constant.

    A mask that makes a prior flat where data speak, as ``Normal(0, 1).mask(False)`` does, is as
    good as any.

    Arguments:
        model: The model.
        sites: Its latent sites, by name.
        values: Values at which to look at it, one for each site.
        args: What the model takes.
        kwargs: What the model takes.
    """
    hidden = {name: found for name, site in sites.items() if (found := _hidden(site)).any()}
    if not hidden:
        return
    with torch.enable_grad():
        asked = {name: values[name].detach().requires_grad_() for name in hidden}
        run = poutine.trace(poutine.condition(model, {**values, **asked})).get_trace
        total = torch.as_tensor(poutine.block(run)(*args, **kwargs).log_prob_sum())
        total = total + 0 * sum(value.sum() for value in asked.values())
        slopes = torch.autograd.grad(total, list(asked.values()), allow_unused=True)
    for (name, places), slope in zip(hidden.items(), slopes, strict=True):
        flat = places & (slope == 0).reshape(*places.shape, -1).all(-1)
        if bool(flat.any()):
            raise ValueError(
                f"the latent site {name!r} is masked in {int(flat.sum()):,} of {flat.numel():,} "
                "places, where nothing else depends on it: without a prior it has no posterior "
                f"there. {_instead(name)}"
            )


def _instead(name: str) -> str:
    """What to type in place of a mask on a latent site."""
    site = name.removesuffix("_unobserved")
    if site != name:  # what Pyro makes of obs_mask
        return (
            f"In place of pyro.sample({site!r}, ..., obs_mask=seen) type with poutine.mask(mask="
            f"seen): pyro.sample({site!r}, ...), which infers the same; predict gives what is "
            "missing"
        )
    return (
        "Mask the observed sites alone; latents that have their prior and no data change nothing "
        "else"
    )


def _hidden(site: Mapping[str, Any]) -> Tensor:
    """Where a latent site is masked, in its batch shape."""
    fn, shown = site["fn"], torch.ones((), dtype=torch.bool)
    masks = [site["mask"]]
    while isinstance(fn, Independent | MaskedDistribution):
        masks += [fn._mask] if isinstance(fn, MaskedDistribution) else []
        fn = fn.base_dist
    for mask in masks:
        if mask is not None:
            mask = torch.as_tensor(mask)
            extra = mask.dim() - len(site["fn"].batch_shape)
            shown = shown & (mask.reshape(*mask.shape[:-extra], -1).all(-1) if extra > 0 else mask)
    hidden: Tensor = ~shown.expand(site["fn"].batch_shape)
    return hidden
