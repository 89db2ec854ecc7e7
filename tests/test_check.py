"""The checks themselves: each listed wrong answer must be caught, and right ones must pass."""

import copy
import math
import random
import statistics
from contextlib import nullcontext
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromfound.check import (
    ALARM,
    Exercise,
    MutantHunt,
    Prediction,
    Search,
    Spread,
    agree,
    gradient_check,
    same_as,
    spread,
    t_quantile,
)


class BatchNorm(nn.Module):
    """A right BatchNorm1d for (N, C); each mistake below changes one method."""

    def __init__(self, c: int = 5, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c))
        self.register_buffer("running_mean", torch.zeros(c))
        self.register_buffer("running_var", torch.ones(c))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def stats(self, x):
        return x.mean(0), x.var(0, correction=0)

    def track(self, x, mean, var):
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(x.var(0), self.momentum)
            self.num_batches_tracked.add_(1)

    def scale(self, x, mean, var):
        return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias

    def forward(self, x):
        if not self.training:
            return self.scale(x, self.running_mean, self.running_var)
        mean, var = self.stats(x)
        self.track(x, mean, var)
        return self.scale(x, mean, var)


def mistake(**methods):
    return type("Wrong", (BatchNorm,), methods)


def _track(running, times=1, count=True):
    def track(self, x, mean, var):
        with torch.no_grad():
            for _ in range(times):
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(running(x), self.momentum)
            self.num_batches_tracked.add_(int(count))

    return track


class PlainStatistics(BatchNorm):
    def __init__(self):
        super().__init__()
        for name in ("running_mean", "running_var"):
            value = self._buffers.pop(name)
            setattr(self, name, value)


class KeptMomentum(BatchNorm):
    def __init__(self):
        super().__init__(momentum=0.9)


class SharedStatistics(BatchNorm):
    """Running statistics that a deep copy shares with its original."""

    def __deepcopy__(self, memo):
        new = type(self)()
        new.weight, new.bias = (
            nn.Parameter(self.weight.detach().clone()),
            nn.Parameter(self.bias.detach().clone()),
        )
        new.train(self.training)
        return new


WRONG_BATCHNORMS = {
    "statistics under no_grad": mistake(
        stats=lambda self, x: (x.mean(0).detach(), x.var(0, correction=0).detach())
    ),
    "only the mean detached": mistake(
        stats=lambda self, x: (x.mean(0).detach(), x.var(0, correction=0))
    ),
    "only the variance detached": mistake(
        stats=lambda self, x: (x.mean(0), x.var(0, correction=0).detach())
    ),
    "unbiased variance in the output": mistake(stats=lambda self, x: (x.mean(0), x.var(0))),
    "E[x^2] - E[x]^2": mistake(stats=lambda self, x: (x.mean(0), (x * x).mean(0) - x.mean(0) ** 2)),
    "biased running variance": mistake(track=_track(lambda x: x.var(0, correction=0))),
    "running std instead of variance": mistake(track=_track(lambda x: x.std(0))),
    "tracks twice": mistake(track=_track(lambda x: x.var(0), times=2)),
    "does not count batches": mistake(track=_track(lambda x: x.var(0), count=False)),
    "momentum reversed": KeptMomentum,
    "eps outside the root": mistake(
        scale=lambda self, x, mean, var: (
            (x - mean) / (var.sqrt() + self.eps) * self.weight + self.bias
        )
    ),
    "weight forgotten": mistake(
        scale=lambda self, x, mean, var: (x - mean) / (var + self.eps).sqrt() + self.bias
    ),
    "bias forgotten": mistake(
        scale=lambda self, x, mean, var: (x - mean) / (var + self.eps).sqrt() * self.weight
    ),
    "batch statistics in eval mode": mistake(forward=lambda self, x: self.scale(x, *self.stats(x))),
    "statistics are no buffers": PlainStatistics,
    "one mean for all features": mistake(stats=lambda self, x: (x.mean(), x.var(0, correction=0))),
}


def test_same_as_accepts_a_right_batchnorm(capsys):
    same_as(BatchNorm(), nn.BatchNorm1d(5), torch.randn(64, 5))
    assert "agree on 5 probes" in capsys.readouterr().out


@pytest.mark.parametrize("name", WRONG_BATCHNORMS)
def test_same_as_catches(name):
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="same_as"):
        same_as(WRONG_BATCHNORMS[name](), nn.BatchNorm1d(5), torch.randn(64, 5))


