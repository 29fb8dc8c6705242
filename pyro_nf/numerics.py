"""What a model raises where its numerics fail, such as a Cholesky factor's."""

__all__ = ["NUMERICS"]

NUMERICS = (RuntimeError, ValueError, ArithmeticError)
