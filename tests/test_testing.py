"""check_flow finds what is broken, names it, and finds nothing in what is whole."""

import dataclasses
import pickle

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch
from torch import nn
from torch.distributions import constraints, transforms

from pyro_nf import Flow, Params, make_flow
from pyro_nf.testing import check_flow


class Affine(Flow):
    """A flow that keeps the contract; each of those below breaks it in one place."""

    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.params = Params(context_dim, shift=(dim,), log_scale=(dim,))

    def forward_and_log_det(self, x, context=None):
        shift, log_scale = self.params(context)
        y = shift + log_scale.exp() * x
        return y, log_scale.sum(-1).expand(y.shape[:-1])

    def inverse_and_log_det(self, y, context=None):
        shift, log_scale = self.params(context)
        x = (y - shift) / log_scale.exp()
        return x, -log_scale.sum(-1).expand(x.shape[:-1])


class Unsummed(Affine):
    def forward_and_log_det(self, x, context=None):
        y, _ = super().forward_and_log_det(x, context)
        return y, self.params(context)[1].expand(y.shape)


class BatchSummed(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, log_det.sum()


class BatchSummedAndExpanded(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, log_det.sum().expand(log_det.shape)


class WrongLogDet(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, log_det + 1e-2


class NegativeLogDet(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, -log_det


class WrongShape(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y[..., :-1], log_det


class OnlyMatrices(Affine):
    def forward_and_log_det(self, x, context=None):
        rows, _ = x.shape
        y, log_det = super().forward_and_log_det(x, context)
        return y, log_det.reshape(rows)


class NoEmptyBatch(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, log_det + 0 * x.max()


class MixesRows(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y + 1e-3 * y.mean(
            tuple(range(y.dim() - 1)), keepdim=True
        ) if x.dim() > 1 else y, log_det


class InPlace(Affine):
    def forward_and_log_det(self, x, context=None):
        if not x.requires_grad:
            x.mul_(1.0).add_(1.0)
        return super().forward_and_log_det(x, context)


class WrongInverse(Affine):
    def inverse_and_log_det(self, y, context=None):
        x, log_det = super().inverse_and_log_det(y, context)
        return x + 1e-3, log_det


class WrongInverseLogDet(Affine):
    def inverse_and_log_det(self, y, context=None):
        x, log_det = super().inverse_and_log_det(y, context)
        return x, -log_det


class InverseWithoutGradient(Affine):
    def inverse_and_log_det(self, y, context=None):
        with torch.no_grad():
            return super().inverse_and_log_det(y, context)


class InverseWithoutParameterGradient(Affine):
    def inverse_and_log_det(self, y, context=None):
        shift, log_scale = (part.detach() for part in self.params(context))
        x = (y - shift) / log_scale.exp()
        return x, -self.params(context)[1].sum(-1).expand(x.shape[:-1])


class Cached(Affine):
    def forward_and_log_det(self, x, context=None):
        known = self.__dict__.setdefault("known", {})
        if id(x) not in known:
            known[id(x)] = [t.detach() for t in super().forward_and_log_det(x, context)], x
        return tuple(known[id(x)][0])


class KeepsGraph(Affine):
    def forward_and_log_det(self, x, context=None):
        self.__dict__["last"] = super().forward_and_log_det(x, context)
        return self.last


class SinglePrecision(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, torch.zeros(y.shape[:-1]).add_(log_det)


class Imprecise(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y + (0.01 if x.dtype is torch.float32 else 0.0), log_det


class DeadParameter(Affine):
    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.params = Params(context_dim, shift=(dim,), log_scale=(dim,), useless=())

    def forward_and_log_det(self, x, context=None):
        shift, log_scale, useless = self.params(context)
        y = shift + log_scale.exp() * x + 0 * useless.unsqueeze(-1)
        return y, log_scale.sum(-1).expand(y.shape[:-1])

    def inverse_and_log_det(self, y, context=None):
        raise NotImplementedError


class InfiniteGradient(DeadParameter):
    def forward_and_log_det(self, x, context=None):
        shift, log_scale, useless = self.params(context)
        y = shift + log_scale.exp() * x + (useless - useless).sqrt().unsqueeze(-1)
        return y, log_scale.sum(-1).expand(y.shape[:-1])


class Unregistered(Affine):
    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.__dict__["loose"] = torch.zeros(dim, dtype=torch.float64, requires_grad=True)


class StateOutside(Affine):
    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.offset = float(torch.randn(()))

    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y + self.offset, log_det

    def inverse_and_log_det(self, y, context=None):
        return super().inverse_and_log_det(y - self.offset, context)


class Unpicklable(Affine):
    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.activation = lambda x: x


class ForgetsInPickle(Affine):
    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.flipped = 1.0

    def __getstate__(self):
        return {**super().__getstate__(), "flipped": -1.0}

    def __deepcopy__(self, memo):
        flow = ForgetsInPickle(self.dim, self.context_dim).to(self.params.theta)
        flow.load_state_dict(self.state_dict())
        return flow

    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return self.flipped * y, log_det

    def inverse_and_log_det(self, y, context=None):
        return super().inverse_and_log_det(self.flipped * y, context)


class ForgetsInCopy(Affine):
    def __init__(self, dim, context_dim=0):
        super().__init__(dim, context_dim)
        self.offset = 1.0

    def __deepcopy__(self, memo):
        flow = ForgetsInCopy(self.dim, self.context_dim).to(self.params.theta)
        flow.load_state_dict(self.state_dict())
        flow.offset = self.offset + 1
        return flow

    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y + self.offset, log_det

    def inverse_and_log_det(self, y, context=None):
        return super().inverse_and_log_det(y - self.offset, context)


class ElementwiseDomain(Affine):
    domain = codomain = constraints.real


class OtherCall(Affine):
    def _call(self, x):
        return x


class OtherInv(Affine):
    @property
    def inv(self):
        return self


class NotANumber(Affine):
    def forward_and_log_det(self, x, context=None):
        y, log_det = super().forward_and_log_det(x, context)
        return y, log_det * torch.where(x[..., 0] > 2, torch.nan, 1.0)


BROKEN = {
    Unsummed: r"batch .*log-det has shape \(128, 3\).*expected \(128,\), one a vector",
    BatchSummed: r"batch .*log-det has shape \(\)",
    BatchSummedAndExpanded: "batch against rows: off by",
    WrongLogDet: "log-det: off by 0.0",
    NegativeLogDet: "log-det: off by",
    WrongShape: r"batch .*value has shape \(128, 2\).*expected \(128, 3\)",
    OnlyMatrices: r"batch \(\): not enough values to unpack",
    NoEmptyBatch: r"batch \(0,\): .*max\(\)",
    MixesRows: "batch against rows: off by",
    InPlace: "input is changed in place",
    WrongInverse: "inverse of the flow: off by 0.0",
    WrongInverseLogDet: "log-dets of both: off by",
    InverseWithoutGradient: "gradients of the inverse: off by",
    InverseWithoutParameterGradient: "gradients of the inverse: off by",
    Cached: "nothing cached: off by",
    KeepsGraph: "copied|deepcopy",
    SinglePrecision: "for torch.float64 the log-det has shape .*torch.float32",
    Imprecise: "float32: off by 0.0",
    DeadParameter: "gradient of params.useless: zero",
    InfiniteGradient: "gradient of params.useless: not finite",
    Unregistered: "Unregistered.loose: asks for a gradient but is no nn.Parameter",
    StateOutside: "state_dict: off by",
    Unpicklable: "pickle: .*[Cc]an't (pickle|get) ",
    ForgetsInPickle: "pickle: off by",
    ForgetsInCopy: "deepcopy: off by",
    ElementwiseDomain: "interface: .*event_dim=0.*expected True, 1 and 1",
    OtherCall: "as a transform: off by",
    OtherInv: "flow.inv: off by",
    NotANumber: "log-det: off by inf",
}


@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_flow_that_keeps_the_contract(context_dim):
    for spec in (Affine, Affine(3, context_dim), [Affine, Affine]):
        report = check_flow(spec, 3, context_dim=context_dim)
        assert report.inverse
        assert report.untrained == ()
        assert max(report.errors.values()) < 1e-6  # float32's rounding is the largest


@pytest.mark.parametrize(
    ("flow", "match"), BROKEN.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_flow_is_named(flow, match):
    with pytest.raises(ValueError, match=f"^{flow.__name__} with dim=3 breaks.*(?s:.)*{match}"):
        check_flow(flow, 3)


def test_a_context_that_changes_nothing():
    class Deaf(Affine):
        def __init__(self, dim, context_dim=0):
            super().__init__(dim)
            self.context_dim = context_dim

        def forward_and_log_det(self, x, context=None):
            return super().forward_and_log_det(x)

        def inverse_and_log_det(self, y, context=None):
            return super().inverse_and_log_det(y)

    assert check_flow(Deaf, 3).parameters == 6
    with pytest.raises(ValueError, match="conditions: the context changes nothing"):
        check_flow(Deaf, 3, context_dim=2)


def test_contexts_for_one_point_and_other_views():
    class RowsOnly(Affine):
        def forward_and_log_det(self, x, context=None):
            y, log_det = super().forward_and_log_det(x, context)
            return y.reshape(x.shape), log_det

    class Swapped(Affine):
        def condition(self, context):
            return super().condition(context.flip(0))

    with pytest.raises(ValueError, match="conditions: RuntimeError: shape"):
        check_flow(RowsOnly, 3, context_dim=2)
    with pytest.raises(ValueError, match=r"flow.condition\(context\): off by"):
        check_flow(Swapped, 3, context_dim=2)


def test_all_problems_are_told_at_once_and_each_once():
    class Wreck(WrongInverse, Unpicklable):
        def forward_and_log_det(self, x, context=None):
            y, log_det = super().forward_and_log_det(x, context)
            return y, log_det + 0.1

    with pytest.raises(ValueError, match="breaks the contract") as caught:
        check_flow(Wreck, 3)
    names = [line.partition(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert {"- log-det", "- inverse of the flow", "- pickle"} <= set(names)
    assert len(names) == len(set(names))
    with pytest.raises(ValueError, match="breaks the contract") as caught:
        check_flow(Unsummed, 3)  # the same for every batch
    assert str(caught.value).count("\n- ") == 1


def test_the_report():
    report = check_flow(Affine, 3)
    assert (report.name, report.dim, report.context_dim, report.parameters) == ("Affine", 3, 0, 6)
    assert report.birth_gap < 0.2  # parameters of 0.01 and points of up to five
    assert {"log-det", "inverse of the flow", "float32", "pickle"} <= report.errors.keys()
    lines = str(report).splitlines()
    assert lines[0] == "Affine with dim=3 keeps the contract"
    assert "no gradient" not in str(report)
    assert max(map(len, lines)) < 100
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.dim = 4
    assert str(check_flow(Affine, 3, context_dim=2)).startswith(
        "Affine with dim=3 and context_dim=2"
    )


def test_what_is_reported_and_no_fault():
    class Half(Affine):
        """No inverse, far from the identity, and half of its shift has no effect."""

        def forward_and_log_det(self, x, context=None):
            shift, log_scale = self.params(context)
            y = 3 + shift * (torch.arange(self.dim) % 2) + log_scale.exp() * x
            return y.to(x), log_scale.sum(-1).expand(y.shape[:-1])

        def inverse_and_log_det(self, y, context=None):
            raise NotImplementedError

    report = check_flow(Half, 4)
    assert not report.inverse
    assert report.untrained == ("params.shift (2 of 4 elements)",)
    assert report.birth_gap > 2.8
    assert report.density_gap > 3
    assert "no gradient" in str(report)
    permuted = check_flow("permute", 5)
    assert permuted.birth_gap > 1
    assert permuted.density_gap < 1e-12


def test_in_one_dimension_a_rotation_has_nothing_to_turn():
    report = check_flow("householder", 1, context_dim=2)
    assert report.untrained == (
        "params.v (2 of 2 elements)",
        "params.v (of the context) (4 of 4 elements)",
    )


@pytest.mark.parametrize(
    "given", [Affine(3), pyro_transforms.planar(3), transforms.ExpTransform()], ids=str
)
def test_nothing_of_the_callers_is_changed(given):
    modules = given if isinstance(given, nn.Module) else nn.Module()
    before, state = pickle.dumps(given), torch.get_rng_state()
    training = modules.training
    check_flow(given, 3)
    assert pickle.dumps(given) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert modules.training == training
    assert all(parameter.grad is None for parameter in modules.parameters())


def test_the_same_answer_each_time():
    torch.manual_seed(1)
    first = check_flow("planar", 3)
    torch.manual_seed(2)
    assert check_flow("planar", 3) == first


def test_a_trained_flow_is_checked_as_it_is():
    flow = make_flow("planar", 3)
    optimizer = torch.optim.SGD(flow.parameters(), 1.0)
    y, log_det = flow.forward_and_log_det(torch.ones(5, 3))
    (y.sum() + log_det.sum()).backward()
    optimizer.step()
    assert check_flow(flow).birth_gap > 0.1
    assert check_flow("planar", 3).birth_gap < 0.1


def test_a_class_made_in_a_function_is_pickled_in_spirit():
    class Local(Affine):
        pass

    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Local(3))
    assert check_flow(Local, 3).errors["pickle"] == 0


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((Affine,), {}, ValueError, r"no dimension yet; type check_flow\(..., dim=3\)"),
        (("planar",), {}, ValueError, "no dimension yet"),
        ((Affine(3), 4), {}, ValueError, "made with dim=3, not dim=4"),
        (
            (Affine(3),),
            {"context_dim": 2},
            ValueError,
            "made with context_dim=0, not context_dim=2",
        ),
        (("planr", 3), {}, ValueError, "did you mean 'planar'"),
        ((3, 3), {}, TypeError, "expected a formula"),
        (("planar", 0), {}, ValueError, "dim must be 1 or more, got 0"),
        ((Affine(3), 0), {}, ValueError, "dim must be 1 or more, got 0"),
        ((Affine(3),), {"context_dim": 1.0}, TypeError, r"context_dim must be an int, got 1\.0"),
        ((transforms.AbsTransform(), 3), {}, ValueError, "not bijective"),
    ],
)
def test_what_cannot_be_checked(arguments, options, error, match):
    with pytest.raises(error, match=match):
        check_flow(*arguments, **options)


def test_a_flow_that_holds_a_graph_cannot_be_copied():
    flow = pyro_transforms.planar(3)
    kept = flow(torch.zeros(3))
    assert kept.requires_grad
    with pytest.raises(ValueError, match="Planar cannot be copied: RuntimeError"):
        check_flow(flow, 3)


def test_transforms_with_a_wrong_event_dim():
    class PerVector(transforms.AffineTransform):
        """Elementwise by its domain, but with one log-determinant a vector."""

        def log_abs_det_jacobian(self, x, y):
            return super().log_abs_det_jacobian(x, y).sum(-1)

    class PerElement(PerVector):
        domain = codomain = constraints.real_vector

        def log_abs_det_jacobian(self, x, y):
            return super(PerVector, self).log_abs_det_jacobian(x, y)

    for dim in (1, 3):
        with pytest.raises(ValueError, match="PerVector declares event_dim=0"):
            check_flow(PerVector(0.0, 2.0), dim)
        with pytest.raises(ValueError, match="PerElement declares event_dim=1"):
            check_flow(PerElement(0.0, 2.0), dim)


def test_pyros_sylvester_is_wrong_and_found():
    # Its tanh stands between S Q^T and Q R, where the determinant does not factorize.
    with pytest.raises(ValueError, match="log-det: off by"):
        check_flow(pyro_transforms.sylvester, 3)
