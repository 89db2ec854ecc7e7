"""Chapter 03: Module and its layers against torch.nn.

It covers nested, tied, lazy and frozen networks, state, moves, broken files, and devices.
"""

import copy
import io
import math
import os
import pickle
import random
import signal
import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fromfound.check import same_as
from fromfound.exercises import module as exercises
from fromfound.module import (
    Buffer,
    LazyLinear,
    Linear,
    Module,
    ModuleList,
    Parameter,
    Sequential,
    UninitializedParameter,
    default_device,
    load,
    save,
    to_device,
)

OURS = SimpleNamespace(
    Module=Module,
    Linear=Linear,
    LazyLinear=LazyLinear,
    Sequential=Sequential,
    ModuleList=ModuleList,
    Parameter=Parameter,
)


# --- the same networks from both kits -------------------------------------------------------------


def plain(kit):
    return kit.Sequential(kit.Linear(4, 5), kit.Linear(5, 3))


def nested(kit):
    return kit.Sequential(
        OrderedDict(
            body=kit.Sequential(kit.Linear(4, 4), kit.Sequential(kit.Linear(4, 4, bias=False))),
            head=kit.Linear(4, 2),
        )
    )


def tied(kit):
    net = kit.Sequential(kit.Linear(4, 4), kit.Linear(4, 4), kit.Linear(4, 3))
    net[1].weight = net[0].weight
    return net


def shared(kit):
    layer = kit.Linear(4, 4)
    return kit.Sequential(layer, layer, kit.Linear(4, 2))


def lazy(kit):
    net = kit.Sequential(kit.LazyLinear(6), kit.LazyLinear(3, bias=False))
    net(torch.randn(2, 4))
    return net


def kept(kit):
    class Kept(kit.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("ramp", torch.arange(4.0), persistent=False)
            self.scale = kit.Parameter(torch.ones(4))
            self.register_buffer("calls", torch.tensor(0))
            self.blocks = kit.ModuleList([kit.Linear(4, 4) for _ in range(2)])
            self.still = kit.Parameter(torch.ones(4), requires_grad=False)

        def forward(self, x):
            if self.training:
                self.calls += 1
                self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            for block in self.blocks:
                x = x + block(x).tanh()
            return (x - self.mean) * self.scale * self.still + self.ramp

    return Kept()


def deep(kit):
    return kit.Sequential(kit.Sequential(kept(kit)), kit.Linear(4, 2))


def wide(kit):
    return kit.Sequential(kit.Linear(4, 300, bias=False), kit.Linear(300, 2))


NETS = [plain, nested, tied, shared, lazy, kept, deep, wide]
every_net = pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)


def pair(make, seed=0):
    nets = []
    for kit in (OURS, nn):
        torch.manual_seed(seed)
        nets.append(make(kit))
    return nets


@every_net
def test_same_as_torch(make):
    mine, theirs = pair(make)
    same_as(mine, theirs, torch.randn(8, 4, generator=torch.Generator().manual_seed(1)))


@every_net
def test_same_seed_same_start_same_order(make):
    mine, theirs = pair(make)
    ours, reference = mine.state_dict(), theirs.state_dict()
    assert list(ours) == list(reference)
    assert all(torch.equal(ours[k], reference[k]) for k in ours)


@every_net
def test_the_walks(make):
    mine, theirs = pair(make)
    for walk in ("named_modules", "named_parameters", "named_buffers"):
        for remove in (True, False):
            assert [n for n, _ in getattr(mine, walk)(remove_duplicate=remove)] == [
                n for n, _ in getattr(theirs, walk)(remove_duplicate=remove)
            ]
    assert [n for n, _ in mine.named_parameters("net", recurse=False)] == [
        n for n, _ in theirs.named_parameters("net", recurse=False)
    ]
    for walk in ("modules", "children", "parameters", "buffers"):
        assert [type(v).__name__ for v in getattr(mine, walk)() if isinstance(v, Module)] == [
            type(v).__name__ for v in getattr(theirs, walk)() if isinstance(v, nn.Module)
        ]
        assert len(list(getattr(mine, walk)())) == len(list(getattr(theirs, walk)()))


@pytest.mark.parametrize(
    "make", [plain, nested, tied, shared, lazy, wide], ids=lambda make: make.__name__
)
def test_prints_the_same(make):  # torch folds equal blocks of a ModuleList
    mine, theirs = pair(make)
    assert repr(mine) == repr(theirs)


