"""What users have in place of tensors, and the sentence where no tensor is meant by it."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from pyro_nf.model import as_tensors

FRAME = pd.DataFrame({"x": [0.5, 1.5, 2.5], "n": [1, 2, 3], "b": [True, False, True]})
VALUES = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
WHOLE = torch.tensor([1, 2, 3])


def readonly():
    array = np.array([0.5, 1.5, 2.5])
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FRAME.x, VALUES),
        (FRAME.x.values, VALUES),
        (FRAME.x.astype("Float64"), VALUES),
        (FRAME.x[::-1], VALUES.flip(0)),
        (np.array([2.5, 1.5, 0.5])[::-1], VALUES),
        (readonly(), VALUES),
        (FRAME.x.values.astype(">f8"), VALUES),
        (np.ma.masked_invalid(FRAME.x.values), VALUES),
        (xr.DataArray(FRAME.x.values), VALUES),
        (pd.Series(pd.arrays.SparseArray([0.5, 1.5, 2.5])), VALUES),
        ([0.5, 1.5, 2.5], VALUES.float()),
        ([0.5, np.float32(1.5), 2.5], VALUES.float()),
        ([1, 2, 3], WHOLE),
        ([[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]])),
        ([True, False], torch.tensor([True, False])),
        (FRAME.n, WHOLE),
        (FRAME.n.astype("Int64"), WHOLE),
        (FRAME.n.astype("int8").values, WHOLE),
        (FRAME.n.astype("uint8").values, WHOLE),  # which torch would take for a mask
        (FRAME.b, torch.tensor([True, False, True])),
        (pd.Series(["b", "a", "b"]).astype("category").cat.codes, torch.tensor([1, 0, 1])),
        (FRAME[["x", "n"]], torch.stack([VALUES, WHOLE.double()], -1)),
        (FRAME[["n", "b"]], torch.tensor([[1, 1], [2, 0], [3, 1]])),
        (FRAME[[]], torch.zeros(3, 0)),
        (np.array(0.5), torch.tensor(0.5, dtype=torch.float64)),
        (np.zeros((0, 2)), torch.zeros(0, 2, dtype=torch.float64)),
    ],
)
def test_arrays_become_tensors(given, expected):
    found = as_tensors("x", given)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_containers_are_looked_into():
    found = as_tensors("d", {"x": FRAME.x, "rest": (FRAME.n, "name"), "rows": [[1.0], [2.0, 3.0]]})
    assert torch.equal(found["x"], VALUES)
    assert torch.equal(found["rest"][0], WHOLE)
    assert found["rest"][1] == "name"
    assert [part.tolist() for part in found["rows"]] == [[1.0], [2.0, 3.0]]
    by_name = as_tensors("d", xr.Dataset({"x": ("row", FRAME.x.values)}))
    assert torch.equal(by_name["x"], VALUES)
    by_column = as_tensors("d", FRAME, "columns")
    assert list(by_column) == ["x", "n", "b"]
    assert torch.equal(by_column["n"], WHOLE)


def test_what_is_no_data_is_left():
    tensor, module, thing = torch.ones(3), torch.nn.Linear(1, 1), object()
    for value in (None, "x", 3, 2.5, True, (3, 4), [], ["a", 1], tensor, module, thing, len, int):
        found = as_tensors("x", value)
        assert found is value or found == value
        assert type(found) is type(value)
    assert type(as_tensors("x", np.int64(3))) is int
    assert type(as_tensors("x", np.float64(3))) is float
    assert as_tensors("x", [1, 2], "lists") == [1, 2]
    assert as_tensors("x", FRAME, "given") is FRAME


@pytest.mark.parametrize("given", [np.ones(3), [np.ones(3)], pd.Series(np.ones(3))])
def test_nothing_is_shared(given):
    found = as_tensors("x", given)
    (found if isinstance(found, torch.Tensor) else found[0]).fill_(2.0)
    assert float(np.asarray(given).max()) == 1.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (pd.Series(["a", "b"]), r"age holds strings; type pandas.factorize\(age\)\[0\]"),
        (np.array(["a", "b"]), "age holds strings"),
        (pd.Series(["a", "b"], dtype=object), "age holds strings"),  # as below pandas 3
        (np.array(["a", 1], dtype=object), "age holds objects"),
        (np.array([], dtype=object), "age holds objects"),
        (pd.Series(["a", "b"]).astype("category"), r"age holds categories; type age.cat.codes"),
        (pd.Series(pd.date_range("2020", periods=2)), r"age holds dates; type \(age - age.min"),
        (pd.Series(pd.date_range("2020", periods=2, tz="UTC")), "age holds dates"),
        (pd.Series(pd.to_timedelta([1, 2], unit="D")), "age holds differences of time"),
        (pd.Series([1, None], dtype="Int64"), r"age has missing values, NA; type age.dropna\(\)"),
        (pd.Series([1.0, None], dtype="Float64"), "age has missing values"),
        (pd.Series([True, None], dtype="boolean"), "age has missing values"),
        (np.array([1, None]), r"age holds objects; type age.astype\(float\)"),
        (np.array([1j]), "age holds complex numbers"),
        (np.zeros(2, [("a", float)]), "age holds records"),
        (np.array([2**63], dtype=np.uint64), r"age holds whole numbers above 2\^63"),
        ([2**70], r"age holds numbers above 2\^63; type numpy.array\(age"),
        (np.ma.masked_less(np.array([1.0, -1.0]), 0), r"age is masked in part; type age.filled"),
        ([1.0, None], "age holds None among numbers"),
        ({"x": pd.Series(["a"])}, r"age\['x'\] holds strings"),
        (pd.DataFrame({"x": [1.0], "city": ["a"]}), r"age\['city'\] holds strings"),
        (pd.DataFrame([[1.0, 2.0]], columns=["x", "x"]), "columns of the same name"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(given, said):
    with pytest.raises(TypeError, match=said):
        as_tensors("age", given)


def test_a_sparse_matrix_is_refused():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"x is sparse; type x.toarray\(\)"):
        as_tensors("x", sparse.eye(3, format="csr"))


def test_a_big_whole_number_stays_exact():
    assert as_tensors("x", np.array([2**53 + 1])).item() == 2**53 + 1
    assert sys.maxsize == as_tensors("x", [sys.maxsize]).item()
