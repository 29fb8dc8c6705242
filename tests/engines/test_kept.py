"""Engines that are made once for equal graphs: what makes two graphs equal, and what is kept."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pyro_nf.engines import quick, record, tidy
from pyro_nf.engines.kept import kept


@pytest.fixture
def made():
    """The graphs of which engines were made."""
    return []


@pytest.fixture
def make(made):
    @kept(most=2)
    def make(recorded, tensors):
        made.append(recorded)
        return quick.__wrapped__(recorded, tensors)

    return make


def run(make, function, x):
    return make(tidy(record(function, [x])), [x])([x])


def scaled(by, power=2):
    return lambda x: (x * by).sum() ** power


def test_a_function_with_other_tensors_has_the_engine_of_the_first(make, made):
    for by in (torch.arange(3.0), torch.ones(3)):
        for x in (torch.ones(3), torch.tensor([1.0, -2.0, 5.0])):
            assert torch.equal(run(make, scaled(by), x), scaled(by)(x))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (scaled(torch.ones(3), power=3), torch.ones(3)),
        (scaled(2.0), torch.ones(3)),
        (scaled(torch.ones(1)), torch.ones(3)),
        (scaled(torch.ones(3)), torch.ones(4, 3)),
        (scaled(torch.ones(3)), torch.ones(3, dtype=torch.float64)),
        (scaled(torch.ones(6)[::2]), torch.ones(3)),
        (lambda x: (torch.ones(3) * x).sum() ** 2, torch.ones(3)),
        (lambda x: (x * x).sum() ** 2, torch.ones(3)),
    ],
    ids=["number", "no tensor", "shape", "input", "dtype", "stride", "order", "input twice"],
)
def test_what_differs_by_more_has_its_own(make, made, function, x):
    run(make, scaled(torch.ones(3)), torch.ones(3))
    assert torch.equal(run(make, function, x), function(x))
    assert len(made) == 2


def test_a_mask_of_more_has_its_own(make, made):
    for mask, count in (
        ([True, False, True], 1),
        ([False, True, True], 1),
        ([True, False, False], 2),
    ):
        chosen = torch.tensor(mask)
        assert float(run(make, lambda x, m=chosen: x[m].sum(), torch.arange(3.0))) == float(
            torch.arange(3.0)[chosen].sum()
        )
        assert len(made) == count


def test_what_torch_takes_by_default_is_a_part_of_it(make, made):
    def function(x):
        return x + torch.randn(3).sum()

    run(make, function, torch.ones(3))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        run(make, function, torch.ones(3))
    finally:
        torch.set_default_dtype(before)
    assert len(made) == 2


def test_a_graph_with_an_argument_of_no_text_is_not_kept(make, made):
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        run(make, lambda x: x + torch.randn(3, generator=generator), torch.zeros(3))
    assert len(made) == 2


def test_the_longest_unused_goes_first(make, made):
    for power in (1, 2, 1, 3, 1, 2):
        run(make, scaled(torch.ones(3), power), torch.ones(3))
    assert len(made) == 4


def test_no_tensor_is_kept_alive(make):
    by, x = torch.arange(3.0), torch.ones(3)
    alive = [weakref.ref(by), weakref.ref(x)]
    run(make, scaled(by), x)
    del by, x
    gc.collect()
    assert [one() for one in alive] == [None, None]


def test_a_constant_that_is_filled_anew_is_seen(make):
    by, x = torch.ones(3), torch.ones(3)
    engine = make(tidy(record(scaled(by), [x])), [x])
    by.copy_(torch.arange(3.0))
    assert float(engine([x])) == 9.0


def test_threads_share_an_engine(make, made):
    def of_one(index):
        by = torch.full((3,), float(index))
        return float(run(make, scaled(by), torch.ones(3)))

    of_one(0)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(of_one, range(40))) == [9.0 * index**2 for index in range(40)]
    assert len(made) == 1