@every_net
def test_state_goes_both_ways(make):
    (mine, theirs), (other, _) = pair(make), pair(make, seed=5)
    theirs.load_state_dict(other.state_dict())
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(mine.eval()(x), other.eval()(x))
    assert torch.allclose(theirs.eval()(x), mine(x))
    assert not any(v.requires_grad for v in mine.state_dict().values())
    assert any(v.requires_grad for v in mine.state_dict(keep_vars=True).values())
    assert list(mine.state_dict(prefix="a.")) == list(theirs.state_dict(prefix="a."))


@every_net
def test_training_is_bit_equal(make):
    curves = []
    for net in pair(make):
        optimizer = torch.optim.SGD(
            [p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9
        )
        torch.manual_seed(1)
        x, y, losses = torch.randn(16, 4), None, []
        for _ in range(4):
            out = net(x)
            y = torch.randn(out.shape) if y is None else y
            loss = nn.functional.mse_loss(out, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == curves[1]


@every_net
def test_deep_copies_are_apart_and_keep_ties(make):
    mine, _ = pair(make)
    twin = copy.deepcopy(mine)
    assert len(list(twin.parameters())) == len(list(mine.parameters()))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in mine.parameters()}
    assert all(isinstance(p, Parameter) and p.is_leaf for p in twin.parameters())
    for p in twin.parameters():
        p.data.add_(1)
    assert not any(
        torch.equal(a, b) for a, b in zip(twin.parameters(), mine.parameters(), strict=True)
    )


@every_net
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_to_a_dtype(make, dtype):
    mine, theirs = pair(make)
    out = mine(torch.randn(2, 4))
    out.backward(torch.randn_like(out))
    before = list(mine.parameters())
    assert mine.to(dtype) is mine
    # The same objects: an optimizer still holds them.
    assert all(a is b for a, b in zip(before, mine.parameters(), strict=True))
    assert [(k, v.dtype) for k, v in mine.state_dict().items()] == [
        (k, v.dtype) for k, v in theirs.to(dtype).state_dict().items()
    ]
    assert all(p.grad is None or p.grad.dtype == dtype for p in mine.parameters())


@every_net
def test_meta_and_back(make):
    mine, _ = pair(make)
    state, same = mine.state_dict(), len(list(mine.parameters()))
    optimizer = torch.optim.SGD(mine.parameters(), lr=1.0)
    mine.to("meta")
    assert all(v.is_meta for v in mine.state_dict().values())
    with pytest.raises(RuntimeError, match="meta device, which holds no numbers"):
        mine.load_state_dict(state)
    with pytest.raises(NotImplementedError, match="meta"):
        mine.to("cpu")
    mine.to_empty(device="cpu").load_state_dict(state)
    assert all(torch.equal(v, state[k]) for k, v in mine.state_dict().items())
    assert len(list(mine.parameters())) == same
    assert all(isinstance(p, Parameter) for p in mine.parameters())
    assert {id(p) for p in mine.parameters()} == {
        id(p) for p in optimizer.param_groups[0]["params"]
    }


def test_to_by_example_and_by_keyword():
    net = kept(OURS).to(torch.zeros((), dtype=torch.float64))
    assert net.scale.dtype == torch.float64
    assert net.calls.dtype == torch.int64
    assert net.to(dtype=torch.float32, device="cpu").mean.dtype == torch.float32
    with pytest.raises(TypeError):
        net.to(dtyp=torch.float32)


class TwoNames(Module):
    def __init__(self):
        super().__init__()
        self.a = Buffer(torch.ones(2))
        self.b = Buffer(self.a)


def test_a_buffer_with_two_names_moves_under_both():
    net = TwoNames().to(torch.float64)
    assert net.a.dtype == net.b.dtype == torch.float64
    net.to("meta").to_empty(device="cpu")
    assert net.a.device.type == net.b.device.type == "cpu"


def test_train_eval_apply_freeze():
    net, seen = nested(OURS), []
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    net.apply(lambda m: seen.append(type(m).__name__))
    theirs = []
    nested(nn).apply(lambda m: theirs.append(type(m).__name__))
    assert seen == theirs
    assert seen[-1] == "Sequential"
    net.body.requires_grad_(False)
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


# --- layers and containers ------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 3), (1, 1), (3, 0), (0, 3), (0, 0), (7, 2)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(2,), (), (0,), (2, 3)], ids=str)
def test_linear(sizes, bias, rows, recwarn):
    torch.manual_seed(0)
    mine = Linear(*sizes, bias=bias)
    torch.manual_seed(0)
    theirs = nn.Linear(*sizes, bias=bias)  # warns of a zero-element tensor
    x = torch.randn(*rows, sizes[0])
    assert all(
        torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)
    )
    assert torch.equal(mine(x), theirs(x))
    assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_linear_dtype_and_device(dtype):
    assert Linear(3, 2, dtype=dtype).weight.dtype == Linear(3, 2, dtype=dtype).bias.dtype == dtype
    assert Linear(3, 2, device="meta").bias.is_meta
    assert LazyLinear(2, device="meta", dtype=dtype).weight.is_meta
    with torch.device("meta"):
        assert Linear(3, 2).weight.is_meta


