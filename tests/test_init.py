"""Chapter 06a: initializers against torch's, bitwise, and the variances that they promise.

It covers shapes, types, options and refusals, and SELU, LSUV and Fixup, which leave a model as it
was when they fail.
"""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fromfound import init as ours
from fromfound.check import gradient_check, same_as
from fromfound.conv import Conv2d, simple_cnn
from fromfound.init import (
    SELU,
    FixupBlock,
    ShiftedReLU,
    calculate_gain,
    fan_in_and_fan_out,
    fixup_,
    gain_for,
    kaiming_normal_,
    lecun_normal_,
    lsuv_,
    orthogonal_,
)
from fromfound.module import Linear
from tests.toys import seeded


def outcome(call):
    """What a call returns, or the type and the beginning of the message that it raises."""
    try:
        return call()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return type(error), str(error)[:20]


# --- against torch, bitwise -----------------------------------------------------------------------

INITIALIZERS = {
    "xavier uniform": ("xavier_uniform_", {}),
    "xavier uniform, gain": ("xavier_uniform_", {"gain": 1.7}),
    "xavier normal": ("xavier_normal_", {}),
    "xavier normal, gain": ("xavier_normal_", {"gain": 0.3}),
    "kaiming uniform": ("kaiming_uniform_", {}),
    "kaiming uniform, √5": ("kaiming_uniform_", {"a": math.sqrt(5)}),
    "kaiming uniform, out": ("kaiming_uniform_", {"mode": "fan_out"}),
    "kaiming uniform, tanh": ("kaiming_uniform_", {"nonlinearity": "tanh"}),
    "kaiming normal": ("kaiming_normal_", {}),
    "kaiming normal, all": (
        "kaiming_normal_",
        {"a": 0.2, "mode": "FAN_OUT", "nonlinearity": "leaky_relu"},
    ),
    "kaiming normal, relu": ("kaiming_normal_", {"a": 3, "nonlinearity": "relu"}),
    "orthogonal": ("orthogonal_", {}),
    "orthogonal, gain": ("orthogonal_", {"gain": -1.3}),
}
SHAPES = [(4, 4), (7, 3), (3, 7), (1, 5), (5, 1), (6, 2, 3), (4, 3, 5, 3), (2, 3, 2, 2, 2)]
every = pytest.mark.parametrize("name, options", INITIALIZERS.values(), ids=INITIALIZERS)


@every
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bit_equal(name, options, shape, dtype):
    made = [
        getattr(m, name)(torch.empty(shape, dtype=dtype), **options, generator=seeded(3))
        for m in (ours, nn.init)
    ]
    assert made[0].dtype == dtype
    assert torch.equal(*made)


@every
def test_the_global_generator(name, options):
    made = []
    for module in (ours, nn.init):
        torch.manual_seed(5)
        made.append((getattr(module, name)(torch.empty(4, 3), **options), torch.rand(1)))
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


@every
def test_in_place_on_parameters_views_and_layouts(name, options):
    """The tensor itself is filled and returned, whatever its layout.

    It may learn, be transposed or channels-last; a parameter still learns afterward.
    """
    for make in (
        lambda: nn.Parameter(torch.empty(4, 3)),
        lambda: torch.empty(3, 4).T,
        lambda: torch.empty(4, 3, 5, 5).to(memory_format=torch.channels_last),
    ):
        mine = make()
        filled = getattr(ours, name)(mine, **options, generator=seeded())
        # Where torch's refuses other layouts.
        theirs = make() if name != "orthogonal_" else torch.empty(mine.shape)
        assert filled is mine
        assert mine.grad_fn is None
        assert mine.requires_grad == make().requires_grad
        assert torch.equal(mine, getattr(nn.init, name)(theirs, **options, generator=seeded()))


@pytest.mark.parametrize(
    "name, options", [v for v in INITIALIZERS.values() if v[0] != "orthogonal_"]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, options, dtype):
    assert torch.equal(
        *(
            getattr(m, name)(torch.empty(6, 5, dtype=dtype), **options, generator=seeded())
            for m in (ours, nn.init)
        )
    )


