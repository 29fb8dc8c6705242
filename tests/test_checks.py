"""A whole number is taken as it is, and anything else refused with what was expected."""

import pytest

from pyro_nf.checks import whole


def test_a_whole_number_stays():
    assert [whole("n", 1), whole("n", 0, least=0), whole("n", 5, 2, 5)] == [1, 0, 5]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("n", 1.0), TypeError, r"n must be an int, got 1\.0"),
        (("n", True), TypeError, "n must be an int, got True"),
        (("n", "1"), TypeError, "n must be an int, got '1'"),
        (("n", None), TypeError, "n must be an int, got None"),
        (("n", 0), ValueError, "n must be 1 or more, got 0"),
        (("n", -1, 0), ValueError, "n must be 0 or more, got -1"),
        (("n", 6, 2, 5), ValueError, "n must be a whole number from 2 to 5, got 6"),
    ],
)
def test_others_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        whole(*arguments)