def test_sequential_as_a_list():
    layers = [Linear(2, 2) for _ in range(4)]
    net = Sequential(*layers)
    assert len(net) == 4
    assert list(net) == layers
    assert net[-1] is layers[3]
    assert net[1:3][0] is layers[1]
    assert (
        list(net[1:].state_dict())[0]
        == list(nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])[1:].state_dict())[0]
    )
    net.shift = Buffer(torch.zeros(2))
    assert len(net.append(Linear(2, 3))) == 5
    assert net(torch.zeros(1, 2)).shape == (1, 3)
    assert net[4].out_features == 3
    with pytest.raises(IndexError):
        net[5]
    assert torch.equal(Sequential()(torch.ones(2)), torch.ones(2))
    assert list(Sequential(OrderedDict(a=layers[0])).state_dict())[0] == "a.weight"


def test_module_list():
    blocks = ModuleList([Linear(2, 2)])
    assert len(blocks.append(Linear(2, 2))) == 2
    assert len(ModuleList()) == 0
    assert isinstance(blocks[:1], ModuleList)
    with pytest.raises(
        NotImplementedError,
        match=r'Module \[ModuleList\] is missing the required "forward" function',
    ):
        blocks(torch.zeros(2))


def test_names_after_slicing_and_appending():
    def names(net):
        return [name for name, _ in net.named_modules() if name]

    for kit in (OURS, nn):
        blocks = kit.ModuleList([kit.Linear(2, 2) for _ in range(4)])[1:]
        assert names(blocks) == ["0", "1", "2"]
        assert names(blocks.append(kit.Linear(2, 2))) == ["0", "1", "2", "3"]
        assert names(kit.Sequential(*blocks)[1:3]) == ["1", "2"]
    layers = Sequential(*[Linear(2, 2) for _ in range(4)])[1:]
    held = list(layers)
    assert list(layers.append(Linear(2, 2)))[:-1] == held  # torch's would replace one
    assert names(layers) == ["1", "2", "3", "4"]
    assert len(Sequential(Linear(2, 2))[1:]) == len(ModuleList([Linear(2, 2)])[1:]) == 0


@pytest.mark.parametrize("shape", [(2, 5), (5,), (2, 1, 5), (2, 0, 5)], ids=str)
def test_lazy_becomes_linear(shape):
    torch.manual_seed(0)
    mine = LazyLinear(3)
    held = list(mine.parameters())
    y = mine(torch.randn(shape))
    assert type(mine) is Linear
    assert mine.in_features == 5
    assert y.shape == (*shape[:-1], 3)
    assert all(
        a is b and type(a) is Parameter for a, b in zip(held, mine.parameters(), strict=True)
    )
    assert mine.weight.shape == (3, 5)
    assert 0.8 * 5**-0.5 < mine.weight.abs().max() <= 5**-0.5
    with pytest.raises(RuntimeError):
        mine(torch.randn(2, 6))


def test_lazy_waits_without_size_and_without_drawing():
    state = torch.get_rng_state()
    mine = LazyLinear(3)
    assert repr(mine) == "LazyLinear(in_features=0, out_features=3, bias=True)"
    assert torch.equal(torch.get_rng_state(), state)
    assert not mine.weight.requires_grad_(requires_grad=False).requires_grad
    assert mine.bias.requires_grad


