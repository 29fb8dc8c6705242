"""A run of a model with some data, to see whether it can be."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median, init_to_sample
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.model import sites
from pyro_nf.randomness import kept_random_state

__all__ = ["Data", "Trial"]

Data = tuple[tuple[Any, ...], dict[str, Any]]  # what the model takes


class _Dtypes(Messenger):
    """Notes the dtypes of latent sites of real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        latent = not (msg["is_observed"] or site_is_subsample(msg))
        if latent and isinstance(value, Tensor) and value.is_floating_point():
            self.found.add(value.dtype)


class Trial:
    """A run of a model, of which nothing remains.

    Attributes:
        latents: The dtypes of its latents, as far as it came.
        error: What it has raised.
    """

    def __init__(self, model: Callable[..., Any], data: Data) -> None:
        args, kwargs = data
        store, dtypes = pyro.get_param_store(), _Dtypes()
        self.error: Exception | None = None
        scope = store.scope({key: dict(value) for key, value in store.get_state().items()})
        with (
            torch.no_grad(),
            kept_random_state(),
            scope,
            poutine.block(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            started = InitMessenger(_start)(model)
            try:
                with dtypes:
                    trace = poutine.trace(started).get_trace(*args, **kwargs)
                trace.compute_log_prob()
            except Exception as error:  # whatever a user's model makes of the data
                self.error = error
        self.latents = dtypes.found


def _start(site: Mapping[str, Any]) -> Tensor:
    """Where numerics rarely fail."""
    discrete = site["fn"].support.is_discrete
    return sites.feasible(init_to_sample if discrete else init_to_median)(dict(site))
