"""Chapter 07: every normalization through the same checks against torch's.

It covers gradients by finite differences, running statistics, state dictionaries, and
refusals.
"""

import copy
import io
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromfound import norm as ours
from fromfound.check import same_as
from fromfound.exercises import norm as exercises
from fromfound.experiments import norm as experiments
from fromfound.export import export_model, load_exported
from fromfound.norm import (
    BatchNorm2d,
    DerivedBatchNorm,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm,
    RunningBatchNorm2d,
    mixture,
    moments,
)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def filled(layer, seed=0):
    """The layer with random weights and biases."""
    with torch.no_grad():
        for k, parameter in enumerate(layer.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=seed + k) + 0.5)
    return layer


# --- a sweep against torch ------------------------------------------------------------------------

MAKERS = {  # called with a module that has the layers: ours or torch.nn
    "batch": lambda m: m.BatchNorm2d(6),
    "batch, average": lambda m: m.BatchNorm2d(6, momentum=None),
    "batch, eps": lambda m: m.BatchNorm2d(6, eps=0.3, momentum=0.7),
    "batch, plain": lambda m: m.BatchNorm2d(6, affine=False),
    "batch, no statistics": lambda m: m.BatchNorm2d(6, track_running_stats=False),
    "batch, neither": lambda m: m.BatchNorm2d(6, affine=False, track_running_stats=False),
    "instance": lambda m: m.InstanceNorm2d(6),
    "instance, all": lambda m: m.InstanceNorm2d(6, affine=True, track_running_stats=True),
    "instance, momentum": lambda m: m.InstanceNorm2d(6, momentum=0.5, track_running_stats=True),
    "instance, still": lambda m: m.InstanceNorm2d(6, momentum=None, track_running_stats=True),
    "group 1": lambda m: m.GroupNorm(1, 6),
    "group 3": lambda m: m.GroupNorm(3, 6),
    "group 6": lambda m: m.GroupNorm(6, 6),
    "group, plain": lambda m: m.GroupNorm(2, 6, affine=False),
    "group, eps": lambda m: m.GroupNorm(2, 6, eps=0.3),
    "layer 1": lambda m: m.LayerNorm(4),
    "layer 2": lambda m: m.LayerNorm((5, 4)),
    "layer 3": lambda m: m.LayerNorm((6, 5, 4)),
    "layer, list": lambda m: m.LayerNorm([5, 4]),
    "layer, no bias": lambda m: m.LayerNorm(4, bias=False),
    "layer, plain": lambda m: m.LayerNorm(4, elementwise_affine=False),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_same_as_torch(make, batch):
    same_as(make(ours), make(nn), randn(batch, 6, 5, 4))


@every
def test_far_from_zero_in_float32(make):
    """Numbers of standard deviation 1 around 1000: as near to double precision as torch's layer is.

    E[x²] - E[x]² would be off by a tenth and more.
    """
    exact, layers = filled(make(nn)).double(), (filled(make(ours)), filled(make(nn)))
    x, pull = 1000 + randn(4, 6, 5, 4), randn(4, 6, 5, 4, seed=1)
    found = []
    for layer in (exact, *layers):
        leaf = x.to(torch.float64 if layer is exact else torch.float32).requires_grad_()
        (y := layer(leaf)).backward(pull.to(y))
        found.append((y.detach().double(), leaf.grad.double()))
    for right, mine, theirs in zip(*found, strict=True):
        assert (mine - right).abs().max() < 4 * (theirs - right).abs().max() + 1e-3


@every
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded"])
def test_layouts_of_memory(make, layout):
    x = {
        "channels_last": randn(3, 6, 5, 4).to(memory_format=torch.channels_last),
        "transposed": randn(6, 3, 4, 5).transpose(0, 1).transpose(2, 3),
        "expanded": randn(1, 6, 5, 4).expand(3, 6, 5, 4),
    }[layout]
    mine, theirs = filled(make(ours)), filled(make(nn))
    assert torch.allclose(mine(x), theirs(x), atol=1e-5)
    if layout == "channels_last":
        assert mine(x).is_contiguous(memory_format=torch.channels_last)


@every
@pytest.mark.parametrize("dtype, tol", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("mixed", [False, True], ids=["half", "mixed"])
def test_half_precision(make, dtype, tol, mixed):
    """As near to the answer in double precision as the type allows.

    Parameters are of the same type, or of float32.
    """
    layer, exact = filled(make(ours)), filled(make(ours)).double()
    layer = layer if mixed else layer.to(dtype)
    exact.load_state_dict(layer.state_dict())
    x, pull = (
        randn(4, 6, 5, 4, dtype=dtype).requires_grad_(),
        randn(4, 6, 5, 4, seed=1, dtype=dtype),
    )
    wide = x.detach().double().requires_grad_()
    y, expected = layer(x), exact(wide)
    y.backward(pull), expected.backward(pull.double())
    assert y.dtype == x.grad.dtype == dtype
    assert all(p.grad.dtype == p.dtype for p in layer.parameters())
    for mine, right in [
        (y, expected),
        (x.grad, wide.grad),
        *((p.grad, q.grad) for p, q in zip(layer.parameters(), exact.parameters(), strict=True)),
    ]:
        assert (mine.double() - right).abs().max() <= tol * max(1, right.abs().max())


def test_variances_beyond_half_precision():
    """Spread 400: the variance, 160,000, is no number of float16."""
    (layer := BatchNorm2d(6)).load_state_dict(filled(nn.BatchNorm2d(6)).state_dict())
    x = (400 * randn(4, 6, 5, 4)).half()
    assert torch.allclose(layer(x).float(), copy.deepcopy(layer)(x.float()), atol=2e-2)
    assert abs(layer.running_var.mean() / 160_000 - 0.1) < 0.03


@every
def test_an_empty_batch(make):
    layer, x = make(ours), torch.zeros(0, 6, 5, 4, requires_grad=True)
    y = layer(x)
    y.backward(torch.randn_like(y))
    assert y.shape == x.grad.shape == (0, 6, 5, 4)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in layer.parameters())
    if isinstance(layer, BatchNorm2d):  # torch's instance norm fails, or makes its statistics nan
        (theirs := make(nn))(x)
        assert all(
            torch.equal(a, b) for a, b in zip(layer.buffers(), theirs.buffers(), strict=True)
        )
    else:
        assert all(
            torch.equal(a, b) for a, b in zip(layer.buffers(), make(ours).buffers(), strict=True)
        )


@every
def test_gradients_by_finite_differences(make):
    layer = filled(make(ours).double())
    names, start = [name for name, _ in layer.named_parameters()], copy.deepcopy(layer.state_dict())

    def call(x, *parameters):
        layer.load_state_dict(start)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x)

    x = randn(2, 6, 5, 4, dtype=torch.float64).requires_grad_()
    ins = [x, *(p.detach().clone().requires_grad_() for p in layer.parameters())]
    assert torch.autograd.gradcheck(call, ins, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, ins, fast_mode=True)
    layer.eval()
    assert torch.autograd.gradcheck(call, ins, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, ins, fast_mode=True)