def test_lazy_moves_and_copies_before_its_first_batch():
    mine = copy.deepcopy(Sequential(LazyLinear(3), LazyLinear(2, bias=False))).to(torch.float64)
    assert mine[0].weight.dtype == torch.float64
    assert isinstance(mine[0].weight, UninitializedParameter)
    assert mine[1].bias is None
    assert mine(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_lazy_takes_its_shape_from_a_state():
    state, mine = Linear(4, 3).state_dict(), LazyLinear(3)
    mine.load_state_dict(state)
    assert torch.equal(mine.weight, state["weight"])
    assert torch.equal(mine(torch.eye(4)), (state["weight"] + state["bias"][:, None]).T)
    assert mine.in_features == 4


def test_lazy_and_tied():
    mine = Sequential(Linear(4, 4), LazyLinear(4))
    mine[1].weight = mine[0].weight
    tied_weight = mine[0].weight.clone()
    assert mine(torch.randn(2, 4)).shape == (2, 4)
    assert mine[1].weight is mine[0].weight
    assert torch.equal(mine[0].weight, tied_weight)
    assert type(mine[1].bias) is Parameter
    assert 0 < mine[1].bias.abs().max() <= 0.5
    both = Sequential(LazyLinear(4), LazyLinear(4))
    both[1].weight = both[0].weight
    assert both(torch.randn(2, 4)).shape == (2, 4)
    assert both[1].weight is both[0].weight
    assert type(both[1]) is Linear


@pytest.mark.parametrize("name, other", [("weight", "bias"), ("bias", "weight")])
def test_lazy_and_half_loaded(name, other):
    state, mine = Linear(4, 3).state_dict(), LazyLinear(3)
    assert mine.load_state_dict({name: state[name]}, strict=False).missing_keys == [other]
    assert mine(torch.randn(2, 4)).shape == (2, 3)
    assert torch.equal(getattr(mine, name), state[name])
    drawn = getattr(mine, other)
    assert type(drawn) is Parameter
    assert 0 < drawn.abs().max() <= 0.5
    assert mine.in_features == 4


def test_lazy_without_inputs():
    mine = LazyLinear(3)
    assert torch.equal(mine(torch.zeros(2, 0)), torch.zeros(2, 3))
    assert mine.weight.shape == (3, 0)


@pytest.mark.parametrize(
    "use",
    [
        lambda p: p.numel(),
        lambda p: p.shape,
        lambda p: p + 1,
        lambda p: p.detach(),
        lambda p: torch.randn(2, 2) @ p,
        lambda p: p.sum(),
        lambda p: nn.init.zeros_(p),
    ],
)
def test_lazy_refuses_to_be_computed_with(use):
    with pytest.raises(ValueError, match="uninitialized parameter.*run one through"):
        use(LazyLinear(3).weight)
    with pytest.raises(ValueError, match="uninitialized parameter"):
        LazyLinear(3).state_dict()


# --- noticing -------------------------------------------------------------------------------------


def test_parameters_and_buffers():
    data = torch.ones(2)
    p = Parameter(data)
    assert type(p * 2) is torch.Tensor
    assert p.data_ptr() == data.data_ptr()
    assert p.is_leaf
    assert p.requires_grad
    assert not Parameter(data, requires_grad=False).requires_grad
    assert Parameter().numel() == 0
    assert Parameter(p * 2).is_leaf, "what computed the values is forgotten"
    with pytest.raises(RuntimeError, match="floating point"):
        Parameter(torch.tensor([1]))
    net = kept(OURS)
    with pytest.raises(TypeError, match="cannot assign 'float' to 'mean', which is a Tensor"):
        net.mean = 3.0
    net.mean = None
    assert "mean" not in net.state_dict()
    assert net.mean is None


def test_assigning_moves_between_kinds():
    net = Module()
    net.a = 1
    net.a = Parameter(torch.ones(1))
    assert "a" not in vars(net)
    assert [n for n, _ in net.named_parameters()] == ["a"]
    net.a = Buffer(torch.ones(1), persistent=False)
    assert not list(net.parameters())
    assert [n for n, _ in net.named_buffers()] == ["a"]
    assert not net.state_dict()
    net.a = Buffer(torch.ones(1))
    assert list(net.state_dict()) == ["a"]
    assert "a" in dir(net)
    del net.a
    assert not hasattr(net, "a")
    assert "a" not in dir(net)


def make_early():
    class Early(Module):
        def __init__(self):
            self.layer = Linear(2, 2)

    return Early()


def halved():
    layer = Linear(2, 2)
    layer.weight = layer.weight * 0.5


def replaced_module():
    net = Sequential(Linear(2, 2))
    setattr(net, "0", torch.ones(2))


def mixed():
    class Mixed(Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

    return Mixed()


REFUSALS = [
    (make_early, AttributeError, r"before Module.__init__\(\) call"),
    (halved, TypeError, "cannot assign 'torch.FloatTensor' to 'weight', which is a Parameter"),
    (replaced_module, TypeError, "which is a Linear"),
    (
        lambda: setattr(Module(), "a.b", Parameter(torch.ones(1))),
        KeyError,
        "a name cannot be empty",
    ),
    (lambda: Module().add_module("", Linear(1, 1)), KeyError, "a name cannot be empty"),
    (lambda: Sequential({"forward": Linear(1, 1)}), KeyError, "attribute of Sequential"),
    (lambda: Sequential(Linear(1, 1), torch.relu), TypeError, "is not a Module subclass"),
    (
        mixed,
        TypeError,
        "Mixed.conv expected a .*Module of this package, got torch.nn.*Conv2d: to mix",
    ),
    (
        lambda: setattr(Module(), "w", nn.Parameter(torch.ones(1))),
        TypeError,
        "Module.w expected a Parameter .* derive from torch.nn.Module",
    ),
    (lambda: Buffer([1.0, 2.0]), TypeError, "Buffer expected a tensor, got <class 'list'>"),
    (
        lambda: Module().register_buffer("x", 5),
        TypeError,
        r"Buffer expected a tensor, got <class .int.>: use torch.tensor",
    ),
    (lambda: Module().nothing, AttributeError, "'Module' object has no attribute 'nothing'"),
    (lambda: delattr(Module(), "nothing"), AttributeError, "nothing"),
    (
        lambda: Module()(1),
        NotImplementedError,
        r'Module \[Module\] is missing the required "forward" function',
    ),
    (
        lambda: Linear(2, 2).load_state_dict("file.pt"),
        TypeError,
        "Expected state_dict to be dict-like, got <class 'str'>",
    ),
]


@pytest.mark.parametrize(
    "act, error, words", REFUSALS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_refusals(act, error, words):
    with pytest.raises(error, match=words):
        act()


# --- load_state_dict ------------------------------------------------------------------------------

WRONG_STATES = {
    "missing": lambda s: {k: v for k, v in s.items() if k != "0.bias"},
    "unexpected": lambda s: s | {"more": torch.ones(1)},
    "both": lambda s: {("x" if k == "0.bias" else k): v for k, v in s.items()},
    "shape": lambda s: s | {"1.weight": torch.zeros(5, 5)},
    "one number": lambda s: s | {"1.weight": torch.zeros(1)},
    "empty": lambda s: {},
}


@pytest.mark.parametrize("change", WRONG_STATES.values(), ids=WRONG_STATES)
def test_wrong_states_are_refused_as_torch_spells_it_and_change_nothing(change):
    mine, theirs = pair(plain)
    state, before = change(mine.state_dict()), {k: v.clone() for k, v in mine.state_dict().items()}
    with pytest.raises(RuntimeError) as ours:
        mine.load_state_dict(state)
    with pytest.raises(RuntimeError) as reference:
        theirs.load_state_dict(state)
    assert str(ours.value) == str(reference.value)
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())


def test_loose_states():
    mine, theirs = pair(plain)
    state = {"0.weight": torch.zeros(5, 4), "more": torch.ones(1)}
    keys, reference = (
        mine.load_state_dict(state, strict=False),
        theirs.load_state_dict(state, strict=False),
    )
    assert keys.missing_keys == reference.missing_keys
    assert keys.unexpected_keys == reference.unexpected_keys
    assert not mine[0].weight.any()
    with pytest.raises(RuntimeError, match="size mismatch"):
        mine.load_state_dict({"0.weight": torch.zeros(1)}, strict=False)
    with pytest.raises(RuntimeError, match="expected torch.Tensor"):
        mine.load_state_dict({"0.weight": 3}, strict=False)


def test_loading_keeps_the_objects():
    mine, held = plain(OURS), None
    held = list(mine.parameters())
    mine.load_state_dict({k: v.double() + 1 for k, v in mine.state_dict().items()})
    assert all(
        a is b and a.dtype == torch.float32 for a, b in zip(held, mine.parameters(), strict=True)
    )


# --- files ----------------------------------------------------------------------------------------


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 3),
        torch.tensor(True),
        torch.ones(2, dtype=torch.bfloat16),
        [],
        {},
        [1, 2.0, "a", None, True],
        {"a": {0: torch.ones(2), None: (1, [torch.zeros(1)])}},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(2)}, 1: torch.ones(3), "1": torch.ones(4)},
        {True: 1, 1.5: [], "é\ud800": (), "big": 2**80, "tiny": 5e-324, "inf": -math.inf},
        torch.ones(2, dtype=torch.complex64),
        torch.ones(3, dtype=torch.float64)[::2],
        torch.tensor(7, dtype=torch.uint8),
        random.getstate(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_round_trip(tmp_path, value):
    save(value, tmp_path / "file.pt")
    assert equal(load(tmp_path / "file.pt"), value)
    assert os.listdir(tmp_path) == ["file.pt"]


@every_net
def test_models_in_both_formats(tmp_path, make):
    mine, theirs = pair(make)
    other, _ = pair(make, seed=3)
    for name in ("net.pt", "net.safetensors"):
        save(mine.state_dict(), tmp_path / name)
        other.load_state_dict(load(tmp_path / name))
        assert all(torch.equal(v, mine.state_dict()[k]) for k, v in other.state_dict().items())
    theirs.load_state_dict(load_file(tmp_path / "net.safetensors"))
    save({"turned": torch.arange(6).reshape(2, 3).T}, tmp_path / "net.safetensors")
    assert equal(load(tmp_path / "net.safetensors"), {"turned": torch.arange(6).reshape(2, 3).T})
    assert sorted(os.listdir(tmp_path)) == ["net.pt", "net.safetensors"]


def test_reads_what_others_wrote_and_is_read_by_them(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert equal(load(str(tmp_path / "a.safetensors")), {"a": torch.ones(2)})
    save_file({"a": torch.ones(2)}, tmp_path / "b.safetensors", {"format": "pt"})
    assert equal(load(tmp_path / "b.safetensors"), {"a": torch.ones(2)})
    save({"a": torch.ones(2), "b": 3}, tmp_path / "c")
    assert equal(load_file(tmp_path / "c"), {"a": torch.ones(2)})


def test_one_changed_bit_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / "c"
    content = whole(tmp_path, "c")
    size = int.from_bytes(content[:8], "little")
    random.seed(0)
    header = range(8 * (8 + size))
    numbers = range(8 * (8 + size), 8 * len(content))
    for bit in [*header, *random.sample(numbers, 200)]:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="load cannot read c: it is cut off, changed"):
            load(path)


class Runs:
    """A guest in a pickle: whoever runs it makes a folder."""

    def __init__(self, marker="marker"):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def a_pickle(marker):
    return pickle.dumps({"a": Runs(marker)})


def a_torch_pickle(marker):
    buffer = io.BytesIO()
    torch.save({"a": Runs(marker)}, buffer)
    return buffer.getvalue()


def whole(tmp_path, name):
    save({"0.weight": torch.randn(50, 40), "0.bias": torch.randn(50)}, tmp_path / name)
    return (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 1000, -1, -1000])
