"""Chapter 10: residual networks against one written out, over all tweaks, and wrong ones.

Counts of parameters are those that torchvision publishes.
"""

import copy
import inspect
import itertools
import math
import pickle
import re
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fromfound import xresnet
from fromfound.experiments import xresnet as experiments
from fromfound.xresnet import PLAIN, ResBlock, XResNet, conv_layer, decay_groups
from tests.toys import seeded

TWEAKS = "deep_stem", "stride_in_3x3", "pool_shortcut", "zero_gamma"
ALL = [dict(zip(TWEAKS, on, strict=True)) for on in itertools.product((False, True), repeat=4)]
DEPTHS = {  # as torchvision has them: parameters, convolutions with those of the shortcuts
    18: (11_689_512, 20),
    34: (21_797_672, 36),
    50: (25_557_032, 53),
    101: (44_549_160, 104),
    152: (60_192_808, 155),
}
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=seeded(), dtype=dtype)


def small(depth=18, num_classes=5, in_channels=3, module=xresnet, **options):
    """A narrow network whose normalizations have random weights, unless they begin at 0."""
    torch.manual_seed(0)
    model = module.XResNet(depth, num_classes, in_channels, **{"width": 0.125} | options)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data *= 0.5 + torch.rand(len(layer.weight))
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return model


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


# --- the network, written out ---------------------------------------------------------------------


