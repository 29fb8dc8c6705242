"""Models side by side: which of them has the evidence of the data, and which predicts them best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyro_nf.posterior import Diagnosis, Posterior, data_frame, html_table, text_table
from pyro_nf.studies.loo import Loo, error_of_sum, loo

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Some models of the same data, the best first: by log evidence, poor posteriors last.

    Attributes:
        verdicts: For each model what was found of its posterior, with the log evidence.
        predictions: For each model what leaving one observation out says; None where it is not
            known.

    Example:
        >>> from pyro_nf.posterior import diagnose
        >>> noise = 0.01 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
        >>> found = {"a": diagnose(noise), "b": diagnose(noise - 2.0)}
        >>> print(Comparison(found, {"a": None, "b": None}).message)
        a has a log evidence that is larger by 2.00 ± 0.00; with equal chances ..., that is 7.4 to 1
    """

    verdicts: Mapping[str, Diagnosis]
    predictions: Mapping[str, Loo | None]

    @property
    def best(self) -> str:
        """The model with the largest log evidence."""
        return next(iter(self.verdicts))

    @property
    def message(self) -> str:
        """By how much it is better than the next."""
        first, *others = self.verdicts.values()
        if first.verdict == "poor":
            return "the posteriors are poor, and so are their evidences; see diagnose()"
        if not others or others[0].verdict == "poor":
            return f"{self.best} is the only model whose posterior is not poor"
        gap, error = self._evidence(list(self.verdicts)[1])
        words = f"{self.best} has a log evidence that is larger by {-gap:.2f} ± {error:.2f}"
        if -gap < 1:
            words += ", which says little"
        return f"{words}; with equal chances before, that is {math.exp(-max(gap, -300)):,.1f} to 1"

    def _evidence(self, name: str) -> tuple[float, float]:
        """The log evidence of a model less that of the best, and its error."""
        first, other = self.verdicts[self.best], self.verdicts[name]
        error = math.hypot(first.log_evidence_se, other.log_evidence_se)
        return other.log_evidence - first.log_evidence, 0.0 if other is first else error

    def _prediction(self, name: str) -> tuple[float, float]:
        """The same of the log density of left-out observations."""
        first, other = self.predictions[self.best], self.predictions[name]
        if first is None or other is None or len(first.each) != len(other.each):
            return math.nan, math.nan
        gaps = other.each - first.each
        return float(gaps.sum()), error_of_sum(gaps)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The table: for each column its values, model by model."""
        loos = [self.predictions[name] for name in self.verdicts]
        found = self.verdicts.values()
        gaps = [self._evidence(name) for name in self.verdicts]
        apart = [self._prediction(name) for name in self.verdicts]
        nan = math.nan
        return {
            "log evidence": [each.log_evidence for each in found],
            "± evidence": [each.log_evidence_se for each in found],
            "less the best": [gap for gap, _ in gaps],
            "± less": [error for _, error in gaps],
            "LOO": [nan if each is None else float(each.each.sum()) for each in loos],
            "± LOO": [nan if each is None else each.error for each in loos],
            "LOO less": [gap for gap, _ in apart],
            "± LOO less": [error for _, error in apart],
            "k > 0.7": [nan if each is None else float(each.wild) for each in loos],
            "verdict": [each.verdict for each in found],
        }

    def _cells(self) -> list[list[str]]:
        """A row for each model, numbers with their errors."""
        columns = self.columns
        pairs = {"log evidence": "± evidence", "less the best": "± less"}
        pairs |= {"LOO": "± LOO", "LOO less": "± LOO less"}
        rows = [["", *pairs, "k > 0.7", "verdict"]]
        for place, name in enumerate(self.verdicts):
            row = [f"{columns[c][place]:.2f} ± {columns[e][place]:.2f}" for c, e in pairs.items()]
            row = ["" if "nan" in cell else cell for cell in row]
            wild = columns["k > 0.7"][place]
            rows.append([name, *row, "" if math.isnan(wild) else f"{wild:.0f}"])
            rows[-1].append(columns["verdict"][place])
        return rows

    def __str__(self) -> str:
        return f"{self.message}\n{text_table(self._cells())}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(self._cells(), self.message)

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``."""
        return data_frame(self.columns, list(self.verdicts))


def compare(posteriors: Mapping[str, Posterior], n: int = 1000) -> Comparison:
    """Models of the same data in one table: log evidence, leave-one-out predictions, verdicts.

    The log evidence asks how well a model with its prior tells the data before it has seen them,
    leaving one out how well it tells each observation after all others. Both have their standard
    errors, differences those of the differences.

    Arguments:
        posteriors: For each name a posterior of the same data.
        n: The number of draws by which observations are left out.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro_nf import compare, fit
        >>> def around(centre):
        ...     def model(x):
        ...         mean = pyro.sample("mean", dist.Normal(centre, 1.0))
        ...         with pyro.plate("data", len(x)):
        ...             pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        ...     return model
        >>> x = torch.tensor([-0.5, 0.1, 0.4])
        >>> fits = {f"N({c}, 1)": fit(around(c), x, progress=False, seed=0) for c in (0.0, 5.0)}
        >>> compare(fits).best
        'N(0.0, 1)'
    """
    if not posteriors:
        raise ValueError("there is nothing to compare; type compare({'name': posterior, ...})")
    _same_data(posteriors)
    found = {name: each.diagnosis or each.diagnose() for name, each in posteriors.items()}
    order = sorted(found, key=lambda n: (found[n].verdict == "poor", -found[n].log_evidence))
    return Comparison(
        {name: found[name] for name in order}, {name: loo(posteriors[name], n) for name in order}
    )


def _same_data(posteriors: Mapping[str, Posterior]) -> None:
    """Refuse models that observe other numbers, whatever their sites are called."""
    seen: dict[str, torch.Tensor] = {}
    for name, posterior in posteriors.items():
        values = [value.detach().double().cpu().flatten() for value in posterior.observed.values()]
        seen[name] = torch.cat(values).sort().values if values else torch.empty(0)
        first = next(iter(seen))
        if seen[name].shape != seen[first].shape or not torch.allclose(seen[name], seen[first]):
            raise ValueError(
                f"{first!r} observes {len(seen[first])} numbers, and {name!r} has "
                f"{len(seen[name])} others; evidences can be compared for the same data only"
            )
