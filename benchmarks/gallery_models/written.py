"""What a model of the gallery is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Makers", "Written"]


class Written(NamedTuple):
    """A model of the gallery with its data.

    Attributes:
        model: As its author would write it.
        args: Its data, as they lie there.
        kwargs: The same by keyword.
        twin: The same posterior for long chains, of all latents or of some; the model if None.
        numbers: What is compared, from draws; by default all latents that both have, in
            unconstrained coordinates.
        refused: Whether a sentence is all that there should be.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    twin: Callable[..., Any] | None = None
    numbers: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    refused: bool = False


Makers = dict[str, Callable[[], Written]]