class WrittenOut:
    """A forward pass that takes the tensors of a state one by one, in torchvision's order."""

    def __init__(self, state, depth, training, tweaks):
        self.left = [x for name, x in state.items() if not name.endswith("num_batches_tracked")]
        self.depth, self.training, self.tweaks = depth, training, tweaks

    def unit(self, x, stride=1):
        weight, gamma, beta, mean, var = (self.left.pop(0) for _ in range(5))
        x = F.conv2d(x, weight, stride=stride, padding=(weight.shape[-1] - 1) // 2)
        return F.batch_norm(x, mean.clone(), var.clone(), gamma, beta, self.training)

    def block(self, x, stride, changes):
        y = x
        if self.depth >= 50:
            early = 1 if self.tweaks["stride_in_3x3"] else stride
            y = self.unit(y, early).relu()
            y = self.unit(y, stride // early).relu()
        else:
            y = self.unit(y, stride).relu()
        y = self.unit(y)
        if changes and self.tweaks["pool_shortcut"] and stride == 2:
            x = self.unit(F.avg_pool2d(x, 2))
        elif changes:
            x = self.unit(x, stride)
        return (x + y).relu()

    def __call__(self, x):
        x = self.unit(x, 2).relu()
        for _ in range(2 * self.tweaks["deep_stem"]):
            x = self.unit(x).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        for i, count in enumerate(BLOCKS[self.depth]):
            for j in range(count):
                changes = j == 0 and (i > 0 or self.depth >= 50)
                x = self.block(x, 2 if i > 0 and j == 0 else 1, changes)
        weight, bias = self.left
        return F.linear(x.mean((2, 3)), weight, bias)


def agrees(depth, training, tweaks, module=xresnet):
    """Whether a network computes, with gradients, what the one written out computes."""
    model = small(depth, module=module, **tweaks).double().train(training)
    x, cotangent = numbers(3, 3, 64, 96, dtype=torch.float64), numbers(3, 5, dtype=torch.float64)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    for name in names:
        state[name].requires_grad_()
    expected = WrittenOut(state, depth, training, tweaks)(x)
    found = model(x)
    if found.shape != expected.shape or not close(found, expected):
        return False
    mine = torch.autograd.grad(found, list(model.parameters()), cotangent)
    theirs = torch.autograd.grad(expected, [state[name] for name in names], cotangent)
    return all(close(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize("tweaks", ALL, ids=lambda t: "".join("01"[on] for on in t.values()))
def test_computes_what_is_written_out(depth, training, tweaks):
    assert agrees(depth, training, tweaks)


WRONG = {  # what is put in place of what
    "stride in the wrong place": ("(1, stride) if stride_in_3x3", "(stride, 1) if stride_in_3x3"),
    "tweak B always": ("else (stride, 1)", "else (1, stride)"),
    "first stage halves": ("2 if i > 0 and j == 0", "2 if j == 0"),
    "stride in each block": ("2 if i > 0 and j == 0", "2 if i > 0 and j == 1"),
    "tweak D always": ("if not pool or stride == 1", "if stride == 1"),
    "tweak D never": ("if not pool or stride == 1", "if True"),
    "maximum for the mean": ("nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)",
                             "nn.MaxPool2d(stride, ceil_mode=True)"),
    "ReLU before the sum": ("last = conv_layer(nh, nf, 1, act=False",
                            "last = conv_layer(nh, nf, 1"),
    "ReLU on the shortcut": ("conv_layer(ni, nf, 1, stride, act=False)",
                              "conv_layer(ni, nf, 1, stride)"),
    "no ReLU at the end": (".shortcut(input)).relu()", ".shortcut(input))"),
    "no shortcut": ("self.convs(input) + self.shortcut(input)", "self.convs(input)"),
    "no pool in the stem": (", nn.MaxPool2d(3, 2, padding=1)", ", nn.Identity()"),
    "average in the stem": ("nn.MaxPool2d(3, 2, padding=1)", "nn.AvgPool2d(3, 2, padding=1)"),
    "stem strides late": ("conv_layer(ni, nh, 3, 2), conv_layer(nh, nh)",
                          "conv_layer(ni, nh, 3), conv_layer(nh, nh, 3, 2)"),
    "maximum at the end": ("nn.AdaptiveAvgPool2d(1)", "nn.AdaptiveMaxPool2d(1)"),
    "no padding": ("padding=ks // 2", "padding=0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_sees_wrong_networks(name):
    before, after = WRONG[name]
    source = inspect.getsource(xresnet)
    assert source.count(before) == 1
    wrong = ModuleType("fromfound.wrong")
    wrong.__package__ = "fromfound"
    exec(source.replace(before, after), wrong.__dict__)

    def seen(depth, tweaks):
        try:
            return not agrees(depth, True, tweaks, wrong)
        except (RuntimeError, ValueError):  # shapes that don't fit, or tensors left over
            return True

    assert any(seen(50, tweaks) for tweaks in (ALL[0], ALL[-2], ALL[-2] | {"deep_stem": False}))


# --- counts and shapes ----------------------------------------------------------------------------


def on_meta(depth, **options):
    with torch.device("meta"):
        return XResNet(depth, **options)


@pytest.mark.parametrize("depth", DEPTHS)
def test_plain_counts_are_the_published_ones(depth):
    model = on_meta(depth, **PLAIN)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (sum(p.numel() for p in model.parameters()), len(convs)) == DEPTHS[depth]
    assert len(norms) == len(convs)
    assert all(conv.bias is None for conv in convs)
    assert list(PLAIN) == list(TWEAKS)


@pytest.mark.parametrize(
    ("depth", "convs", "norms", "linear"),
    [(18, 11_166_912, 9_600, 513_000), (50, 23_454_912, 53_120, 2_049_000)],
)
def test_plain_counts_by_kind(depth, convs, norms, linear):
    found = dict.fromkeys((nn.Conv2d, nn.BatchNorm2d, nn.Linear), 0)
    for layer in on_meta(depth, **PLAIN).modules():
        if type(layer) in found:
            found[type(layer)] += sum(p.numel() for p in layer.parameters())
    assert list(found.values()) == [convs, norms, linear]


@pytest.mark.parametrize("tweaks", [ALL[0], ALL[-1]], ids=["plain", "tweaked"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_feature_maps_at_224(depth, tweaks):
    model, x = on_meta(depth, **tweaks), torch.empty(2, 3, 224, 224, device="meta")
    shapes, wider = [], 4 if depth >= 50 else 1
    x = model.stem(x)
    assert x.shape == (2, 64, 56, 56)
    for stage in model.stages:
        x = stage(x)
        shapes.append(tuple(x.shape))
    expected = [(64, 56), (128, 28), (256, 14), (512, 7)]
    assert shapes == [(2, wider * nf, side, side) for nf, side in expected]
    assert model.head(x).shape == (2, 1000)


@pytest.mark.parametrize("depth", DEPTHS)
def test_each_depth_has_its_name(depth):
    with torch.device("meta"):
        named = getattr(xresnet, f"xresnet{depth}")(7, 4, width=0.5, deep_stem=False)
    same = on_meta(depth, num_classes=7, in_channels=4, width=0.5, deep_stem=False)
    assert repr(named) == repr(same)
    with pytest.raises(TypeError, match="deep_stm"):
        getattr(xresnet, f"xresnet{depth}")(deep_stm=True)


WIDTHS = [(1, 64), (0.5, 32), (0.3, 16), (0.001, 8), (2, 128)]


@pytest.mark.parametrize(("width", "channels"), WIDTHS)
def test_width(width, channels):
    with torch.device("meta"):
        model = XResNet(18, width=width)
    assert model.stem(torch.empty(1, 3, 32, 32, device="meta")).shape[1] == channels
    assert model.head[2].in_features == 8 * channels


@pytest.mark.parametrize("side", range(17, 36))
@pytest.mark.parametrize("tweaks", [ALL[0], ALL[-1]], ids=["plain", "tweaked"])
def test_any_size_from_17(side, tweaks):
    assert small(**tweaks).eval()(numbers(1, 3, side, 67 - side)).shape == (1, 5)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(channels):
    assert small(in_channels=channels)(numbers(2, channels, 40, 40)).shape == (2, 5)


# --- how it begins --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bottleneck", [True, False])
@pytest.mark.parametrize(("ni", "stride"), [(8, 1), (8, 2), (4, 1), (4, 3)])
def test_zero_gamma_makes_a_block_its_shortcut(ni, stride, bottleneck, training):
    block = ResBlock(ni, 8, stride, bottleneck=bottleneck).train(training)
    x = numbers(3, ni, 7, 10)
    assert torch.equal(block(x), block.shortcut(x).relu())
    if (ni, stride) == (8, 1):
        assert torch.equal(block(x), x.relu())
    other = ResBlock(ni, 8, stride, bottleneck=bottleneck, zero_gamma=False).train(training)
    assert not torch.equal(other(x), other.shortcut(x).relu())


@pytest.mark.parametrize("depth", DEPTHS)
def test_zero_gamma_is_one_normalization_a_block(depth):
    model = XResNet(depth, 2, width=0.125)
    blocks = [m for m in model.modules() if isinstance(m, ResBlock)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    zero = [m for m in norms if not m.weight.any()]
    assert zero == [block.convs[-1][1] for block in blocks]
    assert all((m.weight == 1).all() for m in norms if m not in zero)


def test_kaiming_initialization():
    torch.manual_seed(0)
    for conv in [m for m in XResNet(18).modules() if isinstance(m, nn.Conv2d)]:
        std = math.sqrt(2 / (conv.in_channels * conv.kernel_size[0] ** 2))
        error = 5 / math.sqrt(2 * conv.weight.numel())  # five of its standard errors
        assert abs(conv.weight.std().item() / std - 1) < error


@pytest.mark.parametrize("tweaks", ALL, ids=lambda t: "".join("01"[on] for on in t.values()))
@pytest.mark.parametrize("depth", BLOCKS)
def test_gradients_reach_every_parameter(depth, tweaks):
    torch.manual_seed(0)
    model = XResNet(depth, 5, width=0.125, **tweaks)
    opt = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(2):
        opt.zero_grad()
        F.cross_entropy(model(numbers(4, 3, 64, 64)), torch.arange(4)).backward()
        zero = [name for name, p in model.named_parameters() if not p.grad.any()]
        if step or not tweaks["zero_gamma"]:
            assert not zero
        else:  # a weight of 0 lets no gradient through, but gets one itself
            last = r"stages\.\d\.\d\.convs\.%d\.1\.(weight|bias)" % (2 if depth >= 50 else 1)
            assert zero
            assert all("convs" in name for name in zero)
            assert not any(re.fullmatch(last, name) for name in zero)
        opt.step()


# --- as any module --------------------------------------------------------------------------------


def test_train_and_eval():
    model, x = small(), numbers(4, 3, 64, 64)
    before = copy.deepcopy(model.state_dict())
    alone = model.eval()(x[:1])
    assert torch.allclose(alone, model(x)[:1], atol=1e-4)
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())
    assert not torch.allclose(alone, model.train()(x)[:1], atol=1e-2)
    moved = [name for name, a in model.state_dict().items() if not torch.equal(a, before[name])]
    assert all("running" in name or "num_batches" in name for name in moved)
    assert len(moved) == 3 * sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_float64_half_and_channels_last():
    model, x = small().eval(), numbers(2, 3, 64, 64)
    wide = copy.deepcopy(model).double()(x.double())
    assert wide.dtype == torch.float64
    assert close(model(x).double(), wide)
    rows = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert close(rows(x.contiguous(memory_format=torch.channels_last)), model(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16


def test_an_empty_batch_and_copies():
    model, x = small().eval(), numbers(2, 3, 40, 40)
    assert model(x[:0]).shape == (0, 5)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


def test_state_goes_over():
    first, second, x = small().eval(), XResNet(18, 5, width=0.125).eval(), numbers(2, 3, 40, 40)
    assert second.load_state_dict(first.state_dict()) == ([], [])
    assert torch.equal(first(x), second(x))
    body = {name: value for name, value in first.state_dict().items() if "head" not in name}
    other = XResNet(18, 9, width=0.125)
    missing, unknown = other.load_state_dict(body, strict=False)
    assert (missing, unknown) == (["head.2.weight", "head.2.bias"], [])
    assert torch.equal(other.stem[0][0].weight, first.stem[0][0].weight)


# --- refusals -------------------------------------------------------------------------------------

COUNTS = [0, -1, 2.0, True, "3", None]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_refuses_counts(argument, count):
    with pytest.raises(ValueError, match=f"^XResNet expected {argument} as a positive integer"):
        XResNet(18, **{argument: count})


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("argument", ["ni", "nf", "ks", "stride"])
def test_pieces_refuse_counts(argument, count):
    options = {"ni": 4, "nf": 4, argument: count}
    with pytest.raises(ValueError, match=f"^conv_layer expected {argument} as a positive integer"):
        conv_layer(**options)
    if argument != "ks":
        with pytest.raises(ValueError, match=f"^ResBlock expected {argument} as a positive int"):
            ResBlock(**options)


def test_pieces_refuse_what_has_no_middle():
    with pytest.raises(ValueError, match="^conv_layer expected an odd ks, such as 3, got 2"):
        conv_layer(3, 4, 2)
    with pytest.raises(ValueError, match="^ResBlock expected a multiple of 4 as nf .* got 6"):
        ResBlock(3, 6, bottleneck=True)


@pytest.mark.parametrize("depth", [0, 20, "18", None, [18], 18.5])
def test_refuses_depths(depth):
    with pytest.raises(ValueError, match=r"^XResNet expected a depth of 18, 34, 50, 101, 152, got"):
        XResNet(depth)


@pytest.mark.parametrize("width", [0, -1, math.inf, math.nan, True, "1", None])
def test_refuses_widths(width):
    with pytest.raises(ValueError, match=r"^XResNet expected a positive width, such as 0.5, got"):
        XResNet(18, width=width)


OTHER_SHAPES = [(2, 1, 64, 64), (2, 4, 64, 64), (3, 64, 64), (2, 64, 64, 3), (3,)]


@pytest.mark.parametrize("shape", OTHER_SHAPES)
def test_refuses_other_images(shape):
    expected = r"^XResNet expected images \(N, 3, H, W\), got"
    with pytest.raises(RuntimeError, match=expected) as error:
        small()(numbers(*shape))
    assert str(shape) in str(error.value)
    assert "in_channels" in str(error.value)


@pytest.mark.parametrize("size", [(16, 64), (64, 16), (1, 1), (0, 64)])
def test_refuses_small_images(size):
    with pytest.raises(RuntimeError, match="^XResNet expected images of 17 by 17 pixels or more"):
        small()(torch.zeros(2, 3, *size))


OTHER = {  # a network whose state does not fit into `small()`, and what the error has to name
    "classes": ({"num_classes": 7}, r"mismatch for head\.2\.weight: .*\[7, 64\].*\[5, 64\]"),
    "channels": ({"in_channels": 1}, r"mismatch for stem\.0\.0\.weight: .*\[4, 1, 3, 3\]"),
    "width": ({"width": 0.25}, r"mismatch for stem\.0\.0\.weight: .*\[8, 3, 3, 3\]"),
    "stem": ({"deep_stem": False}, r"mismatch for stem\.0\.0\.weight: .*\[8, 3, 7, 7\]"),
    "pool": ({"pool_shortcut": False}, r"Missing key.*stages\.1\.0\.shortcut\.1\.0\.weight"),
    "deeper": ({"depth": 34}, r"Unexpected key.*stages\.0\.2\.convs\.0\.0\.weight"),
    "bottleneck": ({"depth": 50}, r"Unexpected key.*stages\.0\.0\.convs\.2\.0\.weight"),
}


@pytest.mark.parametrize("name", OTHER)
def test_refuses_another_state_by_name(name):
    options, message = OTHER[name]
    with pytest.raises(RuntimeError, match=r"(?s)XResNet.*" + message):
        small().load_state_dict(small(**options).state_dict())


def test_refuses_bytes():
    with pytest.raises(RuntimeError, match="^XResNet expected floating-point images, got torch.ui"):
        small()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


# --- decay ----------------------------------------------------------------------------------------


def test_decay_groups():
    model = small()
    weights, others = decay_groups(model, 0.1)
    assert (weights["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert {*map(id, weights["params"])} == {id(layer.weight) for layer in layers}
    both = weights["params"] + others["params"]
    assert sorted(map(id, both)) == sorted(map(id, model.parameters()))
    opt = torch.optim.SGD([weights, others], lr=0.1)
    before = copy.deepcopy(dict(model.named_parameters()))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    for name, p in model.named_parameters():
        factor = 0.99 if p.ndim > 1 else 1.0
        assert torch.allclose(p, factor * before[name])


def test_decay_groups_leaves_out_empty_ones():
    assert [len(g["params"]) for g in decay_groups(nn.Linear(2, 3, bias=False), 0.1)] == [1]
    (group,) = decay_groups(small().stem[0][1], 0.1)
    assert group["weight_decay"] == 0
    with pytest.raises(ValueError, match="^decay_groups expected a model .* got ReLU with none"):
        decay_groups(nn.ReLU(), 0.1)
    with pytest.raises(ValueError, match="^decay_groups expected parameters with shapes"):
        decay_groups(nn.LazyLinear(3), 0.1)


# --- the recorded ladder --------------------------------------------------------------------------


def test_each_arm_of_the_ladder_has_one_tweak_more():
    found = []
    for arm in ("plain", "stem", "pool", "zero gamma", "no decay"):
        model = experiments._network(arm)
        stem, second = len(model.stem) == 4, model.stages[1][0]
        pool = isinstance(second.shortcut[0], nn.AvgPool2d)
        groups = experiments._groups(model, arm)
        found.append((stem, pool, not second.convs[-1][1].weight.any(), len(groups) == 2))
    assert found == [tuple(i < j for i in range(4)) for j in range(5)]


def test_arms_see_the_same_batches(monkeypatch):
    seen = []
    augmented = experiments._augmented
    monkeypatch.setattr(
        experiments, "_augmented", lambda *given: seen.append(augmented(*given)) or seen[-1]
    )
    x = torch.randint(0, 256, (130, 3, 32, 32), dtype=torch.uint8, generator=seeded())
    for arm in ("plain", "no decay"):
        experiments._train(arm, 0.1, 3, x, torch.arange(130) % 10, 1)
    assert len(seen) == 4
    assert all(torch.equal(a, b) for a, b in zip(seen[:2], seen[2:], strict=True))
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", ["plain", "shortcuts"])
@pytest.mark.parametrize("depth", [4, 8, 24])
def test_small_networks_have_their_depth(depth, name):
    model = experiments._small_network(name, depth)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth
    assert sum(isinstance(m, ResBlock) for m in model) == (name == "shortcuts") * (depth - 2) // 2
    assert experiments._training_error(name, depth, 0.1, 0, 2) > 0
