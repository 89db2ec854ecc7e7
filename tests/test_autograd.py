"""fromfound.autograd against torch.

It covers every operation over random shapes, what the graph promises, and its refusals.
"""

import copy
import functools
import gc
import math
from operator import methodcaller

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromfound.autograd import Variable, _caption, _layout, draw_graph, recorded, unbroadcast
from fromfound.exercises import autograd as exercises

SHAPES = [(), (1,), (3,), (2, 3), (4, 1), (2, 3, 4), (0,), (3, 0), (2, 0, 4)]
PAIRS = [
    ((), ()),
    ((3,), ()),
    ((), (2, 3)),
    ((3,), (2, 3)),
    ((2, 3), (2, 3)),
    ((2, 1), (1, 3)),
    ((4, 1, 3), (2, 3)),
    ((1,), (0,)),
    ((2, 1), (2, 0)),
    ((1, 1), (5, 1)),
]
PRODUCTS = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((1, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (5, 3, 4)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((0,), (0,)),
]

UNARY = {
    "neg": lambda x: -x,
    "square": lambda x: x**2,
    "power 0": lambda x: x**0,
    "power 1": lambda x: x**1,
    "power 3": lambda x: x**3,
    "inverse": lambda x: (x * x + 0.5) ** -1.5,
    "number +": lambda x: 2 + x,
    "+ number": lambda x: x + 0.3,
    "number -": lambda x: 2 - x,
    "- number": lambda x: x - 0.3,
    "number *": lambda x: 2.5 * x,
    "* number": lambda x: x * 2.5,
    "/ number": lambda x: x / 3,
    "number /": lambda x: 2 / (x * x + 0.5),
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x + 0.5).log(),
    "relu": lambda x: x.relu(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "sum": lambda x: x.sum() * 1.5,
    "mean": lambda x: x.mean() * 1.5,
    "shared": lambda x: x * x + x.exp() * x,
    "flat": lambda x: x.reshape(-1) * 2,
    "same shape": lambda x: x.reshape(x.shape) * 2,
}
BINARY = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / (y * y + 0.5),
    "shared": lambda x, y: (x + y) * (x - y) + y,
}
DIMS = [None, 0, 1, -1, (0, 1), (-1, 0), (-2, -1), (0, 2), (0, 1, 2)]
INDICES = {
    "integer": 1,
    "negative": -1,
    "slice": slice(1, None),
    "step": slice(None, None, 2),
    "ellipsis": (..., 0),
    "new dimension": (None, slice(None), None),
    "list": [0, 2, 0],
    "list and slice": ([0, 2, 0], slice(1, 3)),
    "pairs": ([0, 1, 1], [2, 0, 0]),
    "table": torch.tensor([[0, 1], [1, 1]]),
    "mask": torch.tensor([True, False, True]),
    "nothing": [],
    "everything": ...,
}


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def compare(mine, reference, *inputs: torch.Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """Value and gradients of a function of Variables against those of torch tensors.

    The cotangent is random.
    """
    variables = [Variable(x, requires_grad=True) for x in inputs]
    tensors = [x.clone().requires_grad_() for x in inputs]
    out, expected = mine(*variables), reference(*tensors)
    cotangent = torch.randn(expected.shape, dtype=torch.float64).to(expected.dtype)
    out.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(out.data, expected.detach(), rtol=rtol, atol=atol, equal_nan=True)
    for v, t in zip(variables, tensors, strict=True):
        assert type(v.grad) is torch.Tensor
        torch.testing.assert_close(v.grad, t.grad, rtol=rtol, atol=atol, equal_nan=True)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# --- operations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, shape: tuple[int, ...]) -> None:
    compare(UNARY[name], UNARY[name], random(*shape))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary_with_broadcasting(name: str, pair: tuple) -> None:
    for shapes in (pair, pair[::-1]):
        compare(BINARY[name], BINARY[name], *(random(*s) for s in shapes))


@pytest.mark.parametrize("pair", PRODUCTS, ids=str)
def test_matmul(pair: tuple) -> None:
    compare(lambda x, y: x @ y, lambda x, y: x @ y, *(random(*s) for s in pair))


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", DIMS, ids=str)
def test_reductions(dim, keepdim: bool) -> None:
    x = random(2, 3, 4)
    for name in ("sum", "mean"):
        reduce = methodcaller(name, dim, keepdim)
        compare(reduce, reduce, x)
    every = () if dim is None else dim
    compare(lambda v: v.max(dim, keepdim), lambda t: t.amax(every, keepdim), x)
    ties = torch.randint(3, (2, 3, 4)).double()
    compare(lambda v: v.max(dim, keepdim), lambda t: t.amax(every, keepdim), ties)


@pytest.mark.parametrize(
    "shape, dim",
    [
        ((), None),
        ((), 0),
        ((), -1),
        ((0,), 0),
        ((3, 0), 1),
        ((3, 0), 0),
        ((0, 3), 0),
        ((1, 1), (0, 1)),
    ],
    ids=str,
)
def test_reductions_at_the_edges(shape: tuple[int, ...], dim) -> None:
    for name in ("sum", "mean"):
        reduce = methodcaller(name, dim)
        compare(reduce, reduce, random(*shape))


def test_max_over_all_shares_among_equals_as_torch_max() -> None:
    compare(lambda v: v.max(), lambda t: t.max(), torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]).double())