def test_cut_off_at(tmp_path, name, keep):
    (tmp_path / name).write_bytes(whole(tmp_path, name)[:keep])
    with pytest.raises(ValueError, match=f"load cannot read {name}: it is cut off, changed"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        a_pickle,
        a_torch_pickle,
        lambda _: b"<html>404</html>" * 50,
        lambda _: bytes(1000),
        lambda _: b"\xff" * 1000,
        lambda _: os.urandom(1000),
    ],
    ids=["pickle", "torch pickle", "html", "zeros", "ones", "noise"],
)
def test_foreign_files(tmp_path, name, content):
    marker = tmp_path / "code ran"
    (tmp_path / name).write_bytes(content(marker))
    with pytest.raises(ValueError, match=f"load cannot read {name}"):
        load(tmp_path / name)
    assert not marker.exists()


def test_the_guest_would_run(tmp_path):  # or the test above could not fail
    pickle.loads(a_pickle(tmp_path / "pickle"))
    torch.load(io.BytesIO(a_torch_pickle(tmp_path / "torch")), weights_only=False)
    assert sorted(os.listdir(tmp_path)) == ["pickle", "torch"]


def test_where_the_tensors_go(tmp_path):
    whole(tmp_path, "net")
    for device in ("cpu", torch.device("cpu"), "meta"):
        found = load(tmp_path / "net", map_location=device)["0.bias"]
        assert found.device == torch.device(device)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent")
    with pytest.raises(OSError):
        load(tmp_path)