@every
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4, 0, 3, 3)], ids=str)
def test_zero_size(name, options, shape):
    """Nothing is drawn; Kaiming warns, as torch does."""
    heard = []
    for module in (ours, nn.init):
        generator = seeded(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert (
                getattr(module, name)(torch.empty(shape), **options, generator=generator).shape
                == shape
            )
        heard.append(
            (
                [(str(w.message), w.category, w.filename) for w in caught],
                torch.rand(1, generator=generator).item(),
            )
        )
    assert heard[0] == heard[1]


@pytest.mark.parametrize("shape", [(0, 0), (4, 3, 0)], ids=str)
def test_a_weight_without_fans(shape):
    # Torch divides by zero.
    assert (
        ours.xavier_normal_(torch.empty(shape)).shape
        == ours.xavier_uniform_(torch.empty(shape)).shape
        == shape
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.xavier_uniform_(torch.empty(3)),
        lambda m: m.xavier_normal_(torch.tensor(1.0)),
        lambda m: m.kaiming_uniform_(torch.empty(3)),
        lambda m: m.orthogonal_(torch.empty(3)),
        lambda m: m.kaiming_normal_(torch.empty(3, 3), mode="fan"),
        lambda m: m.kaiming_uniform_(torch.empty(3, 3), nonlinearity="gelu"),
        lambda m: m.kaiming_normal_(torch.empty(3, 3), a=True),
        lambda m: m.calculate_gain("swish"),
        lambda m: m.calculate_gain("leaky_relu", "1"),
        lambda m: m.calculate_gain("leaky_relu", True),
        lambda m: m.orthogonal_(torch.empty(3, 3, dtype=torch.float16)),
    ],
)
def test_refusals_are_torch_s(call):
    mine, theirs = (outcome(lambda m=m: call(m)) for m in (ours, nn.init))
    assert isinstance(theirs, tuple)
    assert mine[0] is theirs[0]
    assert mine[1] == theirs[1]


def test_refusals_where_torchs_words_are_about_python():
    for mode in (None, 3):
        with pytest.raises(ValueError, match=f"Mode {mode} not supported, please use one of"):
            kaiming_normal_(torch.empty(3, 3), mode=mode)
    for name in (["relu"], None, 3):
        with pytest.raises(ValueError, match="Unsupported nonlinearity .*gain_for finds"):
            calculate_gain(name)


@pytest.mark.parametrize(
    "name",
    [
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "sigmoid",
        "tanh",
        "relu",
        "selu",
        "leaky_relu",
    ],
)
def test_gains(name):
    assert calculate_gain(name) == nn.init.calculate_gain(name)


@pytest.mark.parametrize("slope", [0, 1, 0.2, -0.5, math.sqrt(5)])
def test_gains_of_slopes(slope):
    assert (
        calculate_gain("leaky_relu", slope)
        == nn.init.calculate_gain("leaky_relu", slope)
        == pytest.approx(gain_for(nn.LeakyReLU(slope)), abs=1e-4)
    )


# --- fans -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_fans_are_torch_s(shape):
    assert fan_in_and_fan_out(torch.empty(shape)) == nn.init._calculate_fan_in_and_fan_out(
        torch.empty(shape)
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fans_by_counting(groups):
    """Weights of one count their inputs, and each pixel the outputs it went into.

    The rule has the second count only without groups.
    """
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=False)
    nn.init.ones_(conv.weight)
    y = conv(torch.ones(1, 4, 9, 9))
    back = nn.functional.conv_transpose2d(
        torch.ones(1, 8, 9, 9), conv.weight, padding=1, groups=groups
    )
    fan_in, fan_out = fan_in_and_fan_out(conv.weight)
    assert y[0, 0, 4, 4] == fan_in
    assert back[0, 0, 4, 4] * groups == fan_out


# --- what they promise ----------------------------------------------------------------------------

PROMISED = {
    "xavier_uniform_": 2 / 700,
    "xavier_normal_": 2 / 700,
    "kaiming_uniform_": 2 / 300,
    "kaiming_normal_": 2 / 300,
    "lecun_normal_": 1 / 300,
    "orthogonal_": 1 / 400,
}


@pytest.mark.parametrize("name", PROMISED)
def test_promised_distribution(name):
    """Mean, variance and fourth moment of a weight (400, 300), which has 120,000 numbers."""
    w = getattr(ours, name)(torch.empty(400, 300), generator=seeded())
    variance = w.square().mean().item()
    assert abs(w.mean().item()) < 0.02 * variance**0.5
    assert abs(variance / PROMISED[name] - 1) < 0.03
    kurtosis = w.pow(4).mean().item() / variance**2
    assert abs(kurtosis - (1.8 if "uniform" in name else 3)) < 0.15
    if "uniform" in name:
        assert 0.99 < w.max() / (3 * PROMISED[name]) ** 0.5 <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 3), st.integers(0, 10**6))