@pytest.mark.parametrize("name", INDICES)
def test_index(name: str) -> None:
    compare(lambda v: v[INDICES[name]] * 2, lambda t: t[INDICES[name]] * 2, random(3, 4))


def test_index_changed_after_use() -> None:
    x, index = Variable(random(3), requires_grad=True), torch.tensor([0, 1])
    y = x[index] * 2
    index.zero_()
    y.backward(torch.tensor([1.0, 10.0]).double())
    assert x.grad.tolist() == [2, 20, 0]


def test_iteration() -> None:
    assert [row.shape for row in Variable(random(2, 5))] == [(5,), (5,)]
    assert list(Variable(random(0, 5))) == []
    compare(
        lambda v: sum(row * i for i, row in enumerate(v)),
        lambda t: sum(row * i for i, row in enumerate(t)),
        random(3, 2),
    )


def test_moves() -> None:
    compare(lambda v: v.reshape(3, -1) * 2, lambda t: t.reshape(3, -1) * 2, random(2, 3, 4))
    compare(
        lambda v: v.reshape((4, 6)).transpose(0, 1),
        lambda t: t.reshape((4, 6)).transpose(0, 1),
        random(2, 3, 4),
    )
    compare(
        lambda v: v.transpose(-1, 0) @ v.transpose(0, 1),
        lambda t: t.transpose(-1, 0) @ t.transpose(0, 1),
        random(3, 3),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", UNARY)
def test_lower_precision(name: str, dtype: torch.dtype) -> None:
    slack = 1e-5 if dtype == torch.float32 else 0.05
    compare(UNARY[name], UNARY[name], random(3, 4, dtype=dtype), rtol=slack, atol=slack)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_of_the_rest(dtype: torch.dtype) -> None:
    slack = 1e-5 if dtype == torch.float32 else 0.05
    for fn in BINARY.values():
        compare(
            fn,
            fn,
            random(3, 4, dtype=dtype) / 2,
            random(4, dtype=dtype) / 2,
            rtol=slack,
            atol=slack,
        )
    compare(
        lambda x, y: x @ y,
        lambda x, y: x @ y,
        random(3, 4, dtype=dtype),
        random(4, dtype=dtype),
        rtol=slack,
        atol=slack,
    )
    compare(
        lambda v: v[[0, 2, 0]],
        lambda t: t[[0, 2, 0]],
        random(3, 4, dtype=dtype),
        rtol=slack,
        atol=slack,
    )
    compare(
        lambda v: v.max(1), lambda t: t.amax(1), random(3, 4, dtype=dtype), rtol=slack, atol=slack
    )


def test_mixed_precision_gradients_keep_the_type_of_their_value() -> None:
    compare(
        lambda x, y: x * y, lambda x, y: x * y, random(3, dtype=torch.float32), random(3), rtol=1e-6
    )
    x = Variable(random(3, dtype=torch.float32), requires_grad=True)
    (x * random(3)).backward(random(3))
    assert x.grad.dtype == torch.float32
    for result in (lambda v: v, lambda v: v * 2):
        x = Variable(random(3, dtype=torch.float32), requires_grad=True)
        result(x).backward(random(3))
        assert x.grad.dtype == torch.float32


def test_relu_has_no_slope_at_zero() -> None:
    compare(
        lambda v: v.relu(),
        lambda t: t.relu(),
        torch.tensor([-1.0, 0.0, -0.0, 2.0, math.inf, -math.inf]).double(),
    )


def test_powers_at_zero() -> None:
    x = torch.tensor([0.0, 0.0, 0.0, 2.0]).double()
    for p in (0, 1, 2, 3, 0.5, -1, -0.5):
        compare(lambda x, p=p: x**p, lambda x, p=p: x**p, x)


@pytest.mark.parametrize("name", BINARY)
def test_plain_tensors_on_either_side(name: str) -> None:
    x, y = random(2, 3), random(3)
    compare(lambda v: BINARY[name](v, y), lambda t: BINARY[name](t, y), x)
    compare(lambda v: BINARY[name](x, v), lambda t: BINARY[name](x, t), y)


@pytest.mark.parametrize("pair", PRODUCTS, ids=str)
def test_plain_tensors_in_products(pair: tuple) -> None:
    x, y = (random(*s) for s in pair)
    compare(lambda v: v @ y, lambda t: t @ y, x)
    compare(lambda v: x @ v, lambda t: x @ t, y)


OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
}


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_numpy_arrays_are_plain_numbers_on_either_side(operation, swap: bool) -> None:
    x, y = random(3), random(2, 3).numpy()
    v, w = Variable(x, requires_grad=True), x.clone().requires_grad_()
    pair, reference = (v, y), (w, torch.from_numpy(y))
    got = operation(*(pair[::-1] if swap else pair))
    expected = operation(*(reference[::-1] if swap else reference))
    assert isinstance(got, Variable)
    assert torch.allclose(got.data, expected)
    cotangent = random(2, 3)
    got.backward(cotangent)
    expected.backward(cotangent)
    assert torch.allclose(v.grad, w.grad)


