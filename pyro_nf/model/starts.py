"""Where a guide starts: at a point at which the model has a density and a slope."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from pyro_nf.model.bijections import support_of
from pyro_nf.model.failures import FIX, NUMERICS, NoStartError, in_a_line, not_finite
from pyro_nf.model.handlers import LastSite
from pyro_nf.model.sites import has_bijection
from pyro_nf.randomness import kept_random_state

__all__ = ["startable"]

Model = Callable[..., Any]

LOOKS = 100  # points around the first
SWEEP = 10  # of them, from near to far
WIDEST = 3.0  # standard deviations of the farthest, in unconstrained space
PRIOR = 20  # draws of the prior after these


def startable(model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Model:
    """A model that gives its latent sites values at which its density and gradient are finite.

    Where they are so as it is, it is itself. Else a hundred points around are looked at, from near
    to far, then draws of the prior, as NUTS does. A model that fails alike at all of the nearest,
    but not in its numerics, has an error, which is raised.

    Arguments:
        model: A model under ``InitMessenger``, which gives its latent sites the first values.
        args: What the model takes.
        kwargs: What the model takes.
    """
    with kept_random_state():
        troubles: list[str] = []
        for change in _changes():
            look = _Look(change)
            trouble = look.trouble(model, args, kwargs)
            if not trouble:
                return _At(look.values)(model) if troubles else model
            troubles.append(trouble)
            alike = len(troubles) == SWEEP and len(set(troubles)) == 1
            if alike and look.error is not None and not _is_numeric(look.error):
                raise look.error
    raise NoStartError(
        f"nowhere among {len(troubles)} points, from that of init_loc_fn to draws of the prior, "
        f"are the model's log density and its gradient finite; at the first {troubles[0]}. {FIX}"
    )


def _is_numeric(error: Exception) -> bool:
    """Whether it may be of the values, not of the code: no shape that misfits is."""
    factorless = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # torch forgot to list it
    return isinstance(error, ValueError | ArithmeticError | factorless)


Change = Callable[[Any], Tensor]  # from a site that has its first value to the one to look at


def _changes() -> Iterator[Change | None]:
    """What to make of the first values: nothing, then points around them, then of the prior."""
    yield None
    for look in range(LOOKS):
        yield _moved_by(WIDEST * (1 + look % SWEEP) / SWEEP)
    for _ in range(PRIOR):
        yield _of_the_prior


def _moved_by(radius: float) -> Change:
    def moved(site: Any) -> Tensor:
        to_support = biject_to(support_of(site["fn"]))
        free = to_support.inv(site["value"])
        free = torch.where(free.isfinite(), free, 0.0)
        value: Tensor = to_support(free + radius * torch.randn_like(free))
        return value

    return moved


def _of_the_prior(site: Any) -> Tensor:
    try:
        value: Tensor = site["fn"].sample()
    except NotImplementedError:  # an improper one
        value = _moved_by(WIDEST)(site)
    return value


def _is_latent(site: Any) -> bool:
    return not (site["is_observed"] or site_is_subsample(site)) and site["value"] is not None


class _Look(Messenger):
    """A run of a model at other values of its latent sites, with a gradient in them.

    Arguments:
        change: What to make of the values that the sites have.

    Attributes:
        values: Those that they were given.
        error: What the model has raised, if anything.
    """

    def __init__(self, change: Change | None) -> None:
        super().__init__()
        self.change = change
        self.values: dict[str, Tensor] = {}
        self.error: Exception | None = None
        self._free: dict[str, Tensor] = {}
        self._log_det = torch.zeros(())

    def _pyro_sample(self, msg: Any) -> None:
        if not _is_latent(msg) or not _can_move(support_of(msg["fn"])):
            return
        if self.change is not None:
            with torch.no_grad():
                msg["value"] = self.change(msg)
        to_support = biject_to(support_of(msg["fn"]))
        free = to_support.inv(msg["value"]).detach().requires_grad_()
        self.values[msg["name"]], self._free[msg["name"]] = msg["value"], free
        msg["value"] = to_support(free)
        self._log_det = self._log_det + to_support.log_abs_det_jacobian(free, msg["value"]).sum()

    def trouble(self, model: Model, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """What is not finite there, or what the model raises; empty where all is well."""
        last, tracer = LastSite(), poutine.trace()
        try:
            with torch.enable_grad(), poutine.block(), last, tracer, self, _quiet():
                model(*args, **kwargs)
            density = torch.as_tensor(tracer.trace.log_prob_sum())
            if not bool(torch.as_tensor(density + self._log_det).isfinite()):
                return f"the site {not_finite(tracer.trace)}"
            return self._steep(density)
        except NoStartError:
            raise
        except NUMERICS as error:
            self.error = error
            found = not_finite(tracer.trace)
            what = f"{type(error).__name__}: {in_a_line(error)}"
            return f"the site {found}" if found else f"the model raises {what} {last.where}"

    def _steep(self, density: Tensor) -> str:
        """The first site in which the gradient is not finite, in words."""
        total = density + self._log_det
        if not (self._free and total.requires_grad):
            return ""
        slopes = torch.autograd.grad(total, list(self._free.values()), allow_unused=True)
        for name, slope in zip(self._free, slopes, strict=True):
            if slope is not None and not bool(slope.isfinite().all()):
                return f"the gradient of the log density in the site {name!r} is not finite"
        return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings of gradients that a model throws away: these are not its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
        yield


def _can_move(support: Any) -> bool:
    return not support.is_discrete and has_bijection(support)


class _At(Messenger):
    """Gives sites the values that were found, in place of the first."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and _is_latent(msg):
            msg["value"] = self.values[msg["name"]]
