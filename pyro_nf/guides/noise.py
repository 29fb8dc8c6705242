"""The auxiliary noise of a guide, for which its density is a bound."""

from typing import NamedTuple

from pyro_nf.checks import whole
from pyro_nf.guides.parts import Parts

__all__ = ["Noise", "noise_of"]

PERSISTENCE = 0.9


class Noise(NamedTuple):
    """What a guide was asked for.

    Attributes:
        hamiltonian: The number of leapfrog steps.
        persistence: The share of the momentum that is kept between them; None without steps.
        auxiliary: The number of auxiliary variables.
    """

    hamiltonian: int
    persistence: float | None
    auxiliary: int

    def __str__(self) -> str:
        if self.auxiliary:
            return f"auxiliary={self.auxiliary}"
        return f"hamiltonian={self.hamiltonian}, persistence={self.persistence}"


def noise_of(
    hamiltonian: int, persistence: float | None, auxiliary: int, parts: Parts | None
) -> Noise | None:
    """What was asked for by some arguments; None for a guide without noise."""
    whole("hamiltonian", hamiltonian, least=0)
    whole("auxiliary", auxiliary, least=0)
    if persistence is not None and not hamiltonian:
        raise ValueError(
            f"persistence={persistence} is that of the momentum between leapfrog steps, and there "
            "are none; type hamiltonian=8, say, too"
        )
    if hamiltonian and auxiliary:
        raise ValueError(
            f"type either hamiltonian={hamiltonian} or auxiliary={auxiliary}: a guide has one kind "
            "of noise"
        )
    if auxiliary:
        if parts is not None:
            raise ValueError(
                f"auxiliary={auxiliary} variables are beside all latents, and sites="
                f"{list(parts.sites)} are some; leave out sites or auxiliary"
            )
        return Noise(0, None, auxiliary)
    if not hamiltonian:
        return None
    persistence = PERSISTENCE if persistence is None else persistence
    if not (isinstance(persistence, int | float) and 0 <= persistence <= 1):
        raise ValueError(f"persistence must be a number from 0 to 1, got {persistence!r}")
    if parts is not None and parts.rest == "delta":
        raise ValueError(
            'hamiltonian steps follow the density of all latents, and with rest="delta" some are '
            'points; type rest="normal"'
        )
    return Noise(hamiltonian, float(persistence), 0)