def test_what_numpy_cannot_leave_is_refused() -> None:
    v = Variable(torch.ones(3))
    for wrong in (lambda: np.exp(v), lambda: np.ones((3, 3)) @ v, lambda: v @ np.ones(3)):
        with pytest.raises(TypeError):
            wrong()


def test_a_variable_as_an_index() -> None:
    v = Variable(torch.arange(3.0), requires_grad=True)
    v[Variable(torch.tensor([2, 0, 2]))].backward(torch.tensor([1.0, 2.0, 4.0]))
    assert v.grad.tolist() == [2, 0, 5]


@pytest.mark.parametrize(
    "gradient",
    [[1.0, 1.0, 1.0], 1.0, np.ones(3), Variable(torch.ones(3))],
    ids=lambda gradient: type(gradient).__name__,
)
def test_a_gradient_is_a_tensor(gradient: object) -> None:
    for data in (torch.ones(3), torch.tensor(1.0)):
        v = Variable(data, requires_grad=True)
        with pytest.raises(RuntimeError, match="expected a gradient of that shape, got no tensor"):
            v.backward(gradient)
        assert v.grad is None


def test_numpy_scalars_are_numbers() -> None:
    y = random(2).numpy()
    compare(lambda v: y[0] - v * y[1], lambda t: y[0] - t * y[1], random(2, 3))


def test_integer_operands_are_constants() -> None:
    counts = torch.tensor([1, 2, 3])
    compare(
        lambda v: v * counts + Variable(counts) / v,
        lambda t: t * counts + counts / t,
        random(3) + 3,
    )


# --- the graph ------------------------------------------------------------------------------------


def test_worked_example() -> None:
    a, b = Variable(2.0, requires_grad=True), Variable(-3.0, requires_grad=True)
    c = a * b
    d = a + c
    c.retain_grad()
    (d * c).backward()
    assert (a.grad.item(), b.grad.item(), c.grad.item(), d.grad) == (24, -20, -10, None)


def test_gradients_add_up_over_calls_and_over_graphs() -> None:
    x, g = random(4), random(4)
    v = Variable(x, requires_grad=True)
    out = (v * v).exp() * v.tanh()
    out.backward(g)
    once = v.grad
    out.backward(g)
    torch.testing.assert_close(v.grad, 2 * once)
    (v * 3).backward(g)
    torch.testing.assert_close(v.grad, 2 * once + 3 * g)


def test_a_retained_middle_hands_on_only_what_is_new() -> None:
    a, b = Variable(2.0, requires_grad=True), Variable(-3.0, requires_grad=True)
    c = a * b
    c.retain_grad()
    loss = (a + c) * c
    for times in (1, 2):
        loss.backward()
        assert (a.grad.item(), b.grad.item(), c.grad.item()) == (
            24 * times,
            -20 * times,
            -10 * times,
        )