@every
def test_gradient_only_where_wanted(make):
    layer, x = filled(make(ours)), randn(3, 6, 5, 4)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert not layer(x).requires_grad
    layer(leaf := x.clone().requires_grad_()).backward(randn(3, 6, 5, 4, seed=1))
    assert leaf.grad is not None
    assert all(p.grad is None for p in layer.parameters())
    slope = torch.autograd.grad((layer(leaf).square() * x).sum(), leaf, create_graph=True)[0]
    slope.backward(randn(3, 6, 5, 4, seed=2))
    assert leaf.grad.isfinite().all()


@every
def test_copies_and_files(make):
    layer, x = filled(make(ours)), randn(3, 6, 5, 4)
    layer(x)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    loaded = make(nn)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.allclose(other.eval()(x), layer.eval()(x), atol=1e-6)


@every
def test_does_not_touch_its_input(make):
    x = randn(3, 6, 5, 4).requires_grad_()
    before = x.detach().clone()
    pull = randn(3, 6, 5, 4, seed=1)
    kept = pull.clone()
    make(ours)(x).backward(pull)
    assert torch.equal(x.detach(), before)
    assert torch.equal(pull, kept)


@every
def test_device_and_dtype_of_the_constructor(make):
    layer = make(ours)
    again = type(layer)(
        *{BatchNorm2d: (6,), InstanceNorm2d: (6,), GroupNorm: (2, 6), LayerNorm: (4,)}[type(layer)],
        device="meta",
        dtype=torch.float64,
    )
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in again.parameters())
    assert type(layer).__name__ in repr(layer)


