"""Handlers for runs of a user's model: values for its sites, and what ``torch.func.vmap`` asks."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor
from torch.distributions import Binomial, Dirichlet, Distribution
from torch.overrides import TorchFunctionMode

__all__ = ["Blanks", "Given", "LastSite", "Unchecked", "is_computed", "unchecked", "until"]

# What makes a tensor of no draw in particular, which is then written to in place.
BLANK = {
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.zeros_like, torch.ones_like),
    *(Tensor.new, Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones),
}
DATA = Tensor.data.__get__  # type: ignore[attr-defined]  # a property to Python


class Blanks(TorchFunctionMode):
    """Makes new empty tensors one a draw, so that the draws can write to them in place.

    It also keeps ``x.data``, which Pyro's enumeration asks for, and ``x[mask] = 0``, as in the log
    density of ``Multinomial``, from being errors.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.index = index

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == DATA:
            return args[0].detach()
        if func == Tensor.__setitem__ and _fills(*args):
            args[0].masked_fill_(*args[1:])
            return None
        result = func(*args, **(kwargs or {}))
        if func in BLANK and result.is_floating_point():
            result = torch.where((self.index >= 0).to(result.device), result, result)
        return result


def _fills(tensor: Tensor, index: Any, value: Any) -> bool:
    """Whether an assignment writes one number where a mask of the same shape is true."""
    mask = isinstance(index, Tensor) and index.dtype == torch.bool and index.shape == tensor.shape
    return mask and (not isinstance(value, Tensor) or value.dim() == 0)


class Unchecked(Messenger):
    """Replaces distributions that check their values, which a draw among many cannot do."""

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], Distribution):
            msg["fn"] = unchecked(msg["fn"])


def unchecked(fn: Distribution) -> Distribution:
    """The same without checks, and with a sampler that can run among many."""
    fn = copy.copy(fn)
    fn._validate_args = False
    for name, value in vars(fn).items():
        if isinstance(value, Distribution):
            vars(fn)[name] = unchecked(value)
    if isinstance(fn, Dirichlet):  # also within Beta and LKJ; its own rsample has a torch.autograd
        vars(fn)["rsample"] = partial(_sample_dirichlet, fn)  # function that vmap cannot run
    if isinstance(fn, Binomial):
        vars(fn)["sample"] = partial(_sample_binomial, fn)
    return fn


def _sample_dirichlet(fn: Dirichlet, sample_shape: Any = ()) -> Tensor:
    return torch._sample_dirichlet(fn.concentration.expand(fn._extended_shape(sample_shape)))


@torch.no_grad()
def _sample_binomial(fn: Binomial, sample_shape: Any = ()) -> Tensor:
    """With both arguments those of each draw, since vmap warns of a count that is not."""
    shape = fn._extended_shape(sample_shape)
    count, probs = fn.total_count.expand(shape), fn.probs.expand(shape)
    return torch.binomial(count + 0 * probs, probs + 0 * count)


class Given(Messenger):
    """Gives latent sites their values, where the shapes agree; else they are sampled.

    Arguments:
        values: The values by site.
        unobserve: Whether observed sites are sampled. Deterministic sites and factors are
            observed, too, to Pyro; sampled inside a plate they would gain a dimension.
        kept: The observed sites that are not.

    Attributes:
        misfits: The sites that have met a value of another shape.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        unobserve: bool = False,
        kept: Set[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.values, self.unobserve, self.kept = values, unobserve, kept
        self.misfits: set[str] = set()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            if self.unobserve and msg["name"] not in self.kept and not is_computed(msg):
                msg["is_observed"], msg["value"], msg["done"] = False, None, False
            return
        if site_is_subsample(msg):
            return
        value = self.values.get(msg["name"])
        if value is None:
            return
        if value.shape != msg["fn"].shape():
            self.misfits.add(msg["name"])
        else:
            msg["value"], msg["done"] = value, True


class LastSite(Messenger):
    """Notes the site that a run has come to."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""

    def _pyro_post_sample(self, msg: Any) -> None:
        self.name = msg["name"]

    @property
    def where(self) -> str:
        """Where the run is, in words."""
        return f"after the site {self.name!r}" if self.name else "before its first site"


class _SeenError(Exception):
    """All sites that were wanted have been sampled."""


class _Until(Messenger):
    """Leaves the model behind the last of some sites."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.left = set(names)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.left.discard(msg["name"])
        if not self.left:
            raise _SeenError


@contextmanager
def until(names: Iterable[str]) -> Iterator[None]:
    """Run a model as far as the last of some sites: what comes after costs nothing, nor fails."""
    with suppress(_SeenError), _Until(names):
        yield


def is_computed(node: Mapping[str, Any]) -> bool:
    """Whether an observed site is no datum, but the value of a computation."""
    return bool(node["infer"].get("_deterministic")) or site_is_factor(node)
