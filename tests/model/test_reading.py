"""Which dtypes a model can compute with: whatever the data's are, the density is the same."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_nf.model import Reading, read

SINGLE, DOUBLE = torch.float32, torch.float64
X = np.array([[0.5, 1.0], [1.5, -1.0], [2.5, 0.0]])
Y = np.array([0.1, 0.2, 0.4])


def plain(x, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)


def of_the_data(x, y=None):
    b = pyro.sample("b", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)


def logistic(x, group, won):
    a = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("won", dist.Bernoulli(logits=a[group] + x), obs=won)


def by_name(frame):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(b * frame["x"], 1.0).to_event(1), obs=frame["y"])


def dtypes(model, *args, **kwargs):
    found, named = read(model, args, kwargs)
    return [value.dtype for value in (*found, *named.values())]


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_floats_become_those_of_the_latents(kind):
    assert dtypes(plain, X.astype(kind), Y.astype(kind)) == [SINGLE, SINGLE]
    assert dtypes(plain, torch.tensor(X), y=Y.astype("float32")) == [SINGLE, SINGLE]


def test_a_model_that_is_of_the_datas_dtype_keeps_it():
    assert dtypes(of_the_data, X, Y) == [DOUBLE, DOUBLE]
    assert dtypes(of_the_data, X.astype("float32"), Y.astype("float32")) == [SINGLE, SINGLE]
    assert dtypes(of_the_data, X, Y.astype("float32")) == [DOUBLE, DOUBLE]


def test_data_of_the_latents_dtype_are_the_users_own_tensors():
    x, y = torch.tensor(X).float(), torch.tensor(Y).float()
    (first, second), _ = read(plain, (x, y), {})
    assert first is x
    assert second is y


def test_the_default_dtype_is_heeded():
    torch.set_default_dtype(DOUBLE)
    try:
        assert dtypes(plain, X.astype("float32"), Y) == [DOUBLE, DOUBLE]
    finally:
        torch.set_default_dtype(SINGLE)


def test_whole_numbers_stay_but_where_floats_are_needed():
    won = np.array([0, 1, 1])
    assert dtypes(logistic, Y, won, won) == [SINGLE, torch.int64, SINGLE]
    assert dtypes(logistic, Y, won, won > 0) == [SINGLE, torch.int64, SINGLE]
    assert dtypes(plain, X.astype(int), won) == [SINGLE, torch.int64]
    frame = pd.DataFrame({"one": [1, 2, 3], "two": [0, 1, 0]})
    assert dtypes(plain, frame, won) == [SINGLE, torch.int64]
    count = np.array([3, 0, 1])

    def counts(n):
        pyro.sample("n", dist.Poisson(pyro.sample("r", dist.Gamma(1.0, 1.0))).to_event(0), obs=n[0])

    assert dtypes(counts, count) == [torch.int64]


def test_a_frame_is_a_matrix_or_its_columns_as_the_model_asks():
    frame = pd.DataFrame({"x": Y, "y": Y})
    (found,), _ = read(by_name, (frame,), {})
    assert set(found) == {"x", "y"}
    assert found["x"].dtype == SINGLE
    (matrix, _), _ = read(plain, (frame, Y), {})
    assert matrix.shape == (3, 2)


def test_a_list_stays_one_where_the_model_asks_for_that():
    def sized(x, sizes):
        b = pyro.sample("b", dist.Normal(torch.zeros(sizes), 1.0).to_event(2))
        pyro.sample("y", dist.Normal(b.sum(), 1.0), obs=x[0])

    (x, sizes), _ = read(sized, (Y, [3, 4]), {})
    assert sizes == [3, 4]
    assert x.dtype == SINGLE


@pytest.mark.parametrize(
    "own",
    [
        lambda frame: torch.tensor(frame["x"].values),
        lambda frame: torch.from_numpy(frame.x.to_numpy(copy=True)),
        lambda frame: torch.tensor(frame[frame.city == "a"].x.values),
    ],
)
def test_a_model_that_makes_its_own_tensors_has_what_was_given(own):
    def model(frame):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(b, 1.0), obs=own(frame).float()[0])

    frame = pd.DataFrame({"x": Y, "city": ["a", "b", "a"]})
    (found,), _ = read(model, (frame,), {})
    assert found is frame
    with pytest.raises(TypeError, match=r"argument x\['city'\] holds strings"):
        read(plain, (frame, Y), {})


def test_what_a_tensor_has_not_is_told():
    def model(frame):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(b, 1.0).expand([3]).to_event(1), obs=frame.x)

    with pytest.raises(TypeError, match=r"no attribute 'x'; type df\['x'\] in the model"):
        read(model, (pd.DataFrame({"x": Y}),), {})


def test_the_density_is_that_of_clean_data():
    clean = poutine.trace(poutine.condition(plain, {"b": torch.ones(2)})).get_trace
    expected = clean(torch.tensor(X).float(), torch.tensor(Y).float()).log_prob_sum()
    args, kwargs = read(plain, (pd.DataFrame(X, columns=["a", "b"]),), {"y": pd.Series(Y)})
    assert torch.equal(clean(*args, **kwargs).log_prob_sum(), expected)


def test_known_latents_decide_for_new_data():
    reading = Reading.of(of_the_data, (X.astype("float32"),), {}, {DOUBLE})
    assert reading((X.astype("float32"),), {})[0][0].dtype == DOUBLE


def test_nothing_is_left_of_the_runs():
    def trained(x):
        weight = pyro.param("weight", lambda: torch.randn(()))
        pyro.sample("y", dist.Normal(weight + pyro.sample("b", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    before, x = torch.get_rng_state(), np.array(0.5)
    read(trained, (x,), {})
    assert torch.equal(torch.get_rng_state(), before)
    assert "weight" not in pyro.get_param_store()


def test_numbers_that_float32_cannot_tell_apart_are_told_of():
    design = X + np.array([0.0, 1.7e9])  # seconds, since the beginning of 1970
    with pytest.warns(UserWarning, match="argument x is torch.float64 and becomes torch.float32"):
        read(plain, (design, Y), {})
    with pytest.raises(ValueError, match="argument x has numbers up to 2e\\+50"):
        read(plain, (X * 1e50, Y), {})


def test_rounding_alone_is_not_told_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(plain, (np.full((3, 2), 0.1), Y * np.nan), {})


def test_a_tensor_from_outside_is_told_of():
    outside = torch.tensor(X)

    def closed(y):
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(outside @ b, 1.0).to_event(1), obs=y)

    with pytest.raises(TypeError, match=r"latents are torch.float32, all others.*x = x.float\(\)"):
        read(closed, (Y,), {})
    with pytest.raises(TypeError, match=r"given x, group as torch.float64.*i = i.long\(\)"):
        read(logistic, (Y, np.array([0.0, 1.0, 2.0]), Y > 0.15), {})


def test_another_error_is_left_for_its_own_sentence():
    def failing(x):
        pyro.sample("b", dist.Normal(0.0, 1.0))
        raise KeyError("of the user")

    (x,), _ = read(failing, (Y,), {})
    assert x.dtype == SINGLE
