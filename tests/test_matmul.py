"""Chapter 01: every product against torch's, over shapes, dtypes and strides.

It covers the rule of broadcasting and every refusal, too.
"""

import itertools
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fromfound.check import same_as
from fromfound.experiments.matmul import gpu_rung
from fromfound.matmul import (
    best_time,
    broadcast_shapes,
    matmul_broadcast,
    matmul_dot,
    matmul_einsum,
    matmul_lists,
    matmul_loops,
    show_broadcast,
)

PRODUCTS = [matmul_loops, matmul_dot, matmul_broadcast, matmul_einsum]
SHAPES = [
    (1, 1, 1),
    (2, 3, 4),
    (4, 3, 2),
    (3, 3, 3),
    (1, 7, 1),
    (5, 1, 6),
    (1, 20, 3),
    (0, 3, 2),
    (2, 0, 3),
    (2, 3, 0),
    (0, 0, 0),
]
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTS = [torch.int64, torch.int32, torch.int8, torch.uint8]

every_product = pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p.__name__)


def random_tables(n, k, m, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(n, k, generator=generator).to(dtype), torch.randn(
            k, m, generator=generator
        ).to(dtype)
    low = 0 if dtype == torch.uint8 else -9
    return (
        torch.randint(low, 10, size, generator=generator).to(dtype) for size in ((n, k), (k, m))
    )


def assert_product(c, a, b):
    """Equal to the product in float64, up to rounding.

    Each term of each sum is rounded once (Higham 1993).
    """
    assert c.shape == (a.shape[0], b.shape[1])
    assert c.dtype == a.dtype
    bound = (a.shape[1] + 2) * torch.finfo(a.dtype).eps * (a.double().abs() @ b.double().abs())
    assert ((c.double() - a.double() @ b.double()).abs() <= bound).all()


# --- values ---------------------------------------------------------------------------------------


@every_product
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_floats(product, shape, dtype):
    a, b = random_tables(*shape, dtype)
    assert_product(product(a, b), a, b)


@every_product
@pytest.mark.parametrize("dtype", INTS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_numbers_are_exact(product, shape, dtype):
    a, b = random_tables(*shape, dtype)
    c = product(a, b)
    assert c.dtype == dtype
    assert torch.equal(c, a @ b)


@every_product
def test_bytes_wrap_as_in_torch(product):
    a, b = (
        torch.tensor([[200, 100]], dtype=torch.uint8),
        torch.tensor([[1], [3]], dtype=torch.uint8),
    )
    assert torch.equal(product(a, b), a @ b)
    assert product(a, b).item() == 500 % 256


@every_product
@pytest.mark.parametrize("seed", range(10))
def test_random_shapes(product, seed):
    n, k, m = torch.randint(0, 9, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    a, b = random_tables(n, k, m, seed=seed)
    assert_product(product(a, b), a, b)


@every_product
def test_tensors_that_are_not_contiguous(product):
    a, b = random_tables(4, 6, 5)
    transposed, every_other, repeated = (
        a.T.contiguous().T,
        torch.stack([b, b], 2).flatten(1)[:, ::2],
        a[:1].expand(4, 6),
    )
    assert not any(t.is_contiguous() for t in (transposed, every_other, repeated))
    assert_product(product(transposed, every_other), a, b)
    assert_product(product(repeated, b), repeated, b)
    assert_product(product(a[:, 1:4], b[1:4, 2:]), a[:, 1:4], b[1:4, 2:])


@every_product
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 3, 3), (1, 1, 1)], ids=str)
def test_gradients_are_torchs(product, shape, capsys):
    same_as(product, torch.matmul, *random_tables(*shape))


