"""A model without its discrete latent sites, which are summed out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_nf.model.bijections import support_of
from pyro_nf.model.enumeration import drawn_sites, summed
from pyro_nf.model.handlers import Given, unchecked

__all__ = ["SummedOut"]

Model = Callable[..., Any]


class SummedOut:
    """A model as one of its other sites alone: some discrete ones are summed out.

    The sites whose densities depend on the discrete ones have none of their own here, and a factor
    has the sum. All else is as in the model, so that whatever runs a Pyro model can run this.

    Arguments:
        model: A Pyro model.
        names: The latent sites that are summed out.
        nesting: How many dimensions its plates and batches use.
        known: The latent sites that are given their values; others whose densities depend on
            the discrete ones are drawn from their prior, and these draws count nothing. None for
            all.
    """

    def __init__(
        self,
        model: Model,
        names: Collection[str],
        nesting: int,
        known: Collection[str] | None = None,
    ) -> None:
        self.model, self.names, self.nesting = model, frozenset(names), nesting
        self.known = None if known is None else frozenset(known)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result, trace = self._run(args, kwargs)
        pyro.factor(f"the sum over {', '.join(sorted(self.names))}", summed(trace, self.nesting))
        return result

    def enumerated(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> poutine.Trace:
        """A run with all values of the discrete sites: of the sites that depend on them."""
        return self._run(args, kwargs)[1]

    def drawn(
        self, values: Mapping[str, Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The discrete sites, drawn given one draw of the others and the data."""
        with poutine.block(), Given(values):
            return drawn_sites(self.enumerated(args, kwargs), self.nesting)

    def _run(self, args: Any, kwargs: Any) -> tuple[Any, poutine.Trace]:
        model = poutine.infer_config(self.model, self._way)
        with _Apart(self) as apart, poutine.enum(first_available_dim=-1 - self.nesting):
            result = model(*args, **kwargs)
        return result, apart.trace

    def _way(self, site: Mapping[str, Any]) -> dict[str, Any]:
        return {"enumerate": "parallel", "expand": False} if site["name"] in self.names else {}


class _Apart(Messenger):
    """Takes the sites that depend on enumerated ones out of a run.

    Outside latent ones are seen with a flat density, and a shape without enumerated dimensions.

    Arguments:
        of: What it runs for.

    Attributes:
        trace: A run of the sites that it has taken.
    """

    def __init__(self, of: SummedOut) -> None:
        super().__init__()
        self.of, self.trace = of, poutine.Trace()
        self._prior: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) or not self._depends(msg):
            return
        name, fn = msg["name"], msg["fn"]
        self._prior[name] = fn
        if msg["is_observed"] or name in self.of.names:
            msg["stop"] = True
        elif not self._is_known(name):
            msg["stop"], msg["fn"] = True, unchecked(fn)  # sampled here, perhaps among many
        else:
            msg["fn"] = ImproperUniform(support_of(fn), self._batch(msg), fn.event_shape)

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._prior:
            return
        msg["fn"] = self._prior[name]
        if msg["is_observed"] or name in self.of.names or self._is_known(name):
            self.trace.add_node(name, **msg.copy())

    def _is_known(self, name: str) -> bool:
        return self.of.known is None or name in self.of.known

    def _depends(self, msg: Any) -> bool:
        """Whether a site has dimensions left of those of plates and batches, or is summed out."""
        fn, value = msg["fn"], msg["value"]
        dims = len(fn.batch_shape)
        if isinstance(value, Tensor):
            dims = max(dims, value.dim() - fn.event_dim)
        return dims > self.of.nesting or msg["name"] in self.of.names

    def _batch(self, msg: Any) -> torch.Size:
        """The batch shape without enumerated dimensions."""
        full = msg["fn"].batch_shape
        batch = full[max(0, len(full) - self.of.nesting) :]
        needed = max((-f.dim for f in msg["cond_indep_stack"] if f.vectorized), default=0)
        while len(batch) > needed and batch[0] == 1:
            batch = batch[1:]
        return torch.Size(batch)
