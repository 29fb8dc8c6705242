"""What several constructors and calls ask of a number that a user has typed."""

__all__ = ["whole"]


def whole(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """A whole number as it is; anything else is refused.

    Arguments:
        name: What the user calls it.
        value: What the user gave.
        least: The smallest that will do.
        most: The largest, if there is one.

    Example:
        >>> whole("layers", 8)
        8
        >>> whole("layers", 0)
        Traceback (most recent call last):
        ValueError: layers must be 1 or more, got 0
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least or (most is not None and value > most):
        fits = f"{least} or more" if most is None else f"a whole number from {least} to {most}"
        raise ValueError(f"{name} must be {fits}, got {value}")
    return value
