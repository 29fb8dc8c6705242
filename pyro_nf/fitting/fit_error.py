"""What a fit raises that cannot go on."""

__all__ = ["FitError"]


class FitError(RuntimeError):
    """A fit that could not go on; the message names the site and what to do.

    Example:
        >>> import math, pyro, pyro.distributions as dist
        >>> from pyro_nf import fit
        >>> def model():
        ...     x = pyro.sample("x", dist.Normal(0.0, 1.0))
        ...     pyro.factor("never", -math.inf * x.exp())
        >>> try:
        ...     _ = fit(model, compile=False, progress=False)
        ... except FitError as error:
        ...     print("a site is to blame:", "never" in str(error))
        a site is to blame: True
    """