UNSAVABLE = {
    "a module": (lambda: {"model": Linear(2, 2)}, "model is a Linear"),
    "a function": (lambda: [1, test_round_trip], "1 is a function"),
    "a guest": (Runs, "it is a Runs"),
    "a set": (lambda: {"a": [{1, 2}]}, "a.0 is a set"),
    "a named tuple": (lambda: {"a": namedtuple("P", "x")(1)}, "a is a P"),
    "a NumPy number": (lambda: {"a": np.int64(3)}, "a is a int64"),
    "a tuple as a key": (lambda: {(1, 2): 3}, r"the key \(1, 2\) is a tuple"),
    "no numbers": (lambda: {"a": torch.ones(2, device="meta")}, "meta"),
    "a sparse tensor": (lambda: {"a": torch.eye(2).to_sparse()}, ""),
    "a rare type": (lambda: {"a": torch.ones(2, dtype=torch.complex128)}, "complex128"),
    "a lazy parameter": (lambda: nn.LazyLinear(2).state_dict(), "uninitialized"),
    "a reserved name": (lambda: {"__metadata__": torch.ones(2)}, "__metadata__"),
}


@pytest.mark.parametrize("make, words", UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_cannot_be_read_is_not_written(tmp_path, monkeypatch, make, words):
    before = whole(tmp_path, "net")
    monkeypatch.chdir(tmp_path)  # a guest that runs leaves its folder here
    with pytest.raises(ValueError, match=f"^save: net is not written: .*{words}"):
        save(make(), tmp_path / "net")
    assert (tmp_path / "net").read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_the_old_file_is_kept(tmp_path, broken, error):
    before = whole(tmp_path, "net.pt")
    with patch(broken, side_effect=error), pytest.raises(type(error)):
        save({"more": torch.ones(3)}, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["net.pt"]
    save({"more": torch.ones(3)}, tmp_path / "net.pt")
    assert list(load(tmp_path / "net.pt")) == ["more"]


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
        lambda ps: torch.optim.AdamW(ps, lr=0.01),
    ],
    ids=["SGD", "AdamW"],
)
def test_a_checkpoint_resumes_bit_equal(tmp_path, make_optimizer):
    def steps(net, optimizer, n):
        for _ in range(n):
            x = torch.randn(8, 4)
            out = net(x)
            nn.functional.mse_loss(out, x[:, :3]).backward()
            optimizer.step()
            optimizer.zero_grad()

    net = tied(OURS)
    optimizer = make_optimizer(net.parameters())
    steps(net, optimizer, 3)
    save(
        {
            "model": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": 3,
            "rng": torch.get_rng_state(),
        },
        tmp_path / "c.pt",
    )
    steps(net, optimizer, 3)
    other = tied(OURS)
    resumed = make_optimizer(other.parameters())
    state = load(tmp_path / "c.pt")
    (
        other.load_state_dict(state["model"]),
        resumed.load_state_dict(state["optimizer"]),
        torch.set_rng_state(state["rng"]),
    )
    steps(other, resumed, 3)
    assert state["epoch"] == 3
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_what_is_not_the_fault_of_the_file(tmp_path, error):
    whole(tmp_path, "net")
    with patch("fromfound.module._unpack", side_effect=error):
        with pytest.raises(type(error) if isinstance(error, MemoryError) else ValueError):
            load(tmp_path / "net")
    with patch("pathlib.Path.read_bytes", side_effect=error), pytest.raises(type(error)):
        load(tmp_path / "net")