def test_orthogonal_stretches_alike(rows, columns, gain, seed):
    w = orthogonal_(torch.empty(rows, columns, dtype=torch.float64), gain, seeded(seed))
    assert torch.allclose(
        torch.linalg.svdvals(w), torch.full((min(rows, columns),), gain, dtype=torch.float64)
    )


def test_orthogonal_signs_are_even():
    """All orthogonal matrices are equally likely.

    Without the signs of R the diagonal would lean to one side.
    """
    diagonals = torch.stack(
        [orthogonal_(torch.empty(3, 3), generator=seeded(k)).diagonal() for k in range(400)]
    )
    assert diagonals.mean(0).abs().max() < 0.1


def test_default_of_torch_is_a_third():
    """The √5: no weight above 1/√n, and n times the variance is 1/3."""
    torch.manual_seed(0)
    for layer in (nn.Linear(300, 200), nn.Conv2d(12, 100, 5), nn.Conv2d(32, 64, 3, groups=4)):
        n = fan_in_and_fan_out(layer.weight)[0]
        assert layer.weight.abs().max() <= n**-0.5
        assert abs(n * layer.weight.var().item() - 1 / 3) < 0.02


# --- activations ----------------------------------------------------------------------------------


def test_gain_for_keeps_variance():
    for f in (nn.ReLU(), nn.Tanh(), ShiftedReLU(), SELU(), nn.GELU()):
        x = torch.randn(2000, 400, generator=seeded())
        w = lecun_normal_(torch.empty(300, 400), seeded(1)) * gain_for(f)
        assert abs((f(x) @ w.T).var().item() - 1) < 0.1


@pytest.mark.parametrize(
    "f, same",
    [
        (nn.LeakyReLU(0.5, inplace=True), nn.LeakyReLU(0.5)),
        (torch.relu_, torch.relu),
        (nn.PReLU(init=0.5), nn.LeakyReLU(0.5)),
        (
            nn.Sequential(nn.PReLU(init=0.5), nn.Tanh()),
            lambda z: torch.tanh(nn.functional.leaky_relu(z, 0.5)),
        ),
    ],
)
def test_gain_for_functions_in_place_and_with_parameters(f, same):
    assert gain_for(f) == pytest.approx(gain_for(same))
    assert all(p.dtype == torch.float32 for p in getattr(f, "parameters", list)())


@pytest.mark.parametrize(
    "f, match",
    [
        (torch.zeros_like, "expected a number above 0"),
        (torch.log, "expected a number above 0"),
        (nn.Softmax(0), "each number by itself"),
        (lambda z: z / z.norm(), "each number by itself"),
        (torch.sum, "each number by itself"),
    ],
)
def test_gain_for_refuses(f, match):
    with pytest.raises(ValueError, match=match):
        gain_for(f)