def test_copies_are_variables_of_their_own() -> None:
    a = Variable(2.0, requires_grad=True)
    b = copy.deepcopy(a)
    (a * b * b).backward()
    assert (a.grad.item(), b.grad.item()) == (4, 8)


def test_gradients_are_plain_tensors_whatever_torch_tracks() -> None:
    v, c = Variable(random(3), requires_grad=True), random(3).requires_grad_()
    (v * c).backward(random(3).requires_grad_())
    assert not v.grad.requires_grad
    assert not (v / c).data.requires_grad
    v.grad = None
    v.backward(random(3).requires_grad_())
    assert not v.grad.requires_grad


def test_leaves_do_not_share_a_gradient() -> None:
    g = random(3)
    a, b = (Variable(random(3), requires_grad=True) for _ in range(2))
    (a + b).backward(g)
    a.grad.zero_()
    torch.testing.assert_close(b.grad, g)
    assert g.abs().min() > 0
    c = Variable(random(2, 2), requires_grad=True)
    c.reshape(4).backward(random(4))
    c.grad.mul_(0)
    d = Variable(random(3), requires_grad=True)
    (d.sum() * 2).backward()
    d.grad.mul_(0)  # in-place: fails on an expanded tensor


def test_gradient_of_a_leaf_itself() -> None:
    g = random(3)
    v = Variable(random(3), requires_grad=True)
    v.backward(g)
    v.grad.zero_()
    assert g.abs().min() > 0


def test_who_takes_part() -> None:
    x, y = Variable(random(3), requires_grad=True), Variable(random(3))
    out = x * y + y * y
    assert out.requires_grad
    assert not (y * y).requires_grad
    out.backward(random(3))
    assert y.grad is None
    assert [v.op for v in (y * y).topological_order()] == [""]
    assert [v.op for v in out.topological_order()] == ["add", "mul", ""]


def test_deep_chain_and_its_destruction() -> None:
    x = Variable(torch.tensor(1.0, dtype=torch.float64), requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y * 1.0001
    y.backward()
    assert math.isclose(x.grad.item(), 1.0001**10_000, rel_tol=1e-9)
    del y
    for _ in range(100_000):  # beyond any recursion limit, in C too
        x = x + 1
    del x


def test_exponentially_many_routes() -> None:
    v = Variable(torch.tensor(1.0, dtype=torch.float64), requires_grad=True)
    x = v
    for _ in range(60):
        x = x + x
    assert len(x.topological_order()) == 61
    x.backward()
    assert v.grad.item() == 2.0**60


def test_wide_fan_out() -> None:
    weights = random(2_000)

    def fan(x):
        return sum(w.item() * x.sigmoid() for w in weights)

    compare(fan, fan, random(5))


def test_newest_first_beats_depth() -> None:
    def skip(x, y):
        long = x
        for _ in range(5):
            long = long.tanh() + y
        return long * x + x * y  # x is near the output and far from it

    compare(skip, skip, random(3), random(3))


def test_memory_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o) is Variable for o in gc.get_objects())
        x = Variable(random(3), requires_grad=True)
        out = (x * x).exp().mean() + x.max()
        out.backward()
        del x, out
        assert sum(type(o) is Variable for o in gc.get_objects()) == before
    finally:
        gc.enable()


def test_own_operation() -> None:
    def sine(v):
        return recorded(v.data.sin(), (v, lambda g: g * v.data.cos()))

    compare(lambda v: sine(v) * 2, lambda t: t.sin() * 2, random(4))
    x = Variable(1.0, requires_grad=True)
    assert sine(x).op == "sine"
    partial = recorded(x.data * 2, (x, functools.partial(torch.mul, 2)))
    assert repr(partial) == "Variable(2.0, from operation)"


def test_mlp_in_lockstep_with_torch() -> None:
    def loss_of(x, target, w1, b1, w2, b2):
        return (((x @ w1 + b1).relu() @ w2 + b2 - target) ** 2).mean()

    start = [
        random(20, 16, dtype=torch.float32) / 4,
        torch.zeros(16),
        random(16, 3, dtype=torch.float32) / 4,
        torch.zeros(3),
    ]
    mine, theirs = (
        [Variable(p.clone(), requires_grad=True) for p in start],
        [p.clone().requires_grad_() for p in start],
    )
    for _ in range(200):
        x, target = random(32, 20, dtype=torch.float32), random(32, 3, dtype=torch.float32)
        for parameters in (mine, theirs):
            loss = loss_of(x, target, *parameters)
            loss.backward()
            for p in parameters:
                p.data -= 0.1 * p.grad
                p.grad = None
    for m, t in zip(mine, theirs, strict=True):
        torch.testing.assert_close(m.data, t.detach(), rtol=1e-5, atol=1e-6)