KILLED = """
import os, signal, sys
import torch
from fromfound.module import save
setattr(os, sys.argv[2], lambda *args: os.kill(os.getpid(), signal.SIGKILL))
save({"more": torch.ones(3)}, sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_while_saving(tmp_path, moment):
    before, path = (
        whole(tmp_path, "net.pt"),
        [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")],
    )
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "net.pt", moment],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "net.pt").read_bytes() == before
    left = sorted(os.listdir(tmp_path))
    assert [name[:8] for name in left] == [".net.pt.", "net.pt"]
    save({"more": torch.ones(3)}, tmp_path / "net.pt")
    assert os.listdir(tmp_path) == ["net.pt"]


# --- devices --------------------------------------------------------------------------------------


def test_to_device():
    x = {"a": [torch.ones(2), (torch.zeros(1), "text", None)], "net": Linear(2, 2)}
    moved = to_device(x, "meta")
    assert moved["a"][0].is_meta
    assert moved["a"][1][0].is_meta
    assert moved["a"][1][1:] == ("text", None)
    assert moved["net"].weight.is_meta
    assert isinstance(moved["a"][1], tuple)
    assert to_device(torch.ones(1)).device.type == default_device().type
    assert to_device(nn.Linear(1, 1), "meta").weight.is_meta
    Batch = namedtuple("Batch", "x y")
    assert isinstance(to_device(Batch(torch.ones(1), 2), "meta"), Batch)


@pytest.mark.parametrize("name", ["cuda", "mps", "xpu", None])
def test_default_device(name):
    found = None if name is None else torch.device(name)
    with (
        patch("torch.accelerator.is_available", return_value=name is not None),
        patch("torch.accelerator.current_accelerator", return_value=found),
    ):
        assert default_device() == torch.device(name or "cpu")


@pytest.mark.parametrize(
    "cuda, mps, name", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_default_device_before_torch_had_accelerators(monkeypatch, cuda, mps, name):
    monkeypatch.delattr(torch, "accelerator")
    with (
        patch("torch.cuda.is_available", return_value=cuda),
        patch("torch.backends.mps.is_available", return_value=mps),
    ):
        assert default_device() == torch.device(name)


class Asked:
    """Something to move, which tells how it was asked."""

    def to(self, device, non_blocking):
        return device.type, non_blocking


def test_a_copy_to_the_cpu_is_complete_when_it_is_read():
    assert to_device([Asked()], "cpu", non_blocking=True) == [("cpu", False)]
    assert to_device([Asked()], "meta", non_blocking=True) == [("meta", True)]


@pytest.mark.parametrize("mode", ["abc", None, 1])
def test_a_mode_that_is_no_boolean_is_refused(mode):
    with pytest.raises(ValueError, match="training mode is expected to be boolean, got"):
        Linear(2, 2).train(mode)


def test_a_parameter_of_ours_in_a_module_of_torch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = Parameter(torch.ones(2))

    assert [name for name, _ in Net().named_parameters()] == ["w"]


@pytest.mark.skipif(default_device().type == "cpu", reason="needs an accelerator")
@every_net
def test_on_the_accelerator(make, tmp_path):
    mine, _ = pair(make)
    device, held = default_device(), list(mine.parameters())
    mine.to(device)
    assert all(
        a is b and a.device.type == device.type
        for a, b in zip(held, mine.parameters(), strict=True)
    )
    save(mine.state_dict(), tmp_path / "net.pt")
    assert all(v.device.type == "cpu" for v in load(tmp_path / "net.pt", "cpu").values())
    assert mine(torch.randn(2, 4, device=device)).device.type == device.type


# --- exercises ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look", [repr, lambda layer: type(layer).__name__, lambda layer: type(layer).__qualname__]
)
def test_a_printed_name_kills_no_mutant(look):
    assert (
        exercises.ex_3_7.judge(lambda make: look(make(4, 3)) == look(Linear(4, 3)))
        .lines[0]
        .endswith(f"0 of {len(exercises.ex_3_7.mutants)} mutants killed")
    )


class Graph(Module):
    def __init__(self, model, decay):
        super().__init__()
        self.decay = decay
        for name, p in model.named_parameters():
            self.register_buffer(name.replace(".", "_"), p.data.clone())

    def update(self, model):
        for name, p in model.named_parameters():
            getattr(self, name.replace(".", "_")).lerp_(p, 1 - self.decay)


def test_an_average_that_keeps_the_graph_is_refused():
    verdict = exercises.ex_3_8.judge(Graph)
    assert not verdict.passed
    assert "remember how they were computed" in str(verdict)


def test_a_buffer_that_was_none_comes_back():
    module = Module()
    module.mean = Buffer(torch.zeros(2))
    module.mean = None
    assert module.mean is None
    assert list(module.state_dict()) == list(module.buffers()) == []
    module.to(torch.float64)
    module.mean = torch.ones(2)
    assert list(module.state_dict()) == ["mean"]
    assert module.to(torch.float64).mean.dtype == torch.float64


def test_a_memory_format_is_for_images():
    module = Sequential(Linear(3, 2))
    module.kernel = Parameter(torch.randn(2, 3, 4, 4))
    module.to(memory_format=torch.channels_last)
    assert module.kernel.is_contiguous(memory_format=torch.channels_last)
    assert module[0].weight.is_contiguous()


@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_parameter_from_a_pickle_learns(requires_grad):
    whole = Parameter(torch.randn(3), requires_grad)
    again = pickle.loads(pickle.dumps(whole))
    assert type(again) is Parameter
    assert torch.equal(again, whole)
    assert again.is_leaf
    assert again.requires_grad == requires_grad