@given(
    batch=st.integers(1, 5),
    channels=st.integers(1, 6),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_random_shapes(batch, channels, rows, columns, seed):
    x = randn(batch, channels, rows, columns, seed=seed) * 3 + 5
    pairs = [
        (LayerNorm((channels, rows, columns)), nn.LayerNorm((channels, rows, columns))),
        (LayerNorm(columns), nn.LayerNorm(columns)),
    ]
    pairs += [(BatchNorm2d(channels), nn.BatchNorm2d(channels))] * (batch * rows * columns > 1) + [
        (InstanceNorm2d(channels), nn.InstanceNorm2d(channels))
    ] * (rows * columns > 1)
    pairs += [
        (GroupNorm(g, channels), nn.GroupNorm(g, channels))
        for g in range(1, channels + 1)
        if channels % g == 0 and batch * channels * rows * columns > g
    ]
    for mine, theirs in pairs:
        mine.load_state_dict(filled(theirs).state_dict())
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        (ya := mine(a)).backward(pull := randn(*x.shape, seed=seed + 1))
        (yb := theirs(b)).backward(pull)
        assert torch.allclose(ya, yb, atol=2e-3)
        assert torch.allclose(a.grad, b.grad, rtol=1e-2, atol=1e-2 * max(1, b.grad.abs().max()))


def test_normalized_is_normalized():
    """Mean 0 and variance 1 where the layer says so, whatever comes in."""
    x = 7 * randn(4, 6, 5, 4) + 100
    for layer, dims in [
        (BatchNorm2d(6, affine=False), (0, 2, 3)),
        (InstanceNorm2d(6, affine=False), (2, 3)),
        (LayerNorm((6, 5, 4), elementwise_affine=False), (1, 2, 3)),
        (GroupNorm(1, 6, affine=False), (1, 2, 3)),
    ]:
        y = layer(x)
        assert y.mean(dims).abs().max() < 1e-4
        assert (y.var(dims, correction=0) - 1).abs().max() < 1e-3


def test_other_numbers_of_dimensions():
    for mine, theirs, x in [
        (InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(6, affine=True), randn(6, 5, 4)),
        (GroupNorm(2, 6), nn.GroupNorm(2, 6), randn(5, 6)),
        (GroupNorm(2, 6), nn.GroupNorm(2, 6), randn(5, 6, 3)),
    ]:
        mine.load_state_dict(filled(theirs).state_dict())
        assert torch.allclose(mine(x), theirs(x), atol=1e-5)
        assert mine(x).shape == x.shape


def test_old_state_dicts_load():
    """Those from before batches were counted have no num_batches_tracked."""
    old = nn.BatchNorm2d(3).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    layer = BatchNorm2d(3)
    layer(randn(2, 3, 4, 4))
    layer.load_state_dict(old)
    assert layer.num_batches_tracked == 1
    assert layer.running_mean.abs().max() == 0
    new = nn.BatchNorm2d(3).state_dict()
    del new["num_batches_tracked"]
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        BatchNorm2d(3).load_state_dict(new)


def test_reset():
    layer = filled(BatchNorm2d(3))
    layer(randn(4, 3, 2, 2))
    layer.reset_running_stats(), layer.reset_parameters()
    (fresh := nn.BatchNorm2d(3)).load_state_dict(layer.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            fresh.state_dict().values(), nn.BatchNorm2d(3).state_dict().values(), strict=True
        )
    )


def test_statistics_may_change_before_the_backward_pass():
    for layer in (BatchNorm2d(3, affine=False).eval(), RunningBatchNorm2d(3, affine=False)):
        x = randn(2, 3, 4, 4).requires_grad_()
        y = layer(x)
        expected = torch.autograd.grad(y, x, randn(2, 3, 4, 4, seed=1), retain_graph=True)[0]
        layer.train()(x.detach() + 9)
        assert torch.equal(torch.autograd.grad(y, x, randn(2, 3, 4, 4, seed=1))[0], expected)


def test_under_autocast():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3),
        GroupNorm(2, 6),
        nn.Flatten(),
        nn.Linear(96, 2),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(randn(4, 3, 8, 8)).float()
    y.backward(torch.randn_like(y))
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())


# --- refusals -------------------------------------------------------------------------------------