def test_selu_same_as_torch():
    same_as(SELU(), nn.SELU(), torch.randn(7, 5, generator=seeded()))
    x = torch.tensor([-1e4, -1.0, -1e-8, 0.0, 1e-8, 2.0, 1e4], requires_grad=True)
    cotangent = torch.randn(7, generator=seeded(1))
    slopes = [torch.autograd.grad(f(x), x, cotangent)[0] for f in (SELU(), nn.SELU())]
    assert torch.allclose(*slopes)
    assert torch.allclose(SELU()(x), nn.SELU()(x))
    assert slopes[0].isfinite().all()
    assert SELU()(torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("dtype, atol", [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
def test_selu_in_half_precision(dtype, atol):
    x = torch.randn(1000, generator=seeded()).to(dtype)
    assert SELU()(x).dtype == dtype
    assert torch.allclose(SELU()(x).float(), nn.SELU()(x.float()), rtol=0, atol=atol)


def test_selu_bends_at_zero_as_from_below():
    x = torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64, requires_grad=True)
    one, two = torch.randn(2, 3, generator=seeded(), dtype=torch.float64)
    (slope,) = torch.autograd.grad(SELU()(x), x, one, create_graph=True)
    (bend,) = torch.autograd.grad(slope, x, two)
    assert (bend / one / two).tolist() == pytest.approx([ours._SCALE * ours._ALPHA] * 2 + [0])


def test_selu_fixed_point():
    """Mean 0 and variance 1 lead back to them, and so do others."""
    x = torch.randn(10**6, generator=seeded(), dtype=torch.float64)
    assert abs(SELU()(x).mean()) < 5e-3
    assert abs(SELU()(x).var() - 1) < 1e-2
    for spread in (0.5, 2.0):
        assert abs(SELU()(spread * x).square().mean() - 1) < abs(spread**2 - 1)


def test_shifted_relu():
    x = torch.tensor([-2.0, 0.0, 3.0])
    assert torch.allclose(ShiftedReLU()(x), torch.tensor([-0.6, -0.4, 2.6]))
    assert torch.allclose(ShiftedReLU(0.5, 0.0)(x), torch.tensor([-1.0, 0.0, 3.0]))
    assert repr(ShiftedReLU(0.2, 0.3)) == "ShiftedReLU(leak=0.2, sub=0.3)"
    gradient_check(ShiftedReLU(), torch.randn(9, generator=seeded()))


# --- depth ----------------------------------------------------------------------------------------


def size_at_depth(start, activation, depth=30, width=200):
    x, generator = torch.randn(100, width, generator=seeded(9)), seeded()
    for _ in range(depth):
        x = activation(x @ start(torch.empty(width, width), generator=generator).T)
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize(
    "start, activation, low, high",
    [
        (kaiming_normal_, torch.relu, 0.3, 3),
        (ours.xavier_normal_, torch.relu, 1e-6, 1e-3),
        (partial(ours.kaiming_uniform_, a=math.sqrt(5)), torch.relu, 1e-14, 1e-9),
        (orthogonal_, lambda x: x, 0.98, 1.02),
        (partial(orthogonal_, gain=2**0.5), torch.relu, 0.5, 2),
        (lecun_normal_, SELU(), 0.8, 1.2),
        (
            lambda w, generator: lecun_normal_(w, generator) * gain_for(ShiftedReLU()),
            ShiftedReLU(),
            3,
            1e4,
        ),
        (lambda w, generator: lecun_normal_(w, generator) * 2**0.5, ShiftedReLU(), 0.1, 0.4),
        (lambda w, generator: w.normal_(generator=generator), torch.relu, 1e20, 1e40),
    ],
)
def test_size_after_thirty_layers(start, activation, low, high):
    assert low < size_at_depth(start, activation) < high


# --- LSUV -----------------------------------------------------------------------------------------


def batch(n=64, seed=0):
    return torch.randn(n, 1, 28, 28, generator=seeded(seed)) * 3 + 0.5


class Odd(nn.Module):
    """Layers defined in another order than they are called.

    One is never called, one twice; batch normalization and dropout stand beside them.
    """

    def __init__(self):
        super().__init__()
        self.last, self.idle, self.first, self.twice = (
            nn.Linear(8, 3),
            nn.Linear(2, 2),
            nn.Linear(784, 8),
            nn.Linear(8, 8, bias=False),
        )
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        nn.init.normal_(self.norm.weight), nn.init.normal_(self.norm.bias)

    def forward(self, x):
        h = self.drop(self.norm(self.first(x.flatten(1)))).relu()
        return self.last(self.twice(self.twice(h).tanh()).relu())


def spreads(model, xb):
    seen, handles = {}, []
    for name, m in model.named_modules():
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, Conv2d)):
            handles.append(
                m.register_forward_hook(
                    lambda m, i, y, name=name: seen.__setitem__(
                        name, (y.float().mean().item(), y.float().std(correction=0).item())
                    )
                )
            )
    was = model.training
    with torch.no_grad():
        model.eval()(xb)
    for handle in handles:
        handle.remove()
    model.train(was)
    return seen


LSUV_MODELS = {
    "cnn": simple_cnn,
    "odd": Odd,
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 2, 3, bias=False),
        nn.Flatten(),
        nn.LazyLinear(5),
    ),
    "the book's own convolution": lambda: nn.Sequential(
        Conv2d(1, 4, 3, stride=2),
        nn.ReLU(),
        Conv2d(4, 6, 3, bias=False),
        nn.Flatten(),
        nn.Linear(726, 3),
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ),
}


