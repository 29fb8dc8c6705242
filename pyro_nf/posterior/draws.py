"""Many draws of a guide, with their log densities under model and guide."""

import torch
from torch import Tensor

from pyro_nf.model import Many, Values, doubled, in_double
from pyro_nf.posterior.guide_density import log_density
from pyro_nf.posterior.joint import Joint

__all__ = ["Draws", "rounding"]


class Draws:
    """Draws of a guide, as many at a time as there is memory for.

    Arguments:
        joint: Model and guide.

    Attributes:
        guide: Draws of the guide, with their log densities.
        model: The log density of the model at many draws.
        discrete: The same draws with discrete sites, drawn given them.
    """

    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        self.guide = Many(lambda _: joint.draw(joint.args, joint.kwargs), joint.chunk, random=True)
        self.model = Many(
            joint.log_density, joint.chunk, random=bool(joint.from_prior), tolerant=True
        )
        self.discrete = Many(
            lambda row: (torch.zeros(()), joint.with_discrete(row, joint.args, joint.kwargs)),
            joint.chunk,
            random=True,
        )

    @property
    def vectorized(self) -> bool | None:
        """Whether draws are made and scored together; None before the first."""
        known = {self.guide.vectorized, self.model.vectorized} - {None}
        return all(known) if known else None

    def __call__(self, n: int) -> Values:
        """New draws, for each latent site of shape ``(n, *shape)``."""
        with self.joint.scope():
            return self.completed(self.guide(n)[1])

    def completed(self, values: Values) -> Values:
        """Draws of the guide with the discrete sites that it lacks, if there are any."""
        if not self.joint.enumerated:
            return values
        with self.joint.scope():
            return self.discrete(len(next(iter(values.values()))), values)[1]

    def weighted(self, n: int) -> tuple[Values, Tensor, Tensor]:
        """New draws, and their log densities under model and guide, of shape ``(n,)``."""
        for plate, (rows, size) in self.joint.partial.items():
            raise ValueError(
                f"the plate {plate!r} has {rows} of its {size} rows, so every log density would "
                f"be an estimate with noise of its own; let the plate have all {size} rows (pass "
                "its subsample_size, or its minibatch, as an argument of the model) and give "
                "Posterior(model, guide, ...) the whole data"
            )
        with self.joint.scope():
            log_q, values = self.guide(n)
            log_p, _ = self.model(n, values)
            if bool(log_p.isnan().all()):  # what all draws raise is no failing numerics
                self.joint.log_density({name: value[0] for name, value in values.items()})
        return values, log_p, log_q

    def scored(self, values: Values) -> tuple[Tensor, Tensor]:
        """The log densities of any draws under model and guide, of shape ``(n,)``."""
        with self.joint.scope():
            log_p, _ = self.model(len(next(iter(values.values()))), values)
            return log_p, log_density(self.joint, values)

    def in_double(self, values: Values) -> tuple[Values, Tensor, Tensor] | None:
        """Draws and their log densities again, in double precision, where that can be had."""
        if all(value.dtype != torch.float32 for value in values.values()) or not self.joint.exact:
            return None
        values = doubled(values)
        found = in_double(lambda: self.scored(values))
        return None if found is None else (values, *found)


def rounding(values: Values, log_p: Tensor) -> float:
    """The standard error of log densities by rounding, in the precision of the draws."""
    kinds = [value.dtype for value in values.values() if value.is_floating_point()]
    accuracy = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
    size = log_p[log_p.isfinite()].abs()
    return accuracy * float(size.mean()) if len(size) else 0.0