REFUSED = [
    (
        lambda: BatchNorm2d(3)(randn(2, 4, 5, 5)),
        RuntimeError,
        r"BatchNorm2d expected \(N, 3, H, W\), got \(2, 4, 5, 5\)",
    ),
    (lambda: BatchNorm2d(3)(randn(2, 3, 5)), ValueError, r"\(N, 3, H, W\), got \(2, 3, 5\)"),
    (
        lambda: BatchNorm2d(3)(randn(1, 3, 1, 1)),
        ValueError,
        "more than 1 value per channel when training",
    ),
    (
        lambda: BatchNorm2d(3, track_running_stats=False).eval()(randn(1, 3, 1, 1)),
        ValueError,
        "more than 1 value",
    ),
    (
        lambda: BatchNorm2d(3)(torch.zeros(2, 3, 4, 4, dtype=torch.long)),
        TypeError,
        "floating-point numbers, got torch.int64",
    ),
    (lambda: InstanceNorm2d(3)(randn(2, 3, 1, 1)), ValueError, "more than 1 value"),
    (lambda: InstanceNorm2d(3)(randn(2, 4, 5, 5)), ValueError, r"\(N, 3, H, W\) or \(3, H, W\)"),
    (lambda: InstanceNorm2d(3)(randn(2, 3)), ValueError, "H, W"),
    (lambda: LayerNorm((3, 4))(randn(2, 4, 3)), RuntimeError, r"\(\.\.\., 3, 4\), got \(2, 4, 3\)"),
    (lambda: LayerNorm((3, 4))(randn(4)), RuntimeError, "LayerNorm"),
    (lambda: GroupNorm(4, 6), ValueError, "6 and 4"),
    (lambda: GroupNorm(3, 6)(randn(2, 4, 5)), RuntimeError, r"\(N, 6, \.\.\.\)"),
    (lambda: GroupNorm(3, 6)(randn(6)), RuntimeError, "GroupNorm"),
    (lambda: GroupNorm(3, 3)(randn(1, 3, 1, 1)), ValueError, "more than 1 value per group"),
    (lambda: RunningBatchNorm2d(3)(randn(2, 4, 5, 5)), RuntimeError, "RunningBatchNorm2d expected"),
    (lambda: RunningBatchNorm2d(3)(randn(3, 4)), ValueError, "RunningBatchNorm2d expected"),
]


@pytest.mark.parametrize("call, error, message", REFUSED)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


WRONG = [
    (lambda m: m.BatchNorm2d(3), (2, 4, 5, 5)),
    (lambda m: m.BatchNorm2d(3), (2, 3, 5)),
    (lambda m: m.BatchNorm2d(3), (1, 3, 1, 1)),
    (lambda m: m.InstanceNorm2d(3), (2, 3, 1, 1)),
    (lambda m: m.LayerNorm(3), (2, 4)),
    (lambda m: m.GroupNorm(3, 6), (2, 4, 5)),
    (lambda m: m.GroupNorm(3, 3), (1, 3, 1, 1)),
]


@pytest.mark.parametrize("make, shape", WRONG)
def test_errors_are_of_torchs_types(make, shape):
    raised = []
    for module in (ours, nn):
        with pytest.raises(Exception) as caught:
            make(module)(randn(*shape))
        raised.append(caught.type)
    assert raised[0] is raised[1]


def test_a_single_value_is_fine_in_evaluation():
    (mine := BatchNorm2d(3)).load_state_dict(filled(theirs := nn.BatchNorm2d(3)).state_dict())
    assert torch.allclose(mine.eval()(x := randn(1, 3, 1, 1)), theirs.eval()(x), atol=1e-6)


# --- running statistics in training ---------------------------------------------------------------


def test_running_matches_a_plain_computation():
    """Against weighted sums of all images so far, in double precision."""
    layer, momentum, seen = RunningBatchNorm2d(4, momentum=0.2, affine=False).double(), 0.2, []
    for k, n in enumerate([1, 3, 2, 8, 1]):
        seen = [(weight * (1 - momentum) ** n, x) for weight, x in seen]
        batch = 3 * randn(n, 4, 3, 2, seed=k, dtype=torch.float64) + k
        seen.append((1 - (1 - momentum) ** n, batch))
        total = sum(w for w, _ in seen)
        mean = sum(w * x.mean((0, 2, 3)) for w, x in seen) / total
        square = sum(w * x.square().mean((0, 2, 3)) for w, x in seen) / total
        y = layer(batch)
        assert torch.allclose(layer.running_mean, mean)
        assert torch.allclose(layer.running_var, square - mean.square())
        assert torch.allclose(
            y, (batch - mean[:, None, None]) / (square - mean.square() + 1e-5).sqrt()[:, None, None]
        )
        assert layer.images_seen == sum(len(x) for _, x in seen)


def test_running_gradients():
    layer = filled(RunningBatchNorm2d(4, momentum=0.2).double())
    layer(randn(3, 4, 2, 2, dtype=torch.float64))
    start = [b.clone() for b in layer.buffers()]

    def call(x, training):
        for kept, value in zip(layer.buffers(), start, strict=True):
            kept.copy_(value)
        return layer.train(training)(x)

    x = randn(2, 4, 3, 2, seed=1, dtype=torch.float64).requires_grad_()
    for training in (True, False):
        assert torch.autograd.gradcheck(partial(call, training=training), x)
        assert torch.autograd.gradgradcheck(partial(call, training=training), x)