@pytest.mark.parametrize("make", LSUV_MODELS.values(), ids=LSUV_MODELS)
@pytest.mark.parametrize("shift", [False, True])
def test_lsuv_gives_variance_one(make, shift):
    torch.manual_seed(0)
    model = make()
    found = lsuv_(model, batch(), shift=shift, tol=1e-3, generator=seeded(1))
    seen = spreads(model, batch())
    assert found.keys() == seen.keys()
    assert all(
        found[name] == pytest.approx(std, abs=1e-5) and abs(std - 1) < 1e-3
        for name, (_, std) in seen.items()
    )
    layers = dict(model.named_modules())
    for name, (mean, _) in seen.items():
        layer = layers[name]
        if layer.bias is not None and shift:
            assert abs(mean) < 1e-3
        if layer.bias is not None and not shift:
            assert not layer.bias.any()


def test_lsuv_weights_are_orthogonal():
    torch.manual_seed(0)
    model = simple_cnn()
    lsuv_(model, batch())
    for layer in model:
        if hasattr(layer, "weight"):
            stretched = torch.linalg.svdvals(layer.weight.detach().flatten(1))
            assert torch.allclose(stretched, stretched[0].expand_as(stretched), rtol=1e-3)


def test_lsuv_order_of_names_is_that_of_execution():
    assert list(lsuv_(Odd(), batch())) == ["first", "twice", "last"]


def test_lsuv_repeats_with_a_generator():
    one, two = simple_cnn(), simple_cnn()
    lsuv_(one, batch(), generator=seeded(4)), lsuv_(two, batch(), generator=seeded(4))
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def state_of(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        sum(len(m._forward_hooks) for m in model.modules()),
        [p.requires_grad for p in model.parameters()],
    )


def same_state(a, b):
    return (
        all(torch.equal(a[0][k], b[0][k]) for k in a[0])
        and a[0].keys() == b[0].keys()
        and a[1:] == b[1:]
    )


def test_lsuv_leaves_modes_hooks_and_statistics():
    model = Odd()
    model.norm.eval()
    before = state_of(model)
    lsuv_(model, batch())
    after = state_of(model)
    assert before[1:] == after[1:]
    assert all(
        torch.equal(before[0][k], after[0][k]) for k in before[0] if k.startswith(("norm", "idle"))
    )
    assert all(p.grad is None for p in model.parameters())


class Scribbler(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 5)

    def forward(self, x):
        return self.layer(x.mul_(2).flatten(1))


@pytest.mark.parametrize(
    "make",
    [Scribbler, lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(784, 5))],
)
def test_lsuv_leaves_the_batch(make):
    xb, model = batch(), make()
    found = lsuv_(model, xb)
    assert torch.equal(xb, batch())
    assert all(
        std == pytest.approx(spreads(model, batch())[name][1], abs=1e-5)
        for name, std in found.items()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_lsuv_in_other_precisions(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 40), nn.ReLU(), nn.Linear(40, 30)).to(dtype)
    found = lsuv_(model, batch().to(dtype), shift=True)
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(abs(std - 1) < 0.02 for std in found.values())
    stretched = torch.linalg.svdvals(model[3].weight.detach().double())
    assert torch.allclose(
        stretched, stretched[0].expand_as(stretched), rtol=2e-2 if dtype != torch.float64 else 1e-12
    )


@pytest.mark.parametrize("frozen", [("0.weight",), ("0.bias",), ("0.weight", "0.bias")])
def test_lsuv_leaves_frozen_layers(frozen):
    model = simple_cnn()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    found = lsuv_(model, batch())
    assert "0" not in found
    assert "2" in found
    assert all(torch.equal(v, before[k]) for k, v in model[0].state_dict().items())


class Routed(nn.Module):
    """Calls its second layer when the first puts out large numbers, or only in the first pass."""

    def __init__(self, once):
        super().__init__()
        self.one, self.two, self.once, self.passes = nn.Linear(784, 8), nn.Linear(8, 8), once, 0
        nn.init.constant_(self.one.weight, 9.0)

    def forward(self, x):
        h, self.passes = self.one(x.flatten(1)), self.passes + 1
        return self.two(h) if (self.passes == 1 if self.once else h.abs().max() > 100) else h