@every_product
def test_inputs_are_left_alone(product):
    a, b = random_tables(3, 4, 2)
    before = a.clone(), b.clone()
    product(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@every_product
def test_not_finite_numbers_pass_through(product):
    c = product(
        torch.tensor([[1.0, float("inf")], [float("nan"), 1.0]]), torch.tensor([[2.0], [3.0]])
    )
    assert c[0, 0] == float("inf")
    assert c[1, 0].isnan()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
def test_lists(shape, dtype):
    n, k, m = shape
    a, b = random_tables(n, k, m, dtype)
    c = matmul_lists(a.tolist(), b.tolist())
    if k == 0:  # a list of no rows has no columns
        assert c == [[] for _ in range(n)]
    else:
        assert torch.tensor(c, dtype=dtype).reshape(n, m).allclose(a @ b)


# --- refusals -------------------------------------------------------------------------------------

MISFITS = [
    ((5, 784), (10, 784), r"\(5, 784\) and \(10, 784\): try b\.T$"),
    ((784, 5), (784, 10), r"try a\.T$"),
    ((3, 4), (5, 3), "swap the two"),
    ((3, 4), (5, 6), "the k must agree$"),
    ((3,), (3, 4), r"both need two dimensions; v\[None\] is a row, v\[:, None\] a column$"),
    ((3, 4), (4,), "both need two dimensions"),
    ((2, 3, 4), (4, 5), "both need two dimensions"),
    ((), (), "both need two dimensions"),
    ((0, 3), (0, 3), r"try b\.T$"),
]


@every_product
@pytest.mark.parametrize("first, second, advice", MISFITS, ids=str)
def test_shapes_that_do_not_fit(product, first, second, advice):
    with pytest.raises(
        ValueError, match=rf"^{product.__name__} expected \(n, k\) and \(k, m\), got .*{advice}"
    ):
        product(torch.randn(first), torch.randn(second))


@every_product
def test_two_dtypes(product):
    with pytest.raises(
        ValueError,
        match=(
            f"{product.__name__} expected two tensors of one dtype, got torch.float32 and "
            "torch.float64: convert one"
        ),
    ):
        product(torch.randn(2, 3), torch.randn(3, 2).double())


@every_product
def test_lists_for_tensors(product):
    with pytest.raises(
        TypeError, match=f"{product.__name__} expected tensors, got a list: .*matmul_lists"
    ):
        product([[1.0]], [[1.0]])


@pytest.mark.parametrize(
    "a, b, message",
    [
        (
            [[1, 2, 3, 4]],
            [[1], [2], [3]],
            r"expected \(n, k\) and \(k, m\), got \(1, 4\) and \(3, 1\): the k must agree",
        ),
        ([[1, 2]], [[1], [2], [3]], r"got \(1, 2\) and \(3, 1\)"),
        ([[1, 2]], [], r"got \(1, 2\) and \(0, 0\)"),
        ([[1, 2], [3]], [[1], [2]], r"rows of one length, got 2 in row 0, 1 in row 1: cut or pad"),
        ([[1, 2]], [[1], [2, 3]], r"got 1 in row 0, 2 in row 1: cut or pad"),
    ],
)
def test_lists_that_do_not_fit(a, b, message):
    with pytest.raises(ValueError, match=f"^matmul_lists .*{message}"):
        matmul_lists(a, b)


# --- broadcasting ---------------------------------------------------------------------------------

SIZES = st.sampled_from([0, 1, 1, 2, 3])


@given(st.lists(st.lists(SIZES, max_size=4).map(tuple), max_size=4))
def test_broadcast_shapes_agrees_with_torch(shapes):
    try:
        expected = tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        with pytest.raises(ValueError, match="broadcast_shapes expected equal sizes or 1"):
            broadcast_shapes(*shapes)
    else:
        assert broadcast_shapes(*shapes) == expected


@given(st.lists(SIZES, max_size=4), st.data())
def test_shapes_that_fit_by_construction(shape, data):
    """Cutting sizes off the left and setting others to 1 leaves a shape that stretches back."""
    cut = data.draw(st.integers(0, len(shape)))
    smaller = [data.draw(st.sampled_from([1, size])) for size in shape[cut:]]
    assert broadcast_shapes(shape, smaller) == broadcast_shapes(smaller, shape) == tuple(shape)
    assert torch.empty(smaller).expand(shape).shape == torch.Size(shape)


@pytest.mark.parametrize(
    "shapes, place",
    [
        (((3, 4), (3, 5)), "place 1 from the right holds [4, 5]"),
        (((5, 784), (5,)), "place 1 from the right holds [5, 784]"),
        (((2, 1), (3, 1)), "place 2 from the right holds [2, 3]"),
        (((0,), (2,)), "place 1 from the right holds [0, 2]"),
        (((-1,),), "place 1 from the right holds [-1]"),
    ],
)
def test_the_refusal_names_the_place(shapes, place):
    with pytest.raises(ValueError) as error:
        broadcast_shapes(*shapes)
    assert place in str(error.value)
    assert "None" in str(error.value)


def test_a_size_of_a_tensor_is_a_shape():
    assert broadcast_shapes(torch.randn(3, 1).shape, [4]) == (3, 4)
    assert broadcast_shapes() == ()


# --- pictures, times, the experiment --------------------------------------------------------------

M = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    "a, b",
    [
        (M, M[0]),
        (M, M[:, :1]),
        (M[:, :1], M[0]),
        (M.T, M[:, 0]),
        (M[1:, ::2], M[0, 1:3]),
        (M[:1], M[:1]),
    ],
    ids=str,
)
def test_show_broadcast_draws(a, b):
    """What each operand reads, its strides, and its memory; each number of M is its own address."""
    drawn = [t.get_text() for t in show_broadcast(a, b).fig.axes[0].texts]
    for name, operand in (("a", a), ("b", b)):
        seen, at = (
            operand.expand(torch.broadcast_shapes(a.shape, b.shape)),
            drawn.index(f"{name}, as it is read"),
        )
        memory = range(int(operand.min()), int(operand.max()) + 1)
        assert drawn[at - seen.numel() : at] == [
            f"{number:g}" for number in seen.flatten().tolist()
        ]
        assert drawn[at + 1] == f"its memory, strides {seen.stride()}"
        assert drawn[at + 2 : at + 2 + len(memory)] == [str(address) for address in memory]


@pytest.mark.parametrize(
    "a, b, message",
    [
        (torch.randn(2, 3), torch.randn(2), "expected equal sizes or 1"),
        (torch.randn(7, 1), torch.randn(2), r"\(7, 2\)"),
        (torch.randn(2), torch.randn(2), r"\(2,\)"),
        (torch.randn(0, 2), torch.randn(2), r"\(0, 2\)"),
        (torch.randn(2, 2, 2), torch.randn(2), r"\(2, 2, 2\)"),
    ],
)
def test_show_broadcast_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        show_broadcast(a, b)


def test_best_time_is_the_shortest():
    waits = itertools.chain([0.0, 0.03, 0.001], itertools.repeat(0.02))

    def call(made):
        made.append(1)
        time.sleep(next(waits))

    calls = []
    assert 0.001 <= best_time(call, calls, budget=0.06) < 0.02
    assert len(calls) >= 4
    calls.clear()
    best_time(call, calls, budget=0)
    assert len(calls) == 2  # one to warm up, one timed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_rung_says_what_it_needs():
    with pytest.raises(RuntimeError, match="found none: run it on a machine with one"):
        gpu_rung(0)