def test_running_by_itself():
    first, x = RunningBatchNorm2d(3, affine=False), randn(4, 3, 5, 5)
    # The first batch is all it knows.
    assert torch.allclose(first(x), nn.BatchNorm2d(3, affine=False)(x), atol=1e-5)
    before = copy.deepcopy(first.state_dict())
    first.eval()(x + 9)
    first.train()(torch.zeros(0, 3, 5, 5))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), before.values(), strict=True)
    )
    single = RunningBatchNorm2d(3, affine=False)
    assert all(single(randn(1, 3, 1, 1, seed=k)).isfinite().all() for k in range(5))
    far = RunningBatchNorm2d(1, affine=False)
    for k in range(50):
        far(1000 + randn(4, 1, 8, 8, seed=k))
    assert abs(far.running_var.item() - 1) < 0.15  # E[x²] - E[x]² in float32 would be off by more


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, float("nan"), None])
def test_running_refuses_a_share_that_is_none(momentum):
    with pytest.raises(ValueError, match=f"momentum above 0 and at most 1, got {momentum}"):
        RunningBatchNorm2d(3, momentum=momentum)
    layer = RunningBatchNorm2d(3, affine=False)
    layer.momentum = momentum
    with pytest.raises(ValueError, match="momentum above 0"):
        layer(randn(2, 3, 4, 4))
    assert layer.eval()(randn(2, 3, 4, 4)).isfinite().all()


@pytest.mark.parametrize("momentum", [1e-8, 1e-4, 0.05, 1.0])
def test_running_from_a_tiny_share_to_all(momentum):
    """With momentum near zero for one image it is a plain average of all.

    With momentum 1 the last batch is all there is.
    """
    layer, batches = (
        RunningBatchNorm2d(3, momentum=momentum, affine=False),
        [2 * randn(2, 3, 4, 4, seed=k) + k for k in range(5)],
    )
    assert torch.allclose(layer(batches[0]), nn.BatchNorm2d(3, affine=False)(batches[0]), atol=1e-5)
    for x in batches[1:]:
        layer(x)
    known = torch.cat(batches[-1:] if momentum == 1.0 else batches)
    if momentum != 0.05:
        assert torch.allclose(layer.running_mean, known.mean((0, 2, 3)), rtol=2e-3)
        assert torch.allclose(layer.running_var, known.var((0, 2, 3), correction=0), rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: RunningBatchNorm2d(3, momentum=0.001, affine=False, dtype=dtype),
        lambda dtype: RunningBatchNorm2d(3, momentum=0.001, affine=False).to(dtype),
    ],
    ids=["made", "converted"],
)
def test_running_statistics_stay_precise(dtype, make):
    """A momentum of a thousandth is lost where numbers have three digits.

    The statistics have seven, whatever the layer is.
    """
    layer, wide = make(dtype), RunningBatchNorm2d(3, momentum=0.001, affine=False)
    for k in range(300):
        x = (5 + 0.01 * k + randn(1, 3, 8, 8, seed=k)).to(dtype)
        assert layer(x).dtype == dtype
        wide(x.float())
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert layer.images_seen.dtype == torch.int64
    assert layer.images_seen == 300
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), wide.buffers(), strict=True))
    assert filled(RunningBatchNorm2d(3)).to(dtype).weight.dtype == dtype
    assert RunningBatchNorm2d(3).double().running_var.dtype == torch.float64
    before = copy.deepcopy(layer.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), layer.to(dtype).float().state_dict().values(), strict=True)
    )
    assert (
        RunningBatchNorm2d(3, device="meta", dtype=dtype).to_empty(device="cpu").running_mean.dtype
        == torch.float32
    )


def test_running_without_a_bias_is_shifted_by_none():
    layer, whole = RunningBatchNorm2d(3, bias=False), RunningBatchNorm2d(3)
    assert list(layer.state_dict()) == ["weight", "running_mean", "running_var", "images_seen"]
    x = randn(2, 3, 4, 4)
    assert torch.equal(layer(x), whole(x))


def test_running_in_a_functional_call_gives_the_new_statistics_back():
    layer, x = filled(RunningBatchNorm2d(3)), randn(2, 3, 4, 4) + 1
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    before = copy.deepcopy(layer.state_dict())
    y = torch.func.functional_call(layer, state, (x,))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(y, layer(x))
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_running_goes_on_where_it_was_saved():
    """images_seen is a part of the state.

    Without it the next batch would be taken for the first.
    """
    one, other = filled(RunningBatchNorm2d(3)), RunningBatchNorm2d(3)
    for k in range(3):
        one(randn(2, 3, 4, 4, seed=k) + k)
    assert one.state_dict()["images_seen"] == 6
    assert list(one.state_dict()) == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "images_seen",
    ]
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x := randn(1, 3, 4, 4, seed=9)), other(x))
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers(), strict=True))
    with pytest.raises(RuntimeError, match="images_seen"):
        other.load_state_dict(dict(list(one.state_dict().items())[:-1]))
    one.reset_running_stats()
    assert one.images_seen == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.buffers(), RunningBatchNorm2d(3).buffers(), strict=True)
    )