# --- refusals -------------------------------------------------------------------------------------


def test_refusals() -> None:
    x = Variable(random(2, 3), requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"shape \(2, 3\) expected a gradient of that shape, got none"
    ):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match=r"expected a gradient of that shape, got \(3,\)"):
        (x * 2).backward(random(3))
    with pytest.raises(RuntimeError, match="requires_grad=True"):
        Variable(random(2)).mean().backward()
    with pytest.raises(RuntimeError, match="floating-point values.*got torch.int64"):
        Variable(3, requires_grad=True)
    for kind in (torch.bool, torch.uint8, torch.int32, torch.complex64):
        with pytest.raises(RuntimeError, match=f"got {kind}"):
            Variable(torch.ones(2, dtype=kind), requires_grad=True)
    with pytest.raises(TypeError, match="got a Variable"):
        Variable(x)
    with pytest.raises(ValueError, match=r"broadcast to \(4,\), .* got \(3,\)"):
        unbroadcast(random(4), (3,))
    with pytest.raises(ValueError, match="can be broadcast"):
        unbroadcast(random(4), (2, 4))
    with pytest.raises(ValueError, match="can be broadcast"):
        unbroadcast(random(4), (4, 1))
    for wrong in (lambda: x @ 2, lambda: 2 @ x, lambda: x @ "two", lambda: x**x, lambda: 2**x):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()
    with pytest.raises(RuntimeError, match="3"):  # torch's own words name the sizes
        x @ random(4, 2)


@pytest.mark.parametrize("which", ["leaf", "middle", "constant", "result"])
def test_values_changed_in_place_are_noticed(which: str) -> None:
    x, c = Variable(random(3), requires_grad=True), random(3)
    h = x.exp() * c
    out = h.exp()
    {"leaf": x.data, "middle": h.data, "constant": c, "result": out.data}[which].add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.backward(random(3))


def test_a_step_between_two_runs_is_no_change_in_between() -> None:
    w = Variable(random(3), requires_grad=True)
    for _ in range(3):
        (w * w).backward(random(3))
        w.data -= 0.1 * w.grad
        w.grad = None


def test_variable_of_a_tracked_torch_tensor_starts_a_graph_of_its_own() -> None:
    t = random(3).requires_grad_()
    v = Variable(t * 2, requires_grad=True)
    assert not v.data.requires_grad
    (v * v).backward(random(3))
    assert v.grad is not None
    assert t.grad is None


# --- unbroadcast ----------------------------------------------------------------------------------


