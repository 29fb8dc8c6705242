"""The latent sites to which a guide gives its flow, and what it gives to the others."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

__all__ = ["Parts", "Rest", "parts_of"]

Rest = Literal["normal", "delta"]


class Parts(NamedTuple):
    """What a guide of some sites was asked for.

    Attributes:
        sites: The names of the sites that get the flow, or patterns such as ``"theta*"``.
        rest: What the others get.
    """

    sites: tuple[str, ...]
    rest: Rest

    def chosen(self, names: Iterable[str]) -> list[str]:
        """Those of a model's latent sites that get the flow, in the model's order.

        Arguments:
            names: All latent sites of the model.
        """
        names = list(names)
        for pattern in self.sites:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"no latent site of the model is called {pattern!r}; they are "
                    f"{', '.join(map(repr, names))}"
                )
        found = [name for name in names if any(fnmatchcase(name, p) for p in self.sites)]
        if len(found) == len(names):
            raise ValueError(
                f"sites={list(self.sites)} are all latent sites of the model, and none is left "
                f'for rest="{self.rest}"; type AutoFlowGuide(model) for a flow of all'
            )
        return found


def parts_of(sites: str | Sequence[str] | None, rest: Rest | None) -> Parts | None:
    """What was asked for by two arguments; None for a flow of all sites."""
    if rest not in ("normal", "delta", None):
        raise ValueError(f'rest must be "normal" or "delta", got {rest!r}')
    if sites is None:
        if rest is not None:
            raise ValueError(
                f'rest="{rest}" is for the latents to which sites gives no flow, and there are no '
                'sites; type sites=["tau", "theta*"], say, too'
            )
        return None
    patterns = [sites] if isinstance(sites, str) else sites
    if not (
        isinstance(patterns, Sequence)
        and patterns
        and all(isinstance(pattern, str) for pattern in patterns)
    ):
        raise TypeError(
            f'sites must be names or patterns of latent sites, such as ["tau", "theta*"], got '
            f"{sites!r}"
        )
    return Parts(tuple(patterns), rest or "normal")
