"""Discrete latent sites, summed out of the densities of many draws at once."""

from collections import OrderedDict
from string import ascii_letters

from pyro import poutine
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from pyro_nf.model.many import Values

__all__ = ["Contraction"]


class Contraction:
    """How the densities of the sites of a run combine where some sites were enumerated.

    Pyro's contraction cannot run inside ``torch.func.vmap``, so each draw only gives the log
    densities of its sites, and the draws are contracted together, as if in one more plate.

    Arguments:
        trace: A run of the model under ``poutine.enum``.
        rows: A plate of which each row keeps a density of its own.
    """

    def __init__(self, trace: poutine.Trace, rows: str | None = None) -> None:
        packed = self.factors(trace)
        symbols = trace.plate_to_symbol
        # Pyro keeps the letters of a packed tensor's dimensions on the tensor.
        self._dims = {name: str(getattr(value, "_pyro_dims")) for name, value in packed.items()}  # noqa: B009
        used = set("".join([*self._dims.values(), *symbols.values(), *trace.symbol_to_dim]))
        self._draw = next(letter for letter in reversed(ascii_letters) if letter not in used)
        self._ordinals = {
            name: frozenset(
                [self._draw]
                + [symbols[f.name] for f in trace.nodes[name]["cond_indep_stack"] if f.vectorized]
            )
            for name in packed
        }
        self._summed = set(trace.symbol_to_dim) - set(symbols.values())
        self._kept = self._draw
        if rows is not None and any(symbols[rows] in dims for dims in self._dims.values()):
            self._kept += symbols[rows]  # which Pyro drops where there is but one row

    @staticmethod
    def factors(trace: poutine.Trace) -> Values:
        """The log densities of the sites, without the dimensions that they do not depend on."""
        trace.compute_log_prob()
        trace.pack_tensors()
        return {
            name: node["packed"]["log_prob"]
            for name, node in trace.nodes.items()
            if node["type"] == "sample"
        }

    def __call__(self, factors: Values) -> Tensor:
        """The log densities of n draws from their factors, in double precision.

        Of shape ``(n,)``, or ``(n, rows)`` where a plate of several rows is kept.
        """
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for name, value in factors.items():
            term = value.double()
            term._pyro_dims = self._draw + self._dims[name]  # type: ignore[attr-defined]
            tree.setdefault(self._ordinals[name], []).append(term)
        total: Tensor = contract_to_tensor(
            tree, self._summed, target_ordinal=frozenset(self._kept), cache={}
        )
        if not total.dim():
            return total.expand(len(next(iter(factors.values()))))
        order = [total._pyro_dims.index(letter) for letter in self._kept]  # type: ignore[attr-defined]
        return total.permute(order)