@st.composite
def broadcasts(draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and one that it can be broadcast to."""
    after = draw(st.lists(st.integers(0, 4), max_size=4))
    before = [draw(st.sampled_from([1, n])) for n in after[draw(st.integers(0, len(after))) :]]
    return tuple(before), tuple(after)


@settings(deadline=None)
@given(broadcasts())
def test_unbroadcast_is_the_adjoint_of_broadcasting(shapes: tuple) -> None:
    before, after = shapes
    x, g = random(*before), random(*after)
    back = unbroadcast(g, before)
    assert back.shape == x.shape
    torch.testing.assert_close((back * x).sum(), (g * x.expand(after)).sum())


@settings(deadline=None)
@given(broadcasts())
def test_unbroadcast_takes_shapes_as_lists(shapes: tuple) -> None:
    before, after = shapes
    g = random(*after)
    assert torch.equal(unbroadcast(g, list(before)), unbroadcast(g, before))


# --- drawing and printing -------------------------------------------------------------------------


def test_words() -> None:
    a = Variable(2.0, requires_grad=True)
    assert a.item() == 2
    assert type(a.item()) is float
    assert [Variable(random(*shape)).shape for shape in [(), (2, 3)]] == [(), (2, 3)]
    assert repr(a) == "Variable(2.0, requires_grad=True)"
    assert repr(a * a) == "Variable(4.0, from mul)"
    assert repr(Variable(1.0)) == "Variable(1.0)"
    ops = [
        -a,
        a - 2,
        a / 2,
        a**2,
        a.exp(),
        a.log(),
        a.relu(),
        a.tanh(),
        a.sigmoid(),
        a.sum(),
        a.mean(),
        a.max(),
        a.reshape(1),
        a[None],
        a.reshape(1, 1).transpose(0, 1),
    ]
    assert [v.op for v in ops] == [
        "neg",
        "sub",
        "truediv",
        "pow",
        "exp",
        "log",
        "relu",
        "tanh",
        "sigmoid",
        "sum",
        "mean",
        "max",
        "reshape",
        "getitem",
        "transpose",
    ]


def test_picture_of_a_graph() -> None:
    w, b = Variable(random(3, 4), requires_grad=True), Variable(random(4), requires_grad=True)
    h = Variable(random(2, 3)) @ w + b
    loss = (h * h).mean()
    loss.backward()
    svg = draw_graph(loss, {"w": w, "b": b})._repr_mimebundle_()["image/svg+xml"]
    assert svg.startswith("<?xml")
    draw_graph(w)._repr_mimebundle_()  # a leaf alone


def test_places_in_the_picture() -> None:
    a, b, late = (Variable(x, requires_grad=True) for x in (2.0, -3.0, 1.0))
    c = a * b
    d = a + c
    out = d * c * late
    places = _layout(out.topological_order())
    columns = {v: x for v, (x, _) in places.items()}
    assert [columns[v] for v in (a, b, c, d, out)] == [0, 0, 1, 2, 4]
    assert columns[late] == 3, "a leaf stands just left of its first use"
    assert len(set(places.values())) == len(places) == 7, "no two in one place"
    assert places[c][1] == 0 > places[b][1], "results above leaves"


def test_captions() -> None:
    x = Variable(torch.tensor([3.0, 4.0]), requires_grad=True)
    y = (x * 1).sum()
    assert (_caption(x, "x"), _caption(x, ""), _caption(y, "")) == (
        "x\n(2,)",
        "leaf\n(2,)",
        "sum\n7",
    )
    y.retain_grad()
    (y * -2.5).backward()
    assert _caption(x, "x") == "x\n(2,)\n|grad| 3.5"
    assert _caption(y, "y") == "y = sum\n7\ngrad −2.5"


# --- exercises ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        (True, [0, 0]),
        (1, [False, False]),
        (10**13, [0, 0]),
        (1.0, [0, 0]),
        (0, []),
        (2, [2, 2]),
        (2, []),
    ],
    ids=str,
)
def test_smallest_index_refuses_what_is_no_example(answer) -> None:
    assert "Expected a length from 1 to 100" in str(exercises.ex_2_4.judge(answer))


def test_smallest_index_accepts_any_spelling_of_the_place() -> None:
    assert all(exercises.ex_2_4.judge((1, places)).passed for places in ([0, 0], [-1, 0], [-1, -1]))


def test_forgotten_middle_in_numbers() -> None:
    a, b, grads = 2.0, -3.0, {"a": 0.0, "c": 0.0, "d": 0.0}
    c, total = a * b, []
    for _ in range(2):  # kept totals, handed on as exercise 2.5 supposes
        grads["d"] += c
        grads["c"] += (a + c) + grads["d"]
        grads["a"] += grads["d"] + grads["c"] * b
        total.append(grads["a"])
    assert (grads["d"], grads["c"], total) == (-12, -26, [24, 24 + 66])
    assert all(figure in exercises.ex_2_5.because for figure in ("-12", "-26", "66"))


def test_measured_steps_pass() -> None:
    for exponent in (-3, -2.7, -2.5, -2.2, -2):
        assert exercises.ex_2_6.judge(exponent).passed
    assert not any(exercises.ex_2_6.judge(exponent).passed for exponent in (-1.5, -3.6, -5.5, -7))


def test_a_hunt_may_demand_the_refusal() -> None:
    def check(candidate):
        try:
            candidate(torch.ones(4), (3,))
        except ValueError:
            g, x = random(2, 2, 3), random(1, 3)
            back = candidate(g, (1, 3))
            square = random(3, 3)
            same = torch.isclose((back * x).sum(), (g * x).sum()) & torch.allclose(
                candidate(square, (3,)), square.sum(0)
            )
            return same & (back.shape == x.shape)
        return False

    assert exercises.ex_2_7.judge(check).passed
