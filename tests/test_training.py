"""Chapter 04: the losses against torch.nn.functional.

It covers shapes, targets, weights, reductions, dtypes and sizes of zero, values far from zero, and
refusals.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fromfound import training as ours
from fromfound.check import same_as
from fromfound.exercises import training as exercises
from fromfound.training import (
    DataBunch,
    Metric,
    accuracy,
    cross_entropy,
    log_softmax,
    mse_loss,
    nll_loss,
)

SHAPES = [
    (3,),
    (1,),
    (4, 3),
    (1, 3),
    (4, 1),
    (2, 3, 5),
    (2, 3, 4, 5),
    (2, 3, 2, 2, 2),
    (0, 3),
    (0, 3, 2),
    (2, 3, 0),
]
REDUCTIONS = ["mean", "sum", "none"]


def classes(shape: tuple[int, ...]) -> int:
    return shape[min(1, len(shape) - 1)]


def indices(shape: tuple[int, ...]) -> torch.Tensor:
    rest = shape[: min(1, len(shape) - 1)] + shape[min(1, len(shape) - 1) + 1 :]
    return torch.randint(classes(shape), rest)


def value_and_gradient(
    fn, scores: torch.Tensor, *arguments: object, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = scores.clone().requires_grad_()
    losses = fn(scores, *arguments, **options)
    losses.backward(
        torch.randn(losses.shape, generator=torch.Generator().manual_seed(1)).to(losses)
    )
    return losses.detach(), scores.grad


def agree(
    name: str,
    scores: torch.Tensor,
    *arguments: object,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    **options: object,
) -> None:
    mine, theirs = (
        value_and_gradient(getattr(kit, name), scores, *arguments, **options) for kit in (ours, F)
    )
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, equal_nan=True)


# --- equal to torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_class_indices(name: str, shape: tuple[int, ...], reduction: str, weighted: bool) -> None:
    torch.manual_seed(0)
    agree(
        name,
        torch.randn(shape),
        indices(shape),
        torch.rand(classes(shape)) + 0.1 if weighted else None,
        reduction=reduction,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_probabilities(shape: tuple[int, ...], reduction: str, weighted: bool) -> None:
    torch.manual_seed(0)
    agree(
        "cross_entropy",
        torch.randn(shape),
        torch.rand(shape),
        torch.rand(classes(shape)) if weighted else None,
        reduction=reduction,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_probabilities_get_their_gradient(reduction: str) -> None:
    torch.manual_seed(0)
    same_as(
        lambda s, q: cross_entropy(s, q, reduction=reduction),
        lambda s, q: F.cross_entropy(s, q, reduction=reduction),
        torch.randn(3, 4),
        torch.rand(3, 4),
    )


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (3,)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 1, 0])
def test_ignored_targets(shape: tuple[int, ...], reduction: str, ignore_index: int) -> None:
    torch.manual_seed(1)
    target = indices(shape)
    target.view(-1)[0] = ignore_index
    for weight in (None, torch.rand(3) + 0.1):
        agree(
            "cross_entropy",
            torch.randn(shape),
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
        )


def test_what_is_ignored_may_be_infinite() -> None:
    scores = torch.tensor([[0.0, -math.inf, 1.0], [0.0, 1.0, 2.0]])
    agree("cross_entropy", scores, torch.tensor([-100, 1]))
    agree(
        "nll_loss",
        torch.tensor([[-math.inf, 0.0], [-1.0, -2.0]]),
        torch.tensor([0, 1]),
        ignore_index=0,
    )


def test_all_ignored_is_nan_as_torch() -> None:
    assert cross_entropy(torch.zeros(2, 3), torch.tensor([-100, -100])).isnan()


def test_bytes_are_class_indices() -> None:
    agree("cross_entropy", torch.randn(3, 4), torch.tensor([0, 3, 1], dtype=torch.uint8))


@pytest.mark.parametrize(
    "dtype, tol", [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (3,), (0, 3)], ids=str)
def test_other_precisions(dtype: torch.dtype, tol: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    scores = torch.randn(shape).to(dtype)
    agree("cross_entropy", scores, indices(shape), rtol=tol, atol=tol)
    agree("cross_entropy", scores, torch.rand(shape).to(dtype), rtol=tol, atol=tol)
    agree("mse_loss", scores, torch.randn(shape).to(dtype), rtol=tol, atol=tol)
    agree("log_softmax", scores, min(1, len(shape) - 1), rtol=tol, atol=tol)


def test_half_precision_adds_up_many_terms() -> None:
    loss = cross_entropy(torch.zeros(1, 100_000, dtype=torch.float16), torch.tensor([5]))
    assert abs(loss.item() - math.log(100_000)) < 0.01
    pixels = cross_entropy(
        torch.zeros(1, 10, 200, 200, dtype=torch.float16),
        torch.zeros(1, 200, 200, dtype=torch.int64),
    )
    assert abs(pixels.item() - math.log(10)) < 2e-3
    unsure = torch.full((50_000, 10), 0.1, dtype=torch.float16)
    assert (
        abs(
            cross_entropy(torch.zeros(50_000, 10, dtype=torch.float16), unsure).item()
            - math.log(10)
        )
        < 2e-3
    )


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_under_autocast_a_loss_has_32_bits_as_torchs(dtype: torch.dtype, reduction: str) -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(4, 3).to(dtype), torch.tensor([0, 2, 1, 1])
    others = torch.rand(4, 3).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        for name, aim in (
            ("cross_entropy", target),
            ("cross_entropy", others),
            ("nll_loss", target),
            ("mse_loss", others),
        ):
            mine, theirs = (
                getattr(kit, name)(scores, aim, reduction=reduction) for kit in (ours, F)
            )
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)


def test_under_autocast_a_sum_over_many_samples_is_finite() -> None:
    scores, target = torch.zeros(60_000, 10, dtype=torch.float16), torch.zeros(60_000).long()
    with torch.autocast("cpu", torch.bfloat16):
        total = cross_entropy(scores, target, reduction="sum")
    assert abs(total.item() / 60_000 - math.log(10)) < 1e-3


@pytest.mark.slow
def test_losses_are_one_graph_for_a_compiler() -> None:
    torch.manual_seed(0)
    scores, others = torch.randn(4, 3), torch.rand(4, 3)
    for loss, target in (
        (cross_entropy, torch.tensor([0, 2, 1, 1])),
        (cross_entropy, others),
        (mse_loss, others),
    ):
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        assert torch.equal(compiled(scores, target), loss(scores, target))


def test_mixed_precisions_give_the_wider_one() -> None:
    assert cross_entropy(torch.zeros(2, 3), torch.rand(2, 3).double()).dtype == torch.float64
    assert mse_loss(torch.zeros(2), torch.zeros(2).double()).dtype == torch.float64


@pytest.mark.parametrize(
    "shape, dim",
    [
        ((4, 3), 0),
        ((4, 3), 1),
        ((4, 3), -1),
        ((4, 3), -2),
        ((2, 3, 4), 1),
        ((5,), 0),
        ((0, 3), 1),
        ((3, 0), 1),
        ((3, 0), 0),
        ((), 0),
    ],
    ids=str,
)
def test_log_softmax(shape: tuple[int, ...], dim: int) -> None:
    torch.manual_seed(0)
    agree("log_softmax", torch.randn(shape), dim)


def test_log_softmax_with_a_dtype() -> None:
    whole = torch.tensor([[1, 2], [5, 0]])
    assert torch.equal(
        log_softmax(whole, 1, dtype=torch.float32), F.log_softmax(whole, 1, dtype=torch.float32)
    )
    assert log_softmax(torch.zeros(2, dtype=torch.float16), 0, torch.float64).dtype == torch.float64


@pytest.mark.parametrize(
    "row", [[math.inf, 0.0], [-math.inf, -math.inf], [-math.inf, 1.0], [math.nan, 0.0]], ids=str
)
def test_log_softmax_of_the_infinite(row: list[float]) -> None:
    agree("log_softmax", torch.tensor(row), 0)


@pytest.mark.parametrize("shape", [(4, 3), (), (0,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse(shape: tuple[int, ...], reduction: str) -> None:
    torch.manual_seed(0)
    agree("mse_loss", torch.randn(shape), torch.randn(shape), reduction=reduction)


# --- far from zero --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e2, 1e4, -1e4, 1e30])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_large_logits(size: float, reduction: str) -> None:
    torch.manual_seed(0)
    scores = size * torch.tensor(
        [[1.0, -1, 0], [1.0, 1, 1], [-1.0, 1, 0.5], [0, 0, 1]]
    ) + torch.randn(4, 3)
    for target in (torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2]), torch.rand(4, 3)):
        agree("cross_entropy", scores, target, reduction=reduction)
        loss, gradient = value_and_gradient(cross_entropy, scores, target, reduction=reduction)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


def test_no_digits_are_lost_far_from_zero() -> None:
    near = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.25]], dtype=torch.float32)
    # 10,000.25 is exact in float32.
    assert torch.equal(log_softmax(near + 10_000, 1), log_softmax(near, 1))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        "float32",
        st.tuples(st.integers(1, 5), st.integers(1, 6)),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    st.data(),
)
def test_any_scores(array, data) -> None:
    scores = torch.from_numpy(array)
    target = torch.tensor(
        data.draw(
            st.lists(
                st.integers(0, scores.shape[1] - 1), min_size=len(scores), max_size=len(scores)
            )
        )
    )
    agree("cross_entropy", scores, target, rtol=1e-5, atol=1e-5)
    assert (cross_entropy(scores, target, reduction="none") >= 0).all()
    assert torch.allclose(log_softmax(scores, 1).exp().sum(1), torch.ones(len(scores)), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays("float64", (3, 4), elements=st.floats(-50, 50)), st.floats(-1e3, 1e3))
def test_a_shift_changes_nothing(array, shift: float) -> None:
    scores, target = torch.from_numpy(array), torch.tensor([0, 1, 3])
    assert torch.allclose(
        cross_entropy(scores + shift, target), cross_entropy(scores, target), atol=1e-9
    )


def test_the_gradient_is_what_was_said_minus_what_was_true() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(5, 4), torch.tensor([0, 3, 1, 2, 2])
    gradient = value_and_gradient(cross_entropy, scores, target, reduction="sum")[1] / torch.randn(
        (), generator=torch.Generator().manual_seed(1)
    )
    assert torch.allclose(gradient, scores.softmax(1) - torch.eye(4)[target], atol=1e-6)


# --- accuracy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s], ids=str)
def test_accuracy(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(shape), indices(shape)
    dim = min(1, len(shape) - 1)
    expected = sum(
        int(row.argmax()) == int(t)
        for row, t in zip(
            scores.movedim(dim, -1).reshape(-1, shape[dim]), target.reshape(-1), strict=True
        )
    )
    result = accuracy(scores, target)
    assert result.shape == ()
    assert abs(result.item() - expected / target.numel()) < 1e-6


def test_accuracy_of_nothing_and_of_halves() -> None:
    assert accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).isnan()
    assert (
        accuracy(
            torch.tensor([[1.0, 2.0], [3.0, 0.0]]).half(), torch.tensor([1, 1], dtype=torch.uint8)
        )
        == 0.5
    )


@pytest.mark.parametrize("place", range(3))
def test_a_row_with_nan_is_no_right_answer(place: int) -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    scores[0, place] = math.nan
    for target in range(3):
        assert accuracy(scores, torch.tensor([target, 0])) == 0.5
    assert accuracy(scores.T[None], torch.tensor([[place, 0]])) == 0.5, (
        "the classes are dimension 1"
    )


def test_ignored_targets_count_as_wrong() -> None:
    assert accuracy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, -100])) == 0.5


# --- refusals -------------------------------------------------------------------------------------

WRONG = [
    (
        "a target that is no class",
        IndexError,
        "class indices from 0 to 2, got 0 to 3",
        dict(target=torch.tensor([0, 3])),
    ),
    (
        "a negative target",
        IndexError,
        "from 0 to 2, got -1 to 1",
        dict(target=torch.tensor([-1, 1])),
    ),
    (
        "a column",
        ValueError,
        r"target of shape \(2,\) for scores of shape \(2, 3\), got \(2, 1\)",
        dict(target=torch.tensor([[0], [1]])),
    ),
    ("too few", ValueError, r"got \(1,\)", dict(target=torch.tensor([0]))),
    ("a scalar", ValueError, r"got \(\)", dict(target=torch.tensor(0))),
    (
        "floats",
        TypeError,
        "int64, got torch.float32: convert",
        dict(target=torch.tensor([0.0, 1.0])),
    ),
    (
        "int32",
        TypeError,
        "int64, got torch.int32",
        dict(target=torch.tensor([0, 1], dtype=torch.int32)),
    ),
    ("bools", TypeError, "got torch.bool", dict(target=torch.tensor([True, False]))),
    (
        "whole scores",
        TypeError,
        "floating-point scores",
        dict(input=torch.zeros(2, 3, dtype=torch.int64)),
    ),
    ("a single number", TypeError, r"shape \(C,\)", dict(input=torch.tensor(1.0))),
    (
        "weights for other classes",
        ValueError,
        r"weight of shape \(3,\), one for each class, got \(2,\)",
        dict(weight=torch.ones(2)),
    ),
    (
        "weights of another precision",
        TypeError,
        "weight of dtype torch.float32 as the scores, got torch.float64",
        dict(weight=torch.ones(3, dtype=torch.float64)),
    ),
    (
        "whole weights",
        TypeError,
        "weight of dtype torch.float32 as the scores, got torch.int64",
        dict(weight=torch.ones(3, dtype=torch.int64)),
    ),
    (
        "a list of weights",
        TypeError,
        r"weight as a tensor on cpu, got \[1.0",
        dict(weight=[1.0] * 3),
    ),
    (
        "weights elsewhere",
        TypeError,
        "weight as a tensor on cpu, got tensor",
        dict(weight=torch.ones(3, device="meta")),
    ),
    ("nothing to ignore", TypeError, "as a class index, got None", dict(ignore_index=None)),
    ("half a class", TypeError, "ignore_index as a class index, got 1.5", dict(ignore_index=1.5)),
    ("not a number", TypeError, "a class index, got nan", dict(ignore_index=math.nan)),
    (
        "no classes",
        ValueError,
        r"one class at least, got shape \(2, 0\)",
        dict(input=torch.zeros(2, 0), target=torch.tensor([-100, -100])),
    ),
    (
        "an unknown reduction",
        ValueError,
        "'none', 'mean' or 'sum', got 'avg'",
        dict(reduction="avg"),
    ),
]


@pytest.mark.parametrize("loss", [nll_loss, cross_entropy])
@pytest.mark.parametrize("error, message, change", [pytest.param(*w[1:], id=w[0]) for w in WRONG])
def test_refusals(loss, error: type, message: str, change: dict) -> None:
    arguments = {"input": torch.zeros(2, 3), "target": torch.tensor([0, 1])} | change
    with pytest.raises(error, match=message):
        loss(**arguments)


@pytest.mark.parametrize("loss", [nll_loss, cross_entropy, accuracy])
def test_what_is_not_a_tensor_is_refused_by_name(loss) -> None:
    name = loss.__name__
    with pytest.raises(TypeError, match=f"{name} expected floating-point scores .*got \\[0.0"):
        loss([0.0, 1.0], torch.tensor(0))
    with pytest.raises(TypeError, match=f"{name} expected a tensor of targets, got a NoneType"):
        loss(torch.zeros(2, 3), None)


@pytest.mark.parametrize("error, message, change", [pytest.param(*w[1:], id=w[0]) for w in WRONG])
def test_refusals_begin_with_the_name_of_what_was_called(
    error: type, message: str, change: dict
) -> None:
    arguments = {"input": torch.zeros(2, 3), "target": torch.tensor([0, 1])} | change
    for loss in (nll_loss, cross_entropy):
        with pytest.raises(error, match=f"^{loss.__name__} expected "):
            loss(**arguments)


def test_a_one_hot_target_of_whole_numbers_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="floating-point probabilities in the shape of the scores"):
        cross_entropy(torch.zeros(2, 3), torch.eye(3, dtype=torch.int64)[:2])


@pytest.mark.parametrize("index", [0, 1])
def test_probabilities_cannot_be_ignored(index: int) -> None:
    with pytest.raises(ValueError, match=f"ignore_index={index}, got probabilities"):
        cross_entropy(torch.zeros(2, 3), torch.ones(2, 3), ignore_index=index)


def test_options_are_keywords_and_misspelt_ones_errors() -> None:
    with pytest.raises(TypeError):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), None, -100)
    with pytest.raises(TypeError):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), reducton="sum")


def test_weights_for_probabilities_have_the_dtype_of_the_scores() -> None:
    with pytest.raises(
        TypeError, match="weight of dtype torch.float32 as the scores, got torch.float16"
    ):
        cross_entropy(torch.zeros(2, 3), torch.ones(2, 3), torch.ones(3, dtype=torch.float16))


@pytest.mark.parametrize("shape", [(2, 0), (0,), (2, 0, 4)], ids=str)
def test_probabilities_of_no_class_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one class at least"):
        cross_entropy(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (3,), ()], ids=str)
@pytest.mark.parametrize(
    "dim, error",
    [
        (None, TypeError),
        (True, TypeError),
        (1.0, TypeError),
        ("a", TypeError),
        (7, IndexError),
        (-3, IndexError),
    ],
)
def test_log_softmax_refuses_what_is_no_dimension(
    shape: tuple[int, ...], dim: object, error: type
) -> None:
    if dim is not None:
        with pytest.raises(error):
            F.log_softmax(torch.zeros(shape), dim)
    with pytest.raises(error, match="log_softmax expected dim"):
        log_softmax(torch.zeros(shape), dim)


@pytest.mark.parametrize(
    "shape, dim", [((2, 3), -3), ((2, 3), 2), ((3,), 1), ((), 1), ((), -2)], ids=str
)
def test_log_softmax_refuses_the_dimension_next_to_the_last(
    shape: tuple[int, ...], dim: int
) -> None:
    with pytest.raises(IndexError, match="expected dim from"):
        log_softmax(torch.zeros(shape), dim)


def test_log_softmax_refuses_what_is_no_dtype() -> None:
    with pytest.raises(TypeError, match="dtype"):
        log_softmax(torch.zeros(2), 0, dtype=1.5)


def test_log_softmax_refuses_whole_numbers() -> None:
    with pytest.raises(TypeError, match="floating-point scores, got torch.int64"):
        log_softmax(torch.tensor([1, 2]), 0)


@pytest.mark.parametrize(
    "input, target, error, message",
    [
        (torch.zeros(2), torch.zeros(2, 1), ValueError, r"equal shapes, got \(2,\) and \(2, 1\)"),
        (
            torch.zeros(2),
            torch.zeros(2, dtype=torch.int64),
            TypeError,
            "torch.float32 and torch.int64",
        ),
        (
            torch.zeros(2),
            None,
            TypeError,
            "expected tensors, got a Tensor and a NoneType: of several",
        ),
        (
            (torch.zeros(2),),
            torch.zeros(2),
            TypeError,
            "mse_loss expected tensors, got a tuple and",
        ),
        ([0.0], [0.0], TypeError, "expected tensors, got a list and a list"),
    ],
    ids=["shape", "dtype", "nothing", "two outputs", "lists"],
)
def test_mse_refusals(input: torch.Tensor, target: torch.Tensor, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        mse_loss(input, target)


@pytest.mark.parametrize(
    "target", [torch.tensor([[0], [1]]), torch.tensor([0.0, 1.0])], ids=["shape", "dtype"]
)
def test_accuracy_refusals(target: torch.Tensor) -> None:
    with pytest.raises((ValueError, TypeError), match="expected"):
        accuracy(torch.zeros(2, 3), target)


# --- in use ---------------------------------------------------------------------------------------


def test_a_loss_asks_nothing_of_the_device() -> None:
    """On the meta device there are no values: reading one would fail.

    So no step waits for a GPU.
    """
    scores = torch.zeros(4, 3, device="meta", requires_grad=True)
    for target in (
        torch.zeros(4, dtype=torch.int64, device="meta"),
        torch.zeros(4, 3, device="meta"),
    ):
        cross_entropy(scores, target).backward()
    assert scores.grad.is_meta
    assert accuracy(scores, torch.zeros(4, dtype=torch.int64, device="meta")).is_meta


def test_inputs_stay_as_they_are() -> None:
    scores, target = torch.randn(3, 4), torch.tensor([0, -100, 2])
    before = scores.clone(), target.clone()
    cross_entropy(scores, target)
    assert torch.equal(scores, before[0])
    assert torch.equal(target, before[1])


def test_under_vmap_and_twice_differentiated() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(5, 4, 3), torch.randint(3, (5, 4))
    assert torch.allclose(
        torch.func.vmap(cross_entropy)(scores, target),
        torch.stack([F.cross_entropy(s, t) for s, t in zip(scores, target, strict=True)]),
    )
    assert torch.autograd.gradgradcheck(
        lambda s: cross_entropy(s, target[0]), scores[0].double().requires_grad_()
    )


def test_importing_the_exercises_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    exercises.ex_4_2.judge(lambda score, target: score)
    assert torch.equal(torch.rand(3), expected)


def test_the_result_of_nothing_is_a_new_tensor() -> None:
    empty = torch.zeros(0, 3)
    assert log_softmax(empty, 1) is not empty


def means(pred: torch.Tensor, target: object) -> torch.Tensor:
    return pred.mean()


def test_a_metric_is_the_mean_over_samples() -> None:
    metric, values = Metric(means), torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0])
    assert metric.name == "means"
    assert math.isnan(metric.compute())
    for part in values.split((3, 0, 2)):
        metric.update(part, part)
    assert metric.compute() == values.mean()
    assert metric.floats() == [2.0, 15.0]
    metric.update(torch.tensor([4.0]), torch.zeros(1))
    assert metric.compute() == (values.sum() + 4) / 6
    assert metric.floats() == [2.0, 15.0, 4.0]
    metric.reset()
    assert math.isnan(metric.compute())
    assert metric.floats() == []


def test_a_metric_keeps_no_graph() -> None:
    metric, pred = Metric(means), torch.ones(2, requires_grad=True)
    metric.update(pred, torch.zeros(2))
    assert not metric.values[0].requires_grad


@pytest.mark.parametrize(
    "target, size",
    [
        (torch.zeros(3), 3),
        ((torch.zeros(3), torch.zeros(7)), 3),
        ([torch.zeros(3)], 3),
        ({"a": torch.zeros(3)}, 3),
        ([{"a": torch.zeros(5)}] * 2, 2),
    ],
    ids=str,
)
def test_a_metric_counts_the_samples_of_a_target(target: object, size: int) -> None:
    metric = Metric(means)
    metric.update(torch.ones(3), target)
    assert metric.sizes == [size]


@pytest.mark.parametrize("target", [torch.tensor(1.0), 3, [], {}, None, ["a"]], ids=repr)
def test_a_metric_refuses_a_target_without_entries(target: object) -> None:
    with pytest.raises(
        TypeError, match="means is weighted by sample and expected a target with an entry for each"
    ):
        Metric(means).update(torch.ones(3), target)


def test_a_metric_refuses_more_than_one_number() -> None:
    with pytest.raises(
        ValueError, match=r"means expected one number for a batch, its mean, got the shape \(1,\)"
    ):
        Metric(lambda pred, target: pred.mean(0, keepdim=True), "means").update(
            torch.ones(3), torch.zeros(3)
        )


@pytest.mark.parametrize("fn", ["accuracy", None, 0.5], ids=str)
def test_a_metric_refuses_what_cannot_be_called_at_once(fn: object) -> None:
    with pytest.raises(
        TypeError, match="Metric expected a function of predictions and targets, got"
    ):
        Metric(fn)


def test_a_metric_does_not_hide_the_number_of_the_epoch() -> None:
    def epoch(pred, target):
        return pred.mean()

    for metric in (lambda: Metric(means, "epoch"), lambda: Metric(epoch)):
        with pytest.raises(ValueError, match="Metric expected another name than 'epoch'"):
            metric()
    assert Metric(epoch, "mine").name == "mine"


def test_a_metric_joins_batches_of_several_devices() -> None:
    """Only what came to the CPU can be joined there."""
    metric = Metric(lambda pred, target: pred if isinstance(pred, float) else pred.mean())
    for value in (torch.tensor([1.0]), 2.0, torch.tensor([4.5])):
        metric.update(value, torch.zeros(1))
    metric.values[2] = Elsewhere(metric.values[2])
    assert metric.floats() == [1.0, 2.0, 4.5]


class Elsewhere:
    """A number on another device."""

    device = torch.device("meta")

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def cpu(self) -> torch.Tensor:
        return self.value


@pytest.mark.parametrize("wrong", [3, 0.5, list, torch.nn.Linear, iter([])])
def test_data_refuses_what_gives_no_batches(wrong: object) -> None:
    for loaders in ((wrong,), ([], wrong), ([], None, wrong)):
        with pytest.raises(
            TypeError, match="DataBunch expected loaders that give .*: give a list or"
        ):
            DataBunch(*loaders)
    assert DataBunch(None, []).train_dl is None