class Aloof(nn.Module):
    """Two layers with one bias: what the second wants of it, the first does not."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(784, 8), nn.Linear(8, 8)
        self.two.bias = self.one.bias

    def forward(self, x):
        return self.two(self.one(x.flatten(1)).relu())


class Raising(nn.Module):
    """A simple network that raises at its n-th call."""

    def __init__(self, at):
        super().__init__()
        self.net, self.left = simple_cnn((4, 4)), at

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.net(x)


@pytest.mark.parametrize("at", [1, 2, 4, 6])
def test_lsuv_puts_everything_back_on_an_exception(at):
    model = Raising(at)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        lsuv_(model, batch())
    assert same_state(before, state_of(model))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(784, 8), nn.Linear(784, 8)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.one(x.flatten(1)) + self.two(5 * x.flatten(1))


REFUSED = {
    "no layers": (lambda: nn.Sequential(nn.ReLU()), batch(), ValueError, "found no layer"),
    "a batch of zeros": (
        simple_cnn,
        torch.zeros(4, 1, 28, 28),
        ValueError,
        "layer '0'.*all the same",
    ),
    "dead": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 2)
        ),
        batch(),
        ValueError,
        "layer '3'",
    ),
    "not finite": (simple_cnn, batch() * math.inf, ValueError, "standard deviation nan"),
    "one number": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 1)),
        batch(1),
        ValueError,
        "layer '1'",
    ),
    "empty": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 1)),
        batch(0),
        ValueError,
        "layer '1'",
    ),
    "shared": (Tied, batch(), RuntimeError, "could not bring layer 'one'"),
    "frozen": (
        lambda: simple_cnn().requires_grad_(False),
        batch(),
        ValueError,
        "found no layer to scale.*frozen",
    ),
    "routed": (lambda: Routed(False), batch(), ValueError, "no output from layer 'two'"),
    "called once": (lambda: Routed(True), batch(), ValueError, "no output from layer 'two'"),
    "computed": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(784, 4))
        ),
        batch(),
        RuntimeError,
        "could not bring layer '1'",
    ),
}


@pytest.mark.parametrize("make, xb, error, match", REFUSED.values(), ids=REFUSED)
def test_lsuv_refuses(make, xb, error, match):
    model = make()
    before = state_of(model)
    with pytest.raises(error, match=match):
        lsuv_(model, xb)
    assert same_state(before, state_of(model))


def test_lsuv_of_a_layer_called_twice():
    """The last call is measured, and each division counts twice in it.

    So 3 becomes 1/3 and 3 again. The message names the case.
    """
    layer = nn.Linear(784, 784)
    with pytest.raises(RuntimeError, match="called more than once"):
        lsuv_(nn.Sequential(nn.Flatten(), layer, layer), batch())


def test_lsuv_looks_at_the_means_at_the_end():
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="mean of 0 and a standard deviation of 1"):
        lsuv_(Aloof(), batch(), shift=True)


@pytest.mark.parametrize("tol", [0, -0.1, math.inf, math.nan])
def test_lsuv_refuses_a_tolerance_that_asks_nothing(tol):
    model = simple_cnn()
    before = state_of(model)
    with pytest.raises(ValueError, match="lsuv_ expected a tol above 0"):
        lsuv_(model, batch(), tol=tol)
    assert same_state(before, state_of(model))


@pytest.mark.parametrize("model", [None, nn.Linear, "model", Linear(784, 3)], ids=str)
def test_what_is_no_module_is_refused_by_name(model):
    for call, name in ((lambda m: lsuv_(m, batch()), "lsuv_"), (fixup_, "fixup_")):
        with pytest.raises(
            TypeError, match=f"{name} expected a model that is a torch.nn.Module, got"
        ):
            call(model)


# --- Fixup ----------------------------------------------------------------------------------------


def residual(blocks=9, width=16, depth=2, bias=True):
    branches = [
        FixupBlock(*(nn.Linear(width, width, bias=bias) for _ in range(depth)))
        for _ in range(blocks)
    ]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), *branches, nn.Linear(width, 10)
    )


def test_fixup_block_by_hand():
    block, x = (
        FixupBlock(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)),
        torch.randn(3, 5, generator=seeded()),
    )
    with torch.no_grad():
        block.bias.copy_(torch.randn(6, generator=seeded(1)))
        block.scale.fill_(0.7)
    b = block.bias
    h = torch.relu(block.layers[0](x + b[0]) + b[1])
    h = torch.relu(block.layers[1](h + b[2]) + b[3])
    assert torch.allclose(block(x), torch.relu(x + 0.7 * block.layers[2](h + b[4]) + b[5]))
    assert sorted(k for k in block.state_dict() if "layers" not in k) == ["bias", "scale"]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_fixup_starts_as_the_identity_and_scales(depth):
    torch.manual_seed(0)
    model = residual(blocks=16, width=128, depth=depth)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.3)
    assert fixup_(model) == 16
    h = torch.randn(20, 128, generator=seeded()).relu()
    assert torch.equal(model[3:-1](h), h)
    assert not model[-1].weight.any()
    for block in model[3:-1]:
        assert not block.layers[-1].weight.any()
        assert not block.bias.any()
        assert block.scale == 1
        for layer in block.layers[:-1]:
            assert (
                abs(
                    layer.weight.std().item() / ((2 / 128) ** 0.5 * 16 ** (-1 / (2 * depth - 2)))
                    - 1
                )
                < 0.05
            )
    assert abs(model[1].weight.std().item() / (2 / 784) ** 0.5 - 1) < 0.05
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


def test_fixup_without_biases_and_with_a_generator():
    one, two = residual(bias=False), residual(bias=False)
    fixup_(one, generator=seeded(2)), fixup_(two, generator=seeded(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
    assert one[1].weight.any()


@pytest.mark.parametrize("conv", [nn.Conv2d, Conv2d])
def test_fixup_of_convolutions(conv):
    model = nn.Sequential(
        conv(1, 8, 3),
        FixupBlock(conv(8, 8, 3, padding=1), conv(8, 8, 3, padding=1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    assert fixup_(model) == 1
    assert not model[0].bias.any()
    assert not model[1].layers[1].weight.any()
    assert model(batch(2)).shape == (2, 10)


def block(*, width=8):
    return FixupBlock(nn.Linear(width, width), nn.Linear(width, width))


class HeadFirst(nn.Module):
    """Defines its classifier first and its first layer last."""

    def __init__(self, stem_last):
        super().__init__()
        self.head = nn.Linear(8, 4)
        if not stem_last:
            self.stem = nn.Linear(20, 8)
        self.block = block()
        if stem_last:
            self.stem = nn.Linear(20, 8)

    def forward(self, x):
        return self.head(self.block(self.stem(x).relu()))


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(8, 8), block(), nn.Linear(8, 8)
        self.head.weight = self.stem.weight


def two_share():
    shared = nn.Linear(8, 8)
    return nn.Sequential(
        FixupBlock(shared, nn.Linear(8, 8)), FixupBlock(shared, nn.Linear(8, 8)), nn.Linear(8, 4)
    )


NO_FIXUP = {
    "no blocks": (simple_cnn, "0 blocks"),
    "a block alone": (lambda: FixupBlock(nn.Linear(3, 3), nn.Linear(3, 3)), "no classifier"),
    "nothing behind": (
        lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU(), block()),
        "no classifier",
    ),
    "head first": (lambda: HeadFirst(False), "no classifier"),
    "a convolution behind": (
        lambda: nn.Sequential(nn.Linear(20, 8), block(), nn.Conv1d(1, 1, 3)),
        "no classifier",
    ),
    "tied": (TiedHead, "share"),
    "a layer in two blocks": (two_share, "share"),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(1, 8, 3), block(), nn.Linear(8, 4)),
        "transposed",
    ),
}


@pytest.mark.parametrize("make, match", NO_FIXUP.values(), ids=NO_FIXUP)
def test_fixup_refuses(make, match):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=match):
        fixup_(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("stem_last", [False, True])
def test_fixup_with_a_classifier_that_is_named(stem_last):
    model = HeadFirst(stem_last)
    assert fixup_(model, classifier=model.head) == 1
    assert not model.head.weight.any()
    assert model.stem.weight.any()
    with pytest.raises(ValueError, match="no classifier"):
        fixup_(model, classifier=nn.Linear(8, 4))
    with pytest.raises(ValueError, match="no classifier"):
        fixup_(model, classifier=model.block.layers[0])


def test_fixup_takes_the_last_linear_layer_behind_the_blocks():
    model = nn.Sequential(
        nn.Linear(20, 8),
        block(),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
        nn.Unflatten(1, (1, 4)),
        nn.Conv1d(1, 1, 3),
    )
    fixup_(model)
    assert [model[k].weight.any().item() for k in (0, 2, 4, 6)] == [True, True, False, True]


twice = nn.Linear(3, 3)


@pytest.mark.parametrize(
    "layers, match",
    [
        ((), "two or more"),
        ((nn.Linear(3, 3),), "two or more"),
        ((nn.Linear(3, 3), nn.ReLU()), "two or more"),
        ((nn.Linear(3, 3), 4), "two or more"),
        ((twice, twice), "different"),
        ((nn.Conv2d(3, 3, 3), nn.ConvTranspose2d(3, 3, 3)), "transposed"),
    ],
    ids=["none", "one", "activation", "number", "twice", "transposed"],
)
def test_fixup_block_refuses(layers, match):
    with pytest.raises(ValueError, match=match):
        FixupBlock(*layers)


@pytest.mark.parametrize(
    "layers, x",
    [
        ((nn.Linear(5, 4), nn.Linear(4, 1)), (3, 5)),
        ((nn.Linear(1, 4), nn.Linear(4, 5)), (3, 1)),
        ((nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)), (1, 2, 6, 6)),
    ],
)
def test_fixup_block_does_not_broadcast(layers, x):
    with pytest.raises(ValueError, match="the same shape"):
        FixupBlock(*layers)(torch.ones(x))


def test_kaiming_doubles_and_fixup_does_not():
    torch.manual_seed(0)
    model, x = residual(blocks=20, width=64), batch()
    ends = {}
    for name in ("Kaiming", "Fixup"):
        fixup_(model)
        if name == "Kaiming":
            for m in model.modules():
                if isinstance(m, nn.Linear):
                    kaiming_normal_(m.weight)
        ends[name] = [model[: 3 + k](x).square().mean().item() for k in (0, 20)]
    assert ends["Kaiming"][1] > 1e4 * ends["Kaiming"][0]
    assert ends["Fixup"][1] == pytest.approx(ends["Fixup"][0])


# --- the exercises' answers, of any type of number ------------------------------------------------


def test_exercises_take_numbers_of_any_type():
    import numpy as np

    from fromfound.exercises import init as check

    kinds = (float, np.float32, np.float64, torch.tensor)
    for kind in kinds:
        assert check.ex_6a_1.judge(kind(0.4525)).passed
        assert check.ex_6a_6.judge(kind(1.99)).passed
        assert not check.ex_6a_6.judge(kind(1.0)).passed
        assert check.ex_6a_2.judge(
            lambda fan, gain, kind=kind: kind(gain * (3 / fan) ** 0.5)
        ).passed
        assert not check.ex_6a_2.judge(lambda fan, gain, kind=kind: kind(gain / fan**0.5)).passed
        assert check.ex_6a_5.judge(
            lambda blocks, layers, kind=kind: kind(blocks ** (-1 / (2 * layers - 2)))
        ).passed
        assert check.ex_6a_4.judge((kind(0.1), kind(0.359))).passed
    assert check.ex_6a_4.judge(np.array([0.1, 0.359])).passed
    assert check.ex_6a_4.judge(torch.tensor([0.1, 0.359])).passed
    assert (
        check.ex_6a_4.judge((0.1, math.nan)).lines[1]
        == "  Expected a pair of numbers, (leak, sub)."
    )
    assert not any(
        check.ex_6a_4.judge(answer).passed
        for answer in (None, "ab", (0.1, "x"), (0.1, 0.2, 0.3), ShiftedReLU())
    )


def test_the_mutant_hunt_gives_no_names_away():
    import numpy as np

    from fromfound.exercises import init as check

    def right(init):
        for shape in [(8, 4, 5, 3), (8, 4, 5), (8, 4)]:
            for mode in ("fan_in", "fan_out"):
                mine, theirs = torch.empty(shape), torch.empty(shape)
                given = init(mine, 0.7, mode, seeded())
                nn.init.kaiming_normal_(theirs, 0.7, mode, generator=seeded())
                if not (torch.equal(given, theirs) and torch.equal(mine, theirs)):
                    return np.bool_(False)
        return np.bool_(True)

    assert check.ex_6a_7.judge(right).passed
    names = {f.__name__ for f in (check.ex_6a_7.right, *check.ex_6a_7.mutants.values())}
    assert names == {"<lambda>"}
    assert not check.ex_6a_7.judge(lambda init: getattr(init, "__name__", "") == "_right").passed


def test_copies_are_independent():
    model = residual()
    fixup_(model)
    assert torch.equal(copy.deepcopy(model)(batch(3)), model(batch(3)))
