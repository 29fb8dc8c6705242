"""Posterior predictive draws, also on new data of another size."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pyro_nf.joint import Joint, chunk_size
from pyro_nf.randomness import kept_random_state
from pyro_nf.runs import Result, Runs, Values

__all__ = ["draws_for", "predict"]


def draws_for(joint: Joint, n: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """Draws of the guide for other data, or for its own if it knows no others."""
    with joint.scope(), torch.no_grad():
        try:
            with kept_random_state():
                joint.draw(args, kwargs)
        except Exception:  # whatever a guide makes of data of another size
            args, kwargs = joint.args, joint.kwargs
        return Runs(lambda _: joint.draw(args, kwargs), joint.chunk, random=True)(n)[1]


def predict(joint: Joint, values: Values, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Values:
    """For each draw of the latents a run of the model, with observed sites sampled.

    Arguments:
        joint: The model.
        values: For each latent site n draws.
        args: What the model takes.
        kwargs: What the model takes.
    """
    with joint.scope(), torch.no_grad():
        row = {name: value[0] for name, value in values.items()}
        with kept_random_state():
            example, misfits = joint.predict(row, args, kwargs)
        if misfits:
            warnings.warn(
                f"the latent sites {', '.join(map(repr, sorted(misfits)))} have other shapes for "
                "these arguments, and are drawn from their prior",
                stacklevel=3,
            )

        def one(row: Values) -> Result:
            return torch.zeros((), dtype=torch.float64), joint.predict(row, args, kwargs)[0]

        runs = Runs(one, chunk_size([*example.values(), *row.values()]), random=True)
        return runs(len(next(iter(values.values()))), values)[1]
