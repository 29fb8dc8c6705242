"""What several constructors and calls ask of what a user has typed."""

import math

__all__ = ["instance", "positive", "runnable", "whole"]


def instance(name: str, value: object, takes: str = "") -> None:
    """Refuse a class where one of its instances is meant.

    Arguments:
        name: What the user calls it.
        value: What the user gave.
        takes: What the class takes, as it is typed.

    Example:
        >>> instance("guide", dict, "model")
        Traceback (most recent call last):
        TypeError: guide is the class dict, and one of its instances is needed: type dict(model)
    """
    if isinstance(value, type):
        called = value.__name__
        raise TypeError(
            f"{name} is the class {called}, and one of its instances is needed: type "
            f"{called}({takes})"
        )


def positive(name: str, value: object) -> float:
    """A finite number above zero as it is; anything else is refused.

    Arguments:
        name: What the user calls it.
        value: What the user gave.

    Example:
        >>> positive("seconds", 0)
        Traceback (most recent call last):
        ValueError: seconds must be a positive number, got 0
    """
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return value


def runnable(name: str, value: object, takes: str = "") -> None:
    """Refuse what is no model or guide of Pyro's, or the class of one.

    Arguments:
        name: ``"model"`` or ``"guide"``.
        value: What the user gave.
        takes: What its class takes, as it is typed.
    """
    instance(name, value, takes)
    if not callable(value):
        raise TypeError(f"expected a Pyro {name}, a callable, got {value!r}")


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