FUNCTIONS = [
    (
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
        lambda x: x.softmax(-1),
        [torch.randn(3, 4)],
        False,
        "overflow far from zero",
    ),
    (lambda x: x.relu(), torch.relu, [torch.randn(3, 4)], True, "relu"),
    (
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(min=0).double(),
        [torch.randn(3)],
        False,
        "another dtype",
    ),
    (lambda x: x[None], lambda x: x, [torch.randn(3)], False, "another shape"),
    (
        lambda x, i: x[i],
        lambda x, i: x.index_select(0, i),
        [torch.randn(4, 2), torch.tensor([0, 0, 3])],
        True,
        "integers pass through",
    ),
    (lambda x: x.detach() * x, lambda x: x * x, [torch.randn(3)], False, "half a gradient"),
    (lambda x: (x * 1).detach(), lambda x: x * 1, [torch.randn(3)], False, "no gradient at all"),
    (lambda x: x * 2, lambda x: x + x, [torch.randn(4, 3).half()], True, "half precision"),
    (
        nn.functional.dropout,
        nn.functional.dropout,
        [torch.randn(8, 8)],
        True,
        "random, seeded alike",
    ),
    (
        lambda x: x * (x.abs() > 0.01),
        lambda x: x * 1,
        [torch.tensor([1.0, -2.0])],
        False,
        "wrong for tiny numbers",
    ),
    (
        lambda x, y: (x * 2, None),
        lambda x, y: (x + x, None),
        [torch.randn(3), torch.randn(3)],
        True,
        "None, and an input that is not used",
    ),
    (lambda x: (x * 2, x), lambda x: (x + x, None), [torch.randn(3)], False, "a tensor for None"),
    (
        lambda i: i.add_(1),
        lambda i: i + 1,
        [torch.tensor([1, 2])],
        True,
        "integers changed in place",
    ),
    (
        lambda x: x * x,
        lambda x: x**2,
        [torch.randn(3, requires_grad=True)],
        True,
        "an input with a gradient",
    ),
    (
        lambda x: x.detach() * x,
        lambda x: x * x,
        [torch.randn(3, requires_grad=True)],
        False,
        "half a gradient of an input with one",
    ),
]


@pytest.mark.parametrize(
    "mine, reference, inputs, right, name", FUNCTIONS, ids=[f[-1] for f in FUNCTIONS]
)
def test_same_as_on_functions(mine, reference, inputs, right, name):
    torch.manual_seed(0)
    if right:
        same_as(mine, reference, *inputs)
    else:
        with pytest.raises(AssertionError):
            same_as(mine, reference, *inputs)


def tripled(x):
    return 3 * x


@pytest.mark.parametrize(
    "mine, inputs, options, says",
    [
        (tripled, [torch.ones(2)], {"steps": 0}, "same_as expected steps of 1 or more"),
        (tripled, [torch.ones(2)], {"steps": 1.5}, "same_as expected steps of 1 or more"),
        (tripled, [torch.ones(2)], {"rtol": math.inf}, "same_as expected rtol of 0.0 or more"),
        (tripled, [torch.ones(2)], {"atol": math.nan}, "same_as expected atol of 0.0 or more"),
        (tripled, [torch.ones(2)], {"atol": -1}, "same_as expected atol of 0.0 or more"),
        (tripled, [torch.ones(2)], {"rtol": "1"}, "same_as expected rtol .* got '1'"),
        (tripled, [torch.ones(0, 3)], {}, "nothing to compare"),
        (lambda x: None, [torch.ones(2)], {}, "nothing to compare"),
        (nn.BatchNorm1d(3), [torch.ones(0, 3)], {}, "nothing to compare"),
    ],
)
def test_same_as_refuses_what_would_pass_unseen(mine, inputs, options, says):
    with pytest.raises(ValueError, match=says):
        same_as(mine, mine, *inputs, **options)


def test_same_as_says_where_a_single_number_differs():
    with pytest.raises(AssertionError, match=r"yours 2, reference 3 at \[\]"):
        same_as(lambda x: 2 * x.sum(), lambda x: 3 * x.sum(), torch.ones(1))


class GoodInCopies(nn.Linear):
    """A wrong layer whose deep copies are right ones."""

    def __deepcopy__(self, memo):
        copied = nn.Linear(self.in_features, self.out_features)
        copied.load_state_dict(self.state_dict())
        return copied

    def forward(self, x):
        return 2 * super().forward(x)


def test_same_as_calls_the_layer_itself_not_only_copies():
    with pytest.raises(AssertionError, match="a deep copy of yours does not answer as it does"):
        same_as(GoodInCopies(3, 2), nn.Linear(3, 2), torch.randn(4, 3))


def test_same_as_leaves_running_statistics_and_modes_alone():
    mine, x = nn.Sequential(BatchNorm(), nn.Dropout(), BatchNorm().eval()), torch.randn(4, 5)
    before = copy.deepcopy(mine.state_dict())
    modes = [module.training for module in mine.modules()]
    same_as(mine, mine, x)
    assert all(torch.equal(value, before[key]) for key, value in mine.state_dict().items())
    assert [module.training for module in mine.modules()] == modes
    assert all(p.grad is None for p in mine.parameters())


