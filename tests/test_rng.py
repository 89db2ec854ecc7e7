"""Chapter 03a: every source of randomness found, read and set.

`preserve_state` leaves it as it was.
"""

import copy
import math
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from fromfound import dataloader
from fromfound.module import load, save
from fromfound.rng import find_generators, get_rng_states, preserve_state, set_rng_states

X = torch.arange(24.0)[:, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batches(data):
    """What the loaders give, as plain numbers."""
    loaders = (
        (data.train_dl, getattr(data, "valid_dl", None)) if hasattr(data, "train_dl") else (data,)
    )
    return [[b[0].flatten().tolist() for b in dl] for dl in loaders if dl is not None]


def numbers(data):
    """One draw from every source."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        torch.rand(1).item(),
        batches(data),
    ]


def sampled():
    return DataLoader(TensorDataset(X), 4, sampler=RandomSampler(X, generator=seeded()))


def batch_sampled():
    return DataLoader(
        TensorDataset(X), batch_sampler=BatchSampler(RandomSampler(X, generator=seeded()), 4, False)
    )


def shuffled():
    return DataLoader(TensorDataset(X), 4, shuffle=True, generator=seeded())


def ours():
    return dataloader.DataLoader(
        dataloader.TensorDataset(X, X), 4, shuffle=True, generator=seeded()
    )


class Drawing(torch.utils.data.Dataset):
    """A data set that draws from a generator of its own."""

    def __init__(self):
        self.generator = seeded(4)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return (torch.rand(1, generator=self.generator),)


DATA = {
    "sampler": sampled,
    "batch sampler": batch_sampled,
    "shuffle": shuffled,
    "global": lambda: DataLoader(TensorDataset(X), 4, shuffle=True),
    "ours": ours,
    "data set": lambda: DataLoader(Drawing()),
    "subset": lambda: DataLoader(torch.utils.data.Subset(Drawing(), [0, 3])),
    "two": lambda: SimpleNamespace(train_dl=shuffled(), valid_dl=sampled()),
    "no valid_dl": lambda: SimpleNamespace(train_dl=shuffled()),
    "joined": lambda: DataLoader(torch.utils.data.ConcatDataset([Drawing(), Drawing()])),
    "one": lambda: SimpleNamespace(train_dl=ours(), valid_dl=None),
}


@pytest.mark.parametrize("kind", DATA)
def test_states_bring_back_every_number(kind):
    data = DATA[kind]()
    random.gauss(0, 1), np.random.randn()  # half of a pair is in store
    states = get_rng_states(data)
    first = numbers(data)
    assert numbers(data) != first
    set_rng_states(states, data)
    assert numbers(data) == first
    set_rng_states(states, data)  # and once more: reading them has not changed them
    assert numbers(data) == first


@pytest.mark.parametrize("kind", DATA)
def test_states_fit_another_set_of_the_same_loaders(kind):
    data, other = DATA[kind](), DATA[kind]()
    batches(data)
    states = get_rng_states(data)
    first = numbers(data)
    set_rng_states(states, other)
    assert numbers(other) == first


@pytest.mark.parametrize("left_out", range(3))
def test_each_of_the_three_is_needed(left_out):
    states = get_rng_states()
    first = numbers(DATA["global"]())
    later = get_rng_states()
    set_rng_states([later[i] if i == left_out else states[i] for i in range(len(states))])
    again = numbers(DATA["global"]())
    changed = [a != b for a, b in zip(first, again, strict=True)]
    assert any(changed[2 * left_out : 2 * left_out + 2])
    assert sum(changed) == {0: 2, 1: 2, 2: 2}[left_out]


def test_states_can_be_written_and_read(tmp_path):
    data = shuffled()
    save({"random": get_rng_states(data)}, tmp_path / "states.pt")
    first = numbers(data)
    set_rng_states(load(tmp_path / "states.pt")["random"], data)
    assert numbers(data) == first


@pytest.mark.parametrize(
    "kind, count",
    [
        ("sampler", 1),
        ("batch sampler", 1),
        ("shuffle", 1),
        ("global", 0),
        ("ours", 1),
        ("data set", 1),
        ("subset", 1),
        ("two", 2),
        ("one", 1),
        ("no valid_dl", 1),
        ("joined", 2),
    ],
)
def test_generators_are_found_once(kind, count):
    assert len(find_generators(DATA[kind]())) == count
    assert find_generators(None) == find_generators([1, 2]) == []
    assert find_generators(SimpleNamespace(generator=np.random.default_rng())) == []


def test_a_generator_that_two_loaders_share_counts_once():
    both = seeded()
    data = SimpleNamespace(
        train_dl=DataLoader(X, shuffle=True, generator=both),
        valid_dl=DataLoader(X, shuffle=True, generator=both),
    )
    assert find_generators(data) == [both]
    ring = SimpleNamespace(generator=both)
    ring.sampler = SimpleNamespace(dataset=ring)  # a circle has an end
    assert find_generators(ring) == [both]


def net(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    nn.init.normal_(model[1].weight)
    model(torch.randn(8, 3)).backward(torch.randn(8, 2))
    model[2].eval()
    model[0].bias.grad = None
    return model


def everything(model, data):
    tensors = [t.clone() for t in [*model.parameters(), *model.buffers()]] + [
        None if p.grad is None else p.grad.clone() for p in model.parameters()
    ]
    return (
        tensors,
        [id(t) for t in [*model.parameters(), *model.buffers()]],
        [m.training for m in model.modules()],
        [str(s) if not isinstance(s, torch.Tensor) else s for s in get_rng_states(data)],
    )


def alike(a, b):
    (tensors, *rest), (others, *more) = a, b
    return (
        all(
            s is t is None
            or (s is not None and t is not None and s.dtype == t.dtype and torch.equal(s, t))
            for s, t in zip(tensors, others, strict=True)
        )
        and rest[:2] == more[:2]
        and str(rest[2]) == str(more[2])
        and all(
            torch.equal(s, t)
            for s, t in zip(rest[2], more[2], strict=True)
            if isinstance(s, torch.Tensor)
        )
    )


MISCHIEF = {
    "python": lambda m, d: random.random(),
    "numpy": lambda m, d: np.random.rand(),
    "torch": lambda m, d: torch.rand(1),
    "batch": lambda m, d: batches(d),
    "seed": lambda m, d: torch.manual_seed(3),
    "weights": lambda m, d: m[0].weight.data.fill_(math.nan),
    "gradient": lambda m, d: m.zero_grad(),
    "gradient in place": lambda m, d: m.zero_grad(set_to_none=False),
    "new gradient": lambda m, d: setattr(m[0].bias, "grad", torch.ones(4)),
    "mode": lambda m, d: m.eval(),
    "statistics": lambda m, d: m.train()(torch.randn(8, 3)),
    "buffer": lambda m, d: setattr(m[1], "running_mean", torch.ones(4)),
    "parameter": lambda m, d: setattr(m[3], "weight", nn.Parameter(torch.ones(2, 4))),
    "new parameter": lambda m, d: m[0].register_parameter("extra", nn.Parameter(torch.ones(1))),
    "gone": lambda m, d: delattr(m[0], "bias"),
    "half precision": lambda m, d: m.half(),
    "other shape": lambda m, d: setattr(m[0].weight, "data", torch.zeros(5, 5)),
    "new memory": lambda m, d: setattr(m[0].weight, "data", torch.zeros(4, 3)),
    "resized buffer": lambda m, d: setattr(m[1].running_mean, "data", torch.zeros(7)),
}


@pytest.mark.parametrize("what", MISCHIEF)
@pytest.mark.parametrize("fails", [False, True])
def test_untouched(what, fails):
    model, data = net(), shuffled()
    before = everything(model, data)
    MISCHIEF[what](model, data)
    assert not alike(before, everything(model, data))  # it can be seen
    model, data = net(), shuffled()
    before = everything(model, data)
    if fails:
        with pytest.raises(KeyError, match="mine"), preserve_state(model, data):
            MISCHIEF[what](model, data)
            raise KeyError("mine")
    else:
        with preserve_state(model, data):
            MISCHIEF[what](model, data)
    assert alike(before, everything(model, data))


def test_untouched_takes_the_loss_with_it():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, pred):
            self.seen += 1
            return pred.mean()

    model, loss = net(), Loss()
    with preserve_state(model, None, loss):
        loss(model(torch.randn(8, 3)))
        assert loss.seen == 1
    assert loss.seen == 0
    with preserve_state(model, None, nn.functional.cross_entropy):  # a function has nothing to keep
        pass


def test_lazy_layers_are_refused_before_anything_is_done():
    done = []
    with (
        pytest.raises(
            ValueError, match="shape from the first batch.*call the model on a batch before"
        ),
        preserve_state(nn.LazyLinear(3)),
    ):
        done.append(1)
    assert done == []


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=4, max_size=4), seed=st.integers(0, 9))
def test_whatever_is_drawn_inside_nothing_moves(counts, seed):
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    data, model = shuffled(), nn.Linear(1, 1)
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    expected = numbers(copy.deepcopy(data))
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    with preserve_state(model, data):
        for count, draw in zip(
            counts,
            (random.random, np.random.rand, lambda: torch.rand(1), lambda: batches(data)),
            strict=True,
        ):
            for _ in range(count):
                draw()
    assert numbers(data) == expected


def test_generators_of_several_loaders_are_found():
    loaders = shuffled(), sampled()
    assert len(find_generators(loaders)) == len(find_generators(list(loaders))) == 2
    assert (
        len(
            find_generators(SimpleNamespace(train_dl=shuffled(), valid_dl=None, test_dl=shuffled()))
        )
        == 2
    )
    states = get_rng_states(loaders)
    first = [batches(loader) for loader in loaders]
    set_rng_states(states, loaders)
    assert [batches(loader) for loader in loaders] == first


def test_a_list_of_batches_is_looked_through_in_no_time():
    assert find_generators([(torch.zeros(1), torch.zeros(1)) for _ in range(20_000)]) == []


def test_what_has_no_end_is_refused():
    class Open:
        def __getattr__(self, name):
            return Open()

    for data in (Open(), SimpleNamespace(dataset=Open())):
        with pytest.raises(
            TypeError,
            match="30 deep and found no end, only Open objects: give the loaders themselves",
        ):
            find_generators(data)


def test_thirty_deep_is_deep_enough():
    def nested(depth):
        inner = SimpleNamespace(generator=seeded())
        for _ in range(depth - 1):
            inner = SimpleNamespace(dataset=inner)
        return inner

    assert len(find_generators(nested(30))) == 1
    with pytest.raises(TypeError, match="30 deep and found no end"):
        find_generators(nested(31))


@pytest.mark.parametrize("kept, given", [(shuffled, None), (None, shuffled)])
def test_forgotten_loaders_are_refused_before_anything_is_set(kept, given):
    states = get_rng_states(kept and kept())
    before = random.random(), torch.get_rng_state()
    place = random.getstate()
    with pytest.raises(
        ValueError,
        match=(
            f"{len(states)} states for {len(get_rng_states(given and given()))} sources: give the "
            "same loaders"
        ),
    ):
        set_rng_states(states, given and given())
    assert random.getstate() == place
    assert torch.equal(torch.get_rng_state(), before[1])


WRONG = {  # in the place of one state
    "python": (0, (3, (1, 2), None)),
    "python, none": (0, None),
    "numpy": (1, ["MT19937", [1, 2], 0, 0, 0.0]),
    "torch": (2, torch.zeros(3, dtype=torch.uint8)),
    "torch, none": (2, None),
    "generator": (3, torch.zeros(3, dtype=torch.uint8)),
    "all": (3, "abc"),
}


@pytest.mark.parametrize("place, wrong", WRONG.values(), ids=WRONG)
def test_all_states_are_set_or_none(place, wrong):
    data = shuffled()
    states = get_rng_states(data)
    numbers(data)
    now = get_rng_states(data)
    states[-1 if place == 3 else place] = wrong
    with pytest.raises(ValueError, match="set_rng_states changed nothing, as state . does not fit"):
        set_rng_states(states, data)
    assert str(get_rng_states(data)) == str(now)
    drawn = numbers(data)
    set_rng_states(now, data)
    assert numbers(data) == drawn


@pytest.mark.parametrize("wrong", [None, 3, "abc", torch.zeros(3)], ids=str)
def test_states_are_a_list(wrong):
    with pytest.raises(TypeError, match="set_rng_states expected a list of states, got"):
        set_rng_states(wrong)


@pytest.mark.parametrize(
    "wrong",
    ["abc", {"train": shuffled()}, {}, DataLoader],
    ids=["a string", "a dictionary", "an empty one", "a class"],
)
def test_what_holds_no_loader_is_refused(wrong):
    for look in (
        find_generators,
        get_rng_states,
        partial(set_rng_states, get_rng_states()),
        lambda data: preserve_state(nn.Linear(1, 1), data).__enter__(),
    ):
        with pytest.raises(TypeError, match="^find_generators expected a loader, or a list"):
            look(wrong)


class Device:
    """The module of a kind of device, with one state for each."""

    def __init__(self, count):
        self.states = [torch.tensor([i]) for i in range(count)]

    def device_count(self):
        return len(self.states)

    def get_rng_state_all(self):
        return [state.clone() for state in self.states]

    def set_rng_state_all(self, states):
        self.states = states


class OneDevice:
    """The same, of a kind of which there is only one, as mps."""

    def __init__(self):
        self.state = torch.tensor([7])

    def get_rng_state(self):
        return self.state

    def set_rng_state(self, state):
        self.state = state


@pytest.fixture
def on_device(monkeypatch):
    def become(module):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
        monkeypatch.setattr(torch, "xpu", module)
        return module

    if not hasattr(torch, "accelerator"):
        pytest.skip("before torch 2.6 there are cuda and mps")
    return become


def test_a_device_of_any_kind_is_found(on_device):
    gpu, data = on_device(Device(2)), shuffled()
    states = get_rng_states(data)
    assert len(states) == 5
    gpu.states = [torch.tensor([5]), torch.tensor([6])]
    set_rng_states(states, data)
    assert torch.cat(gpu.states).tolist() == [0, 1]
    gpu = on_device(OneDevice())
    states = get_rng_states()
    gpu.state = None
    set_rng_states(states)
    assert gpu.state.tolist() == [7]


@pytest.mark.parametrize("then, now", [(2, 1), (1, 2)])
def test_the_states_of_other_gpus_are_refused(on_device, then, now):
    on_device(Device(then))
    states = get_rng_states()
    gpu, place = on_device(Device(now)), random.getstate()
    random.random()
    before = random.getstate()
    assert before != place
    with pytest.raises(ValueError, match=rf"changed nothing.*\({then} states for {now} GPUs\)"):
        set_rng_states(states)
    assert random.getstate() == before
    assert len(gpu.states) == now


def test_a_gpu_stands_before_the_generators(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delattr(torch, "accelerator", raising=False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["gpu"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", seen.append)
    data = shuffled()
    states = get_rng_states(data)
    assert states[3] == {"cuda": ["gpu"]}
    assert torch.equal(states[4], data.generator.get_state())
    set_rng_states(states, data)
    set_rng_states(get_rng_states())
    assert seen == [["gpu"]] * 2


def test_states_go_between_machines_with_and_without_a_gpu(on_device, monkeypatch):
    data = shuffled()
    without = get_rng_states(data)
    gpu = on_device(Device(2))
    with_two = get_rng_states(data)
    gpu.states = [torch.tensor([5]), torch.tensor([6])]
    set_rng_states(without, data)
    assert torch.cat(gpu.states).tolist() == [5, 6]
    first = numbers(data)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="leaves out the states of xpu"):
        set_rng_states(with_two, data)
    assert numbers(data) == first


def test_a_gpu_that_is_not_in_use_is_not_started(on_device):
    gpu = on_device(Device(1))
    gpu.is_initialized = lambda: False
    gpu.get_rng_state_all = gpu.set_rng_state_all = None  # neither may be called
    states = get_rng_states()
    assert states[3] == {}
    set_rng_states(states)


def test_untouched_says_what_it_cannot_keep():
    for wrong in (shuffled(), lambda x: x, None):
        with (
            pytest.raises(
                TypeError, match="preserve_state expected a torch.nn.Module, got .*second argument"
            ),
            preserve_state(wrong),
        ):
            pass


def test_the_numbers_go_back_also_where_a_model_cannot(monkeypatch):
    model, place = nn.Linear(1, 1), random.getstate()
    with pytest.raises(RuntimeError, match="cannot be put back"), preserve_state(model):
        random.random()
        monkeypatch.setattr(
            nn.Linear,
            "training",
            property(
                lambda self: True,
                lambda self, value: exec("raise RuntimeError('cannot be put back')"),
            ),
            raising=False,
        )
    assert random.getstate() == place
