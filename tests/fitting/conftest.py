"""What the tests of a fit change of its recipe."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pyro_nf.fitting.recipe import RECIPE


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Use other numbers in the fits of a test."""

    def change(**numbers: Any) -> None:
        monkeypatch.setattr("pyro_nf.fitting.recipe.RECIPE", replace(RECIPE, **numbers))

    return change