def test_same_as_leaves_its_arguments_alone():
    mine, reference, x = nn.Linear(3, 2), nn.Linear(3, 2), torch.randn(4, 3)
    before = copy.deepcopy((mine.state_dict(), reference.state_dict(), x))
    same_as(mine, reference, x)
    for now, then in zip((mine.state_dict(), reference.state_dict()), before, strict=False):
        assert all(torch.equal(now[k], then[k]) for k in then)
    assert torch.equal(x, before[2])
    assert x.grad is None
    assert not x.requires_grad


def test_same_as_names_a_missing_key():
    with pytest.raises(AssertionError, match="state_dicts differ.*bias"):
        same_as(nn.Linear(3, 2, bias=False), nn.Linear(3, 2), torch.randn(4, 3))


def test_gradient_check():
    gradient_check(lambda a, b: a @ b.sin(), torch.randn(3, 4), torch.randn(4, 2))

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(AssertionError, match="input 1"):
        gradient_check(lambda a, b: a + Doubled.apply(b), torch.randn(3), torch.randn(3))


def with_gradient(backward):
    """The square, with another gradient."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            return backward(g)

    return Square.apply


@pytest.mark.parametrize(
    "fn, x",
    [
        (torch.sqrt, torch.zeros(1)),
        (torch.log, torch.tensor([-1.0])),
        (with_gradient(lambda g: g * math.nan), torch.ones(3)),
        (with_gradient(lambda g: g * math.inf), torch.ones(3)),
        (lambda x: torch.where(x > 1, math.inf, x), torch.ones(1)),
        (lambda x: x * torch.tensor([2.0, math.nan]), torch.ones(2)),
    ],
)
def test_gradient_check_refuses_a_gradient_that_is_no_number(fn, x):
    with pytest.raises(AssertionError, match="gradient_check: input 0"):
        gradient_check(fn, x)


@pytest.mark.parametrize(
    "inputs, options",
    [
        ([], {}),
        ([torch.ones(0, 3)], {}),
        ([torch.ones(2), torch.tensor([1.0, math.nan])], {}),
        ([torch.tensor([math.inf])], {}),
        ([3.0], {}),
        ([torch.ones(2)], {"directions": 0}),
        ([torch.ones(2)], {"directions": -1}),
        ([torch.ones(2)], {"directions": 2.5}),
        ([torch.ones(2)], {"h": 0}),
        ([torch.ones(2)], {"h": -1e-6}),
        ([torch.ones(2)], {"h": math.nan}),
        ([torch.ones(2)], {"h": "1"}),
        ([torch.ones(2)], {"tol": math.inf}),
        ([torch.ones(2)], {"tol": math.nan}),
        ([torch.ones(2)], {"tol": -1}),
    ],
    ids=repr,
)
def test_gradient_check_refuses_what_would_pass_unseen(inputs, options):
    with pytest.raises(ValueError, match="gradient_check expected"):
        gradient_check(lambda *xs: sum(2 * x for x in xs), *inputs, **options)


accelerator = pytest.mark.skipif(
    torch.get_device_module() is torch.cpu, reason="needs an accelerator"
)


@accelerator
def test_results_may_come_from_an_accelerator():
    device = torch.get_device_module().__name__.removeprefix("torch.")
    x = torch.arange(3.0)
    gradient_check(torch.sin, x.to(device))
    same_as(lambda x: x.to(device), lambda x: x * 1, x)
    assert agree(x.to(device), x)
    moves = Exercise("9.9", lambda x: x * 1, [(x,)], {"you add": lambda x: x + 1})
    assert moves.judge(lambda x: x.to(device)).passed
    assert "you add" in str(moves.judge(lambda x: x.to(device) + 1))
    gpu = torch.get_device_module()
    gpu.manual_seed_all(0)
    before = gpu.get_rng_state()
    moves.judge(lambda x: torch.randn(3, device=device))
    assert torch.equal(gpu.get_rng_state(), before)


AGREE = [
    (math.inf, 5.0, False),
    (5.0, math.inf, False),
    (-math.inf, math.inf, False),
    (math.inf, math.inf, True),
    (math.inf, 10**400, False),
    (10**400, 1.0, False),
    (10**400, 10**400, True),
    (1e307, 1e307 * (1 + 1e-7), True),
    (np.ones(3), np.ones(3) + 1e-7, True),
    (np.ones(3), np.array([1.0, 1.0, 2.0]), False),
    (np.ones(3), np.ones((3, 1)), False),
    (np.ones(0), np.ones(0), True),
    (np.array([math.inf, math.nan]), np.array([math.inf, math.nan]), True),
    (np.array([math.inf]), np.array([1.0]), False),
    (np.array(["a"]), np.array(["a"]), True),
    (np.ones(3), [1.0, 1.0, 1.0], False),
    (np.float32(1), np.float32(1 + 1e-6), True),
    (np.float32(1), 1.0, True),
    (1.0, 1.0 + 1e-7, True),
    (1.0, 1.1, False),
    (True, 1, False),
    ([1, 2], (1, 2), False),
    (torch.Size([1, 4]), (1, 4), True),
    ((1, 4), torch.Size([1, 4]), True),
    (torch.Size([1, 4]), (4, 1), False),
    (torch.Size([1, 4]), [1, 4], False),
    ({"shape": torch.Size([2])}, {"shape": (2,)}, True),
    ([1.0], [1.0, 2.0], False),
    (torch.ones(2), torch.ones(2, 1), False),
    (torch.tensor([1, 2]), torch.tensor([1, 2]), True),
    (float("nan"), 1.0, False),
    (ValueError("a"), ValueError("b"), True),
    (ValueError("a"), TypeError("a"), False),
    ({"a": 1}, {"a": 1}, True),
    ({"a": 1}, {"b": 1}, False),
    ("x", "x", True),
    (None, 0, False),
    (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
    (ValueError("a"), "a", False),
    ("a", ValueError("a"), False),
]


@pytest.mark.parametrize("a, b, right", AGREE)
def test_agree(a, b, right):
    assert agree(a, b) is right


def total(xs):
    return sum(xs)


@pytest.mark.parametrize("tol", [math.inf, math.nan, -1, "1", None], ids=repr)
def test_a_tolerance_with_which_everything_passes_is_refused(tol):
    for call in (
        lambda: agree(1.0, 2.0, tol),
        lambda: Exercise("9.1", total, [([1],)], {}, tol=tol),
        lambda: Prediction("9.5", 1, {}, because="", tol=tol),
        lambda: spread([1.0, 2.0]).agrees(spread([8.0, 9.0]), floor=tol),
    ):
        with pytest.raises(ValueError, match="expected (tol|floor) of 0.0 or more, finite, got"):
            call()


@pytest.mark.parametrize(
    "right, cases", [(total, []), (None, [([1],)]), (lambda: 1, [([1],), ([2],)])]
)
def test_an_exercise_without_a_right_answer_is_refused(right, cases):
    with pytest.raises(ValueError, match=f"9.1: the right function answers none of {len(cases)}"):
        Exercise("9.1", right, cases, {})


def test_an_infinite_answer_is_matched_by_that_alone():
    limit = Exercise("9.1", lambda: math.inf, [()], {"you stop at a number": lambda: 5.0})
    assert limit.judge(lambda: math.inf).passed
    assert not limit.judge(lambda: -math.inf).passed
    assert not Prediction("9.5", math.inf, {}, because="").judge(5).passed


def test_an_exercise_may_return_arrays():
    ones = Exercise("9.1", np.ones, [(3,)], {"you count": np.arange})
    assert ones.judge(lambda n: np.full(n, 1.0)).passed
    assert "you count" in str(ones.judge(lambda n: np.arange(n)))


def test_cases_may_come_from_a_generator():
    once = Exercise("9.1", total, (([n],) for n in (1, 2)), {"nothing": lambda xs: 0})
    assert not once.judge(lambda xs: 0).passed


SUM = Exercise(
    "9.1",
    total,
    [([2],), ([1, 2],)],
    wrong={"you stop one short": lambda xs: sum(xs[:-1])},
    read="somewhere",
)


def test_exercise_verdicts():
    assert SUM.judge(total).passed
    wrong = SUM.judge(lambda xs: sum(xs[:-1]))
    assert not wrong.passed
    assert "you stop one short" in str(wrong)
    assert "Read: somewhere" in str(wrong)
    assert len(wrong.lines) <= 6
    assert "[2]" in str(wrong), "the smallest failing input is shown"
    unknown = SUM.judge(lambda xs: 7)
    assert not unknown.passed
    assert "looks as if" not in str(unknown)
    raising = SUM.judge(lambda xs: xs.nothing)
    assert not raising.passed
    assert "AttributeError" in str(raising)


def test_exercise_sees_a_changed_input():
    assert "changes its input" in str(SUM.judge(lambda xs: sum([xs.pop() for _ in range(len(xs))])))


def test_exercise_expects_the_refusal():
    def positive(x):
        if x < 0:
            raise ValueError(f"got {x}")
        return x**0.5

    root = Exercise(
        "9.2",
        positive,
        [(4.0,), (-1.0,)],
        wrong={"you return nan": lambda x: positive(x) if x >= 0 else float("nan")},
    )
    assert root.judge(positive).passed
    assert "you return nan" in str(root.judge(lambda x: positive(x) if x >= 0 else float("nan")))


def _yielded(fn, *values):
    return list(fn(values))


EVENS = Exercise(
    "9.10",
    lambda xs: (x for x in xs if x % 2 == 0),
    [(1, 2, 4), (3,)],
    wrong={"you yield the odd ones": lambda xs: (x for x in xs if x % 2)},
    probe=_yielded,
)


def test_a_probe_calls_the_answer_with_each_case():
    assert EVENS.judge(lambda xs: filter(lambda x: x % 2 == 0, xs)).passed, (
        "called directly, no two generators are equal"
    )
    wrong = EVENS.judge(lambda xs: (x for x in xs if x % 2))
    assert not wrong.passed
    assert "you yield the odd ones" in str(wrong)
    assert "called with  1, 2, 4" in str(wrong), "the case is shown, not the answer under test"
    raising = EVENS.judge(lambda xs: 1 / 0)
    assert not raising.passed
    assert "ZeroDivisionError" in str(raising)


def test_an_exercise_leaves_random_numbers_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    dice = Exercise(
        "9.12",
        lambda n: n,
        [(1,)],
        wrong={"one more": lambda n: n + 1},
        probe=lambda fn, n: (torch.manual_seed(5), fn(n))[1],
    )
    assert dice.judge(lambda n: torch.rand(n)[0] * 0 + n).passed is False
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("in_use", [True, False])
def test_an_exercise_puts_back_the_random_state_of_a_gpu_in_use(monkeypatch, in_use):
    state = [0]
    gpu = SimpleNamespace(
        is_initialized=lambda: in_use,
        get_rng_state=lambda: list(state),
        set_rng_state=lambda kept: state.__setitem__(slice(None), kept),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda: gpu)
    Exercise("9.13", lambda n: state.append(n), [(1,)], {}).judge(lambda n: 1 / 0)
    assert state == ([0] if in_use else [0, 1])


def test_a_probe_sees_a_changed_input():
    double = Exercise(
        "9.11",
        lambda xs: [2 * x for x in xs],
        [([1, 2],)],
        wrong={"unchanged": list},
        probe=lambda fn, xs: fn(xs),
    )

    def in_place(xs):
        xs[:] = [2 * x for x in xs]
        return list(xs)

    assert "changes its input" in str(double.judge(in_place))


def test_an_answer_keeps_the_type_of_its_inputs():
    halve = Exercise("9.2", lambda x: x / 2, [(1,), (torch.tensor([1.0, 3.0]),)], wrong={})
    assert halve.judge(lambda x: x * 0.5).passed
    assert "torch.float32 where torch.float64 is right" in str(
        halve.judge(lambda x: x.float() / 2 if isinstance(x, torch.Tensor) else x / 2)
    )


def test_blind_exercises_cannot_be_built():
    with pytest.raises(ValueError, match="cannot tell right from: you take the last"):
        Exercise("9.3", total, [([2],)], wrong={"you take the last": lambda xs: xs[-1]})
    with pytest.raises(ValueError, match="within the tolerance"):
        Prediction("9.4", 1.0, {"almost": 1.0001}, because="")
    with pytest.raises(ValueError, match="within the tolerance"):
        Prediction("9.4", "c", {"in capitals": "C"}, because="")


def test_prediction():
    guess = Prediction("9.5", (3, 1), {"the other way round": (1, 3)}, because="rows first.")
    assert guess.judge((3, 1)).passed
    assert "the other way round" in str(guess.judge((1, 3)))
    assert not guess.judge((9, 9)).passed


@pytest.mark.parametrize(
    "right, answer",
    [
        (6.9, torch.tensor(6.9, dtype=torch.float64)),
        (6.9, torch.tensor([6.9])),
        (3, torch.tensor(3)),
        ("c", "C"),
        ("c", " c\n"),
        ("c", "c)"),
        ("c", "(C)."),
        ("Adam", "adam"),
        (44, "44"),
        (0.5, " .5"),
        ((1, 4), [1, 4]),
        ((1, 4), torch.Size([1, 4])),
        ((1, 4), torch.tensor([1, 4])),
        ((1, 4), np.array([1, 4])),
        ((1, 4), (torch.tensor(1), np.int64(4))),
        ((1, 4), "(1, 4)"),
        ((1, 4), " [1, 4]"),
        (0.5, Fraction(1, 2)),
    ],
)
def test_a_prediction_is_read_kindly(right, answer):
    guess = Prediction("9.5", right, {"too small": 2.0, "that is b": "b"}, because="so it is.")
    assert guess.judge(answer).passed
    assert "too small" in str(guess.judge(torch.tensor([2.0])))
    assert "that is b" in str(guess.judge("B "))


@pytest.mark.parametrize("length, shown", [(68, f"'{68 * 'x'}'"), (69, f"'{66 * 'x'}…")])
def test_a_long_answer_is_cut_to_70_signs(length, shown):
    verdict = Prediction("9.5", 1, {}, because="").judge("x" * length)
    assert verdict.lines == [f"9.5: not {shown}", "  Expected a number."]


@pytest.mark.parametrize(
    "right, answer, reply",
    [
        (0.25, -0.25, "The sign is wrong."),
        (0.25, 25, "That is a hundred times as much."),
        (0.25, 3, "That is too large."),
        (-2, -3.5, "That is too small."),
        (2, math.inf, "That is too large."),
        (2, math.nan, "Expected a number."),
        (2, None, "Expected a number."),
        (2, (2, 1), "Expected a number."),
        ((3, 1), (1, 3), "Expected a tuple of numbers in the right order."),
        ((3, 1), 3, "Expected a tuple of numbers in the right order."),
        ("c", "e", "Expected one of a, b, c."),
        ("c", 3, "Expected one of a, b, c."),
    ],
)
def test_a_prediction_has_a_word_for_any_answer(right, answer, reply):
    letters = {"a: no.": "a", "b: no.": "b"} if right == "c" else {}
    assert Prediction("9.5", right, letters, because="").judge(answer).lines[1] == f"  {reply}"


@pytest.mark.parametrize(
    "expected, answer, shown",
    [
        (1.0, torch.tensor(1.0), ["1.0, a Tensor", "1.0, a float"]),
        (list(range(90)), [*range(89), 0], ["0", "89"]),
        ([[*range(80), "b"]], [[*range(80), "a"]], ["'a'", "'b'"]),
        ([*range(80), 1.0], [*range(80), torch.tensor(1.0)], ["1.0, a Tensor", "1.0, a float"]),
    ],
    ids=["type", "late", "deep", "late type"],
)
def test_answers_that_look_alike_are_shown_where_they_differ(expected, answer, shown):
    exercise = Exercise("9.1", lambda: expected, [()], {})
    lines = exercise.judge(lambda: answer).lines
    assert lines[2:4] == [f"  yours        {shown[0]}", f"  expected     {shown[1]}"]


@pytest.mark.parametrize(
    "right, answer",
    [(6.9, torch.tensor([6.9, 6.9])), (6.9, "7.9"), ("c", "a"), ((3, 1), torch.tensor(3))],
)
def test_a_prediction_stays_a_prediction(right, answer):
    assert not Prediction("9.5", right, {}, because="").judge(answer).passed


def test_mutant_hunt():
    hunt = MutantHunt(
        "9.6", total, {"stops short": lambda xs: sum(xs[:-1]), "raises": lambda xs: xs.none}
    )
    assert hunt.judge(lambda f: f([1, 2]) == 3).passed
    assert "rejects a correct" in str(hunt.judge(lambda f: False))
    assert "1 of 2" in str(hunt.judge(lambda f: f([0, 0]) == 0))
    assert "stops short" in str(hunt.judge(lambda f: f([0, 0]) == 0))
    assert "rejects a correct" in str(hunt.judge(lambda f: 1)), "only True accepts"
    assert hunt.judge(
        lambda f: torch.isclose(torch.tensor(float(f([1, 2]))), torch.tensor(3.0))
    ).passed, "a tensor of one True accepts"
    for answer in (torch.tensor(1), torch.tensor([True, True]), torch.tensor(False)):
        assert "rejects a correct" in str(hunt.judge(lambda f, answer=answer: answer))


@pytest.mark.parametrize(
    "check, did",
    [
        (lambda f: None, "it returned None"),
        (lambda f: f() == 3, "it raised TypeError"),
        (lambda f: 1 / 0, "it raised ZeroDivisionError: division by zero"),
        (None, "it raised TypeError: 'NoneType' object is not callable"),
    ],
)
def test_mutant_hunt_says_what_a_check_did_to_the_correct_one(check, did):
    hunt = MutantHunt("9.6", total, {"raises": lambda xs: xs.none})
    assert did in str(hunt.judge(check))


@pytest.mark.parametrize("alive, more", [(2, []), (3, []), (4, ["  and 1 more"])])
def test_mutant_hunt_names_three_that_are_alive(alive, more):
    hunt = MutantHunt("9.6", total, {f"copy {k}": total for k in range(alive)})
    assert hunt.judge(lambda f: f([1, 2]) == 3).lines == [
        f"9.6: 0 of {alive} mutants killed",
        *(f"  alive: copy {k}" for k in range(min(alive, 3))),
        *more,
    ]


@pytest.mark.parametrize("need, passed", [(None, False), (2, False), (1, True)])
def test_mutant_hunt_needs_all_or_as_many_as_it_says(need, passed):
    verdict = MutantHunt("9.6", total, {"a copy": total, "zero": lambda xs: 0}, need).judge(
        lambda f: f([1, 2]) == 3
    )
    assert verdict.passed is passed
    assert verdict.lines == ["9.6: 1 of 2 mutants killed" + ": a good check" * passed] + [
        "  alive: a copy"
    ] * (not passed)


@pytest.mark.parametrize("mutants, need", [(0, None), (0, 0), (2, 0), (2, -1), (2, 3), (2, 1.5)])
def test_mutant_hunt_refuses_what_every_check_passes_or_none(mutants, need):
    with pytest.raises(ValueError, match="9.6 expected (mutants|need) of"):
        MutantHunt("9.6", total, {f"copy {k}": total for k in range(mutants)}, need)


def test_search_replies_and_accepts_any_right_answer():
    find = Search(
        "9.7", lambda n: "that is odd" if n % 2 else None, {"that is odd": 3}, "two divides it"
    )
    assert not find.judge(5).passed
    assert find.judge(5).lines == ["9.7: not 5", "  that is odd"]
    assert find.judge(4).passed
    assert find.judge(10).lines == ["9.7: correct. two divides it"]


@pytest.mark.parametrize("wrong", [{"that is odd": 4}, {"that is negative": -3}])
def test_search_refuses_examples_of_another_mistake(wrong):
    with pytest.raises(ValueError, match="gets another one"):
        Search("9.8", lambda n: "that is odd" if n % 2 else None, wrong, "")


@pytest.mark.parametrize(
    "answer, passed",
    [
        (np.float32(2.0), True),
        (np.array([2.0]), True),
        (torch.tensor([2.0]), True),
        (np.float32(1.0), False),
        (np.ones(2), False),
        (torch.ones(2), False),
    ],
    ids=repr,
)
def test_a_prediction_takes_numbers_of_numpy(answer, passed):
    assert Prediction("9.5", 2, {}, because="").judge(answer).passed is passed


def test_a_check_may_answer_with_numpys_true():
    hunt = MutantHunt("9.6", total, {"zero": lambda xs: 0})
    assert hunt.judge(lambda f: np.bool_(f([1, 2]) == 3)).passed
    assert not hunt.judge(lambda f: np.int64(1)).passed


TABLE = [
    (0.95, 1, 6.314),
    (0.975, 1, 12.706),
    (0.975, 4, 2.776),
    (0.99, 10, 2.764),
    (0.9995, 4, 8.610),
    (0.975, 10**6, 1.960),
    (0.5, 3, 0.0),
]


@pytest.mark.parametrize("p, df, printed", TABLE)
def test_t_quantile_agrees_with_printed_tables(p, df, printed):
    assert abs(t_quantile(p, df) - printed) <= 0.0006


@pytest.mark.parametrize("p", [0.9, 0.99, 0.999, 1 - ALARM / 2])
@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 14, 30, 101])
def test_t_quantile_inverts_the_distribution(p, df):
    """The tail beyond the quantile, from the closed sums for whole degrees of freedom."""
    theta = math.atan(t_quantile(p, df) / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    term, total = (1.0, 0.0) if df % 2 == 0 else (cosine, 0.0)
    for k in range(1, 2 * (df // 2), 2):
        total += term
        step = k / (k + 1) if df % 2 == 0 else (k + 1) / (k + 2)
        term *= step * cosine**2
    inside = sine * total if df % 2 == 0 else 2 / math.pi * (theta + sine * total)
    assert (1 - inside) / 2 == pytest.approx(1 - p, rel=1e-3)


@pytest.mark.parametrize(
    "p, df",
    [
        (0.4, 3),
        (1.0, 3),
        (0.9, 0),
        (0.9, 0.5),
        (0.9, math.nan),
        (math.nan, 3),
        (0.9, math.inf),
        (0.9, "3"),
    ],
)
def test_t_quantile_refuses(p, df):
    with pytest.raises(ValueError, match="t_quantile expected"):
        t_quantile(p, df)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_a_spread_knows_mean_and_deviation(values):
    s = spread(values)
    assert s.mean == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
    assert s.sd == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-6)
    assert s.n == len(values)
    assert s.se == pytest.approx(s.sd / len(values) ** 0.5)
    low, high = s.interval()
    assert low <= s.mean <= high
    assert s.agrees(s)


PRINTED = [
    ([0.97, 0.98, 0.975], "", "0.9750 ± 0.0050 (n=3)"),
    ([0.97, 0.98, 0.975], ".1%", "97.5% ± 0.5% (n=3)"),
    ([36, 38], "", "37.0 ± 1.4 (n=2)"),
    ([3600, 3800], "", "3700 ± 141 (n=2)"),
    ([1, 1, 1], "", "1.0000 ± 0.0000 (n=3)"),
    ([0.003, 0.003, 0.003], "", "0.0030 ± 0.0000 (n=3)"),  # three times 0.003 is not 0.009
    ([1.5, 2.5], "8.1f", "     2.0 ± 0.7 (n=2)"),
    ([0.25], ".1%", "25.0% (one run)"),
    ([3.0], "", "3 (one run)"),
    (torch.tensor([1.0, 3.0]), ".1f", "2.0 ± 1.4 (n=2)"),
]


@pytest.mark.parametrize("values, spec, printed", PRINTED)
def test_a_spread_prints(values, spec, printed):
    assert format(spread(values), spec) == printed
    if not spec:
        assert repr(spread(values)) == str(spread(values)) == printed


def test_a_difference_is_paired_by_seed():
    seeds = torch.randn(8, generator=torch.Generator().manual_seed(0)).tolist()
    better, worse = spread(10 * s + 1 for s in seeds), spread(10 * s for s in seeds)
    gain = better - worse
    assert gain.mean == pytest.approx(1)
    assert gain.sd == pytest.approx(0, abs=1e-9)
    assert gain.interval()[0] > 0.99
    with pytest.raises(ValueError, match="paired by seed, got 8 and 7 values"):
        better - spread(seeds[:7])
    with pytest.raises(ValueError, match="paired by seed, got 8 and 0 values"):
        better - Spread(1.0, 0.1, 8)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_spread_refuses(values):
    with pytest.raises(ValueError, match="spread expected finite numbers"):
        spread(values)


def test_single_runs_agree_only_within_the_floor():
    assert spread([1.0]).agrees(spread([1.0]))
    assert not spread([1.0]).agrees(spread([1.1]))
    assert spread([1.0]).agrees(spread([1.1]), floor=0.11)
    assert spread([1.0, 1.0]).agrees(spread([1.01, 1.01]), floor=0.02)
    assert not spread([1.0, 1.0]).agrees(spread([1.01, 1.01]))


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_two_sets_of_runs_of_one_program_disagree_as_rarely_as_promised(n):
    """Draws both sets a million times: they share nothing, which is the worst case."""
    trials = 1_000_000
    draws = np.random.default_rng(n).normal(size=(2, n, trials))
    means, variances = draws.mean(1), draws.var(1, ddof=1)
    for level in (0.01, ALARM):
        reach = t_quantile(1 - level / 2, 2 * n - 2) * np.sqrt(variances.sum(0) / n)
        alarms = (abs(means[0] - means[1]) > reach).sum()
        assert abs(alarms - trials * level) < 5 * (trials * level) ** 0.5


def test_a_mean_that_is_wrong_by_a_lot_disagrees():
    stored = spread([0.974, 0.971, 0.977, 0.973, 0.975])
    assert stored.agrees(spread([0.972, 0.975, 0.970, 0.976, 0.974]))
    assert not stored.agrees(spread([0.912, 0.915, 0.910, 0.916, 0.914]))


def test_imaginary_parts_count():
    a, b = torch.tensor([1 + 1j]), torch.tensor([1 + 5j])
    assert agree(a, a.clone())
    assert not agree(a, b)
    with pytest.raises(AssertionError, match="output 0"):
        same_as(lambda x: x * a, lambda x: x * b, torch.randn(1))


def test_results_may_be_true_or_false():
    same_as(lambda x: x > 0, lambda x: x > 0, torch.randn(5))
    with pytest.raises(AssertionError, match="yours 0, reference 1|yours 1, reference 0"):
        same_as(lambda x: x < 0, lambda x: x > 0, torch.randn(5))


def test_an_exercise_leaves_all_random_numbers_where_they_were():
    def draws(x):
        random.random(), np.random.rand(), torch.rand(1)
        return x

    exercise = Exercise("0.0", lambda x: x, [(1,), (2,)], {})
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    assert exercise.judge(draws).passed
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("right", [True, False])
def test_same_as_leaves_all_random_numbers_where_they_were(right):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    def noisy(x):
        noise = torch.rand(()) + random.random() + np.random.rand()
        return 2 * x + 0 * noise

    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    before = states()
    with nullcontext() if right else pytest.raises(AssertionError, match="output 0"):
        same_as(noisy, lambda x: (2 if right else 3) * x, x)
    assert states() == before
