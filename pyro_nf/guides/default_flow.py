"""The flow of a guide that is given none."""

__all__ = ["default_flow"]

DENSE = 500  # dimensions up to which a layer of D^2 parameters costs little


def default_flow(dim: int) -> str:
    """The formula of a guide that is given none, in D dimensions.

    With tails at the end alone Student-t locations have a k-hat above a half now and then
    (``benchmarks/tails.py``); in one dimension a coupling has nothing to couple.
    """
    if dim == 1:
        return "planar*8 + tails"
    return "affine_coupling*6 + tails" + (" + tril + tails" if dim <= DENSE else "")