# --- odd settings, beside torch's -----------------------------------------------------------------


def outcome(call):
    """What comes out: a tensor, or the type of the error."""
    try:
        return call()
    except Exception as error:
        return type(error)


def without(layer, *names):
    for name in names:
        setattr(layer, name, None)
    return layer


ODD = {  # as torch: the same numbers, or an error of the same type
    **{
        f"{mode}, eps {eps}": lambda m, mode=mode, eps=eps: m.BatchNorm2d(6, eps=eps).train(
            mode == "train"
        )
        for mode in ("train", "eval")
        for eps in (0.0, -1e-5)
    },
    **{
        f"{name}, eps 0": make
        for name, make in {
            "group": lambda m: m.GroupNorm(2, 6, eps=0.0),
            "layer": lambda m: m.LayerNorm(4, eps=0.0),
            "instance": lambda m: m.InstanceNorm2d(6, eps=0.0),
        }.items()
    },
    "untracked, eval": lambda m: m.BatchNorm2d(6, track_running_stats=False).eval(),
    "untracked instance, eval": lambda m: m.InstanceNorm2d(6).eval(),
    "untracked, train": lambda m: m.BatchNorm2d(6, track_running_stats=False).train(),
    "no statistics, train": lambda m: without(m.BatchNorm2d(6), "running_mean", "running_var"),
    "no statistics, eval": lambda m: without(
        m.BatchNorm2d(6), "running_mean", "running_var"
    ).eval(),
    "no counter": lambda m: without(m.BatchNorm2d(6), "num_batches_tracked"),
    "no statistics, instance": lambda m: without(
        m.InstanceNorm2d(6, track_running_stats=True), "running_mean", "running_var"
    ),
    "one statistic, train": lambda m: without(m.BatchNorm2d(6), "running_var"),
    "momentum 0": lambda m: m.BatchNorm2d(6, momentum=0.0),
    "momentum 1": lambda m: m.BatchNorm2d(6, momentum=1.0),
    "momentum beyond 1": lambda m: m.BatchNorm2d(6, momentum=1.5),
    "momentum below 0": lambda m: m.BatchNorm2d(6, momentum=-0.1),
    "groups that do not divide": lambda m: m.GroupNorm(4, 6),
    "no features, made": lambda m: m.BatchNorm2d(0) and m.LayerNorm(4),
    "features below 0": lambda m: m.BatchNorm2d(-1),
    "half a feature": lambda m: m.BatchNorm2d(2.5),
    "a shape below 0": lambda m: m.LayerNorm(-1),
    "no shape": lambda m: m.LayerNorm(()),
    "half a shape": lambda m: m.LayerNorm(2.5),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_odd_settings_are_as_in_torch(make):
    results, x = [], randn(3, 6, 5, 4)
    for module in (ours, nn):
        results.append(
            outcome(
                lambda module=module: (
                    layer := make(module),
                    torch.stack([layer(x), layer(2 * x + 1)]),
                )
            )
        )
    if isinstance(results[1], type):
        assert results[0] is results[1]
    else:
        (mine, a), (theirs, b) = results
        assert torch.allclose(a, b, atol=1e-5)
        assert all(
            torch.allclose(p, q) for p, q in zip(mine.buffers(), theirs.buffers(), strict=True)
        )


# Torch fails later, or with an error that says less, or gives numbers that mean nothing.
CLEARER = [
    (lambda m: m.GroupNorm(-2, 4), ValueError, "1 or more, got 4 and -2", RuntimeError),
    (lambda m: m.GroupNorm(0, 4), ValueError, "1 or more, got 4 and 0", ZeroDivisionError),
    (
        lambda m: without(m.BatchNorm2d(4), "running_var").eval(),
        ValueError,
        "or neither",
        RuntimeError,
    ),
    (lambda m: m.InstanceNorm2d(3), ValueError, r"expected \(N, 3, H, W\)", None),
]


@pytest.mark.parametrize("make, error, message, theirs", CLEARER)
@pytest.mark.filterwarnings("ignore:input's size at dim")
def test_clearer_than_torch(make, error, message, theirs):
    with pytest.raises(error, match=message):
        make(ours)(randn(2, 4, 3, 3))
    assert theirs is None or outcome(lambda: make(nn)(randn(2, 4, 3, 3))) is theirs


def test_tracking_switched_off_later():
    """The outputs are torch's, by the image's own statistics.

    Torch moves the running ones, even in evaluation mode, and ours stay.
    """
    x, layers = (
        randn(3, 6, 5, 4) + 1,
        [m.InstanceNorm2d(6, track_running_stats=True, affine=True) for m in (ours, nn)],
    )
    for layer in layers:
        layer.track_running_stats = False
    mine, theirs = (layer.eval()(x) for layer in layers)
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert torch.equal(layers[0].running_mean, torch.zeros(6))


def test_no_features_where_torch_fails():
    assert outcome(lambda: nn.BatchNorm2d(0, affine=True)(torch.zeros(4, 0, 5, 3))) is IndexError
    for layer in (
        BatchNorm2d(0, affine=True),
        BatchNorm2d(0, affine=True).eval(),
        RunningBatchNorm2d(0, affine=True),
        InstanceNorm2d(0, affine=True),
        GroupNorm(2, 0, affine=True),
    ):
        assert layer(torch.zeros(4, 0, 5, 3)).shape == (4, 0, 5, 3)


def test_statistics_of_a_layer_in_half_precision():
    """They are kept in the layer's type, as by torch, and rounded once.

    Nothing is nearer to the answer in double precision.
    """
    for dtype in (torch.float16, torch.bfloat16):
        mine, exact, x = (
            BatchNorm2d(6, affine=False).to(dtype),
            nn.BatchNorm2d(6, affine=False).double(),
            (3 * randn(4, 6, 5, 4) + 1).to(dtype),
        )
        mine(x), exact(x.double())
        assert torch.equal(mine.running_mean, exact.running_mean.to(dtype))
        assert torch.equal(mine.running_var, exact.running_var.to(dtype))


FUNC = {  # torch.func transforms layers that update no statistics
    "grad": lambda layer, x: torch.func.grad(lambda t: layer(t).pow(3).sum())(x),
    "vmap": lambda layer, x: torch.func.vmap(layer)(torch.stack([x, 2 * x + 1])),
    "jvp": lambda layer, x: torch.stack(torch.func.jvp(layer, (x,), (x.flip(0).square(),))),
    "jacrev": lambda layer, x: torch.func.jacrev(layer)(x[:1, :, :2]),
    "hessian": lambda layer, x: torch.func.hessian(lambda t: layer(t).pow(3).sum())(x[:1, :, :2]),
    "vmap of grad": lambda layer, x: torch.func.vmap(
        torch.func.grad(lambda t: layer(t).pow(3).sum())
    )(torch.stack([x, 2 * x + 1])),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in jvp
@pytest.mark.parametrize("transform", FUNC.values(), ids=FUNC)
@pytest.mark.parametrize(
    "make",
    [
        MAKERS["batch, no statistics"],
        lambda m: m.BatchNorm2d(6).eval(),
        lambda m: m.InstanceNorm2d(6, affine=True),
        MAKERS["group 3"],
        MAKERS["layer 1"],
    ],
    ids=["batch", "batch eval", "instance", "group", "layer"],
)
def test_transforms_of_torch_func(make, transform):
    mine, theirs, x = (
        make(ours).double(),
        filled(make(nn)).double(),
        randn(2, 6, 3, 4, dtype=torch.float64),
    )
    mine.load_state_dict(theirs.state_dict())
    assert torch.allclose(transform(mine, x), transform(theirs, x), atol=1e-8)


@pytest.mark.parametrize("batch", [2, 7])
def test_derived_backward(batch):
    """The derived backward pass gives the gradients that autograd finds, up to rounding."""
    x = (2 * randn(batch, 3, 4, 5, dtype=torch.float64) + 7).requires_grad_()
    weight, bias = (randn(1, 3, 1, 1, seed=k, dtype=torch.float64).requires_grad_() for k in (1, 2))
    layer = BatchNorm2d(3, dtype=torch.float64)
    layer.load_state_dict(
        {"weight": weight.detach().flatten(), "bias": bias.detach().flatten()}, strict=False
    )
    y, expected = DerivedBatchNorm.apply(x, weight, bias), layer(x)
    assert torch.allclose(y, expected)
    pull = randn(*x.shape, seed=3, dtype=torch.float64)
    found = torch.autograd.grad(y, (x, weight, bias), pull)
    right = torch.autograd.grad(expected, (x, *layer.parameters()), pull)
    for mine, other in zip(found, right, strict=True):
        assert torch.allclose(mine.flatten(), other.flatten())
    y = DerivedBatchNorm.apply(x, weight, bias)
    (slope,) = torch.autograd.grad(y, x, y * pull, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward(torch.randn_like(slope))


@pytest.mark.parametrize(
    "make",
    [*(MAKERS[name] for name in ("batch", "instance, all", "group 3", "layer 3"))]
    + [lambda m: m.RunningBatchNorm2d(6)],
    ids=["batch", "instance", "group", "layer", "running"],
)
def test_export_for_batches_of_any_size(make, tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), make(ours), nn.Flatten(), nn.Linear(120, 2))
    net(randn(4, 1, 5, 4))
    export_model(net.eval(), randn(4, 1, 5, 4), path := tmp_path / "net.pt2")
    again = load_exported(path)
    for batch in (1, 3):
        x = randn(batch, 1, 5, 4, seed=batch)
        assert torch.allclose(again(x), net(x), atol=1e-5)


def test_third_derivatives():
    """Along a line, against central differences of the second derivative."""
    x, v, pull = (randn(2, 6, 3, 2, seed=k, dtype=torch.float64) for k in range(3))
    layer = MAKERS["batch, no statistics"](ours).double()

    def second(t):
        value = (layer(x + t * v) * pull).sum()
        (first,) = torch.autograd.grad(value, t, create_graph=True)
        return torch.autograd.grad(first, t, create_graph=True)[0]

    at = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (-1e-4, 0.0, 1e-4)]
    low, middle, high = (second(t) for t in at)
    (third,) = torch.autograd.grad(middle, at[1])
    assert torch.allclose(third, (high - low).detach() / 2e-4, rtol=1e-5)


def test_mixture():
    """Mean and variance of two groups together, whatever their sizes."""
    first, second = 3 * randn(1, 2, 4, 5) + 1, randn(3, 2, 4, 5, seed=1) - 2
    mean, var = mixture(moments(first, (0, 2, 3)), moments(second, (0, 2, 3)), 0.75)
    right = moments(torch.cat([first, second]), (0, 2, 3))
    assert torch.allclose(mean, right[0], atol=1e-6)
    assert torch.allclose(var, right[1], rtol=1e-5)


def test_transforms_refuse_to_update_statistics():
    for layer in (
        BatchNorm2d(6, affine=False),
        RunningBatchNorm2d(6, affine=False),
        nn.BatchNorm2d(6, affine=False),
    ):
        with pytest.raises(RuntimeError):
            torch.func.vmap(layer)(randn(2, 3, 6, 5, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the tracer's own
def test_traced_by_the_compiler():
    """The graph has no breaks; without a backend, so no C++ compiler is needed."""
    for make in (
        MAKERS["batch"],
        MAKERS["batch, average"],
        MAKERS["group 3"],
        lambda m: m.RunningBatchNorm2d(6),
    ):
        layer, x = filled(make(ours)), randn(4, 6, 5, 4)
        expected = copy.deepcopy(layer)(x)
        assert torch.allclose(
            torch.compile(layer, backend="eager", fullgraph=True)(x), expected, atol=1e-6
        )


# --- the exercises' own oracles -------------------------------------------------------------------


def test_the_plainest_mutant_is_no_mutant():
    """The mutants' common base, without a fault, is torch's layer."""
    same_as(exercises._BatchNorm(3), nn.BatchNorm2d(3), randn(4, 3, 2, 2) / 3)


@pytest.mark.parametrize("kind", experiments._KINDS)
@pytest.mark.parametrize(
    "layers",
    [[(8, 2, 1), (16, 2, 1)], [(8, 1, 2), (16, 1, 1), (12, 1, 2)]],
    ids=["strides", "pooling"],
)
def test_the_network_of_the_experiments(kind, layers):
    net = experiments._cnn(layers, experiments._KINDS[kind])
    assert net(torch.randn(3, 1, 28, 28)).shape == (3, 10)
    assert [(m.in_channels, m.out_channels) for m in net if isinstance(m, nn.Conv2d)] == list(
        zip([1, *(nf for nf, *_ in layers)], [nf for nf, *_ in layers], strict=False)
    )


def test_a_score_in_evaluation_and_by_the_batch():
    class ByMean(nn.Module):
        """In evaluation the class is 0.

        In training it is 1 for what lies above the mean of the batch.
        """

        def forward(self, x):
            above = (x > x.mean()) & self.training
            return torch.stack([~above, above], 1).float()

    x, y = torch.tensor([1.0, 2.0, 8.0, 9.0]), torch.tensor([0, 1, 0, 1])
    assert experiments._score(ByMean(), x, y) == 0.5
    assert experiments._score(ByMean(), x, y, by_batch=2) == 1.0
    assert experiments._score(ByMean(), x, y, by_batch=4) == 0.5


@pytest.mark.parametrize("shape", [np.int64(6), (np.int32(5), np.int64(6))], ids=str)
def test_whole_numbers_of_numpy(shape):
    x = randn(2, 5, 6)
    mine, theirs = ours.LayerNorm(shape), nn.LayerNorm(shape)
    theirs.load_state_dict(filled(mine).state_dict())
    torch.testing.assert_close(mine(x), theirs(x))
