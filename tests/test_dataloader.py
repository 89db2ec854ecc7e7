"""Chapter 04a: samplers, collate and DataLoader against torch.utils.data.

It covers batches, generators, workers under fork and spawn, errors, deaths, and refusals.
"""

import contextlib
import gc
import io
import math
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import OrderedDict, defaultdict, namedtuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils import data as theirs
from torch.utils._python_dispatch import TorchDispatchMode

from fromfound import dataloader as ours
from fromfound.dataloader import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    collate,
)
from fromfound.exercises import dataloader as exercises

ROOT = Path(__file__).resolve().parents[1]
# Python 3.12 and later warn when a process with threads forks; PyTorch's loader has it, too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
FORK = pytest.param(
    "fork",
    marks=pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux only"),
)
METHOD = "fork" if sys.platform == "linux" else "spawn"
Pair = namedtuple("Pair", "x y")


class Numbers(Dataset):
    """Samples of every kind, with random numbers of three generators in them."""

    def __init__(self, n=23):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {
            "x": torch.full((2, 3), float(i)),
            "i": i,
            "name": f"n{i}",
            "pair": Pair(i / 2, np.float32(i)),
            "array": np.arange(3) + i,
            "random": (torch.rand(2), random.random(), np.random.rand()),
        }


class AtOnce(Numbers):
    def __getitems__(self, indices):
        return [(torch.tensor(i), -i) for i in indices]


class Fails(Numbers):
    def __init__(self, error=None):
        self.n, self.error = 23, error or KeyError("lost")

    def __getitem__(self, i):
        if i == 13:
            raise self.error
        return i


class Dies(Numbers):
    """Ends its process at sample 13: with an exit code, or by a signal."""

    def __init__(self, how):
        self.n, self.how = 23, how

    def __getitem__(self, i):
        if i == 13:
            os._exit(self.how) if self.how > 0 else os.kill(os.getpid(), -self.how)
        return i


class Sleeps(Numbers):
    def __init__(self, n=1000, seconds=0.01):
        self.n, self.seconds = n, seconds

    def __getitem__(self, i):
        time.sleep(self.seconds)
        return os.getpid()


def long_text(samples):
    return "x" * 1_000_000 + str(len(samples))


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


class DoubledError(Exception):
    """Can be made of one text, but has two."""

    def __init__(self, one):
        super().__init__(one, "and another")


class Seeds(Numbers):
    def __getitem__(self, i):
        return torch.initial_seed() % 2**31, os.getpid()


def plain(value):
    """A batch with tensors as their type and values, so that == compares all of it."""
    if isinstance(value, dict):
        return type(value), {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [plain(v) for v in value]
    return (
        (value.dtype, tuple(value.shape), value.tolist())
        if isinstance(value, (torch.Tensor, np.ndarray))
        else value
    )


def two_epochs(kind, dataset, **options):
    """Everything that two epochs show: batches, and where the generators stand at each end."""
    torch.manual_seed(3)
    random.seed(4)
    np.random.seed(5)
    generator = torch.Generator().manual_seed(6)
    loader = kind(dataset, **({"generator": generator} | options))
    return [
        len(loader),
        *[
            (
                [plain(batch) for batch in loader],
                generator.get_state().tolist(),
                torch.get_rng_state().tolist(),
            )
            for _ in range(2)
        ],
    ]


def seconds_until(condition, limit=10):
    start = time.monotonic()
    while not condition() and time.monotonic() - start < limit:
        time.sleep(0.02)
    return time.monotonic() - start


@pytest.fixture(autouse=True)
def no_worker_outlives_its_test():
    """Some tests count the processes that are left, so each leaves none.

    A caught error may still hold its loader.
    """
    yield
    if multiprocessing.active_children():
        gc.collect()  # takes a second once many tests have run
        seconds_until(lambda: not multiprocessing.active_children())
    assert multiprocessing.active_children() == []


# --- samplers -------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 70),
    replacement=st.booleans(),
    num_samples=st.none() | st.integers(1, 150),
    seed=st.none() | st.integers(0, 5),
)
def test_random_sampler_equals_torchs(n, replacement, num_samples, seed):
    seen = []
    for kind in (RandomSampler, theirs.RandomSampler):
        torch.manual_seed(1)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        sampler = kind(range(n), replacement, num_samples, generator)
        seen.append(
            (
                len(sampler),
                [list(sampler) for _ in range(2)],
                torch.get_rng_state().tolist(),
                generator and generator.get_state().tolist(),
            )
        )
    assert seen[0] == seen[1]


@given(n=st.integers(0, 40), batch_size=st.integers(1, 12), drop_last=st.booleans())
def test_batch_sampler_equals_torchs(n, batch_size, drop_last):
    mine, reference = (
        kind(range(n), batch_size, drop_last) for kind in (BatchSampler, theirs.BatchSampler)
    )
    assert list(mine) == list(reference)
    assert len(mine) == len(reference) == len(list(mine))
    assert list(SequentialSampler(range(n))) == list(range(n))


def test_the_generator_moves_only_as_far_as_torchs_in_the_middle_of_an_epoch():
    states = []
    for kind in (RandomSampler, theirs.RandomSampler):
        generator = torch.Generator().manual_seed(0)
        numbers = iter(kind(range(100), replacement=True, generator=generator))
        states.append([(next(numbers), generator.get_state().tolist()) for _ in range(40)])
    assert states[0] == states[1]


@pytest.mark.parametrize(
    "make, error, said",
    [
        (
            lambda kit: kit.RandomSampler(range(3), 1),
            TypeError,
            "replacement should be a boolean value, but got replacement=1",
        ),
        (
            lambda kit: kit.RandomSampler(range(3), num_samples=0),
            ValueError,
            "num_samples should be a positive integer value, but got num_samples=0",
        ),
        (
            lambda kit: kit.RandomSampler(range(3), num_samples=1.5),
            ValueError,
            "num_samples should be a positive integer value, but got num_samples=1.5",
        ),
        (lambda kit: kit.RandomSampler([]), ValueError, "num_samples=0"),
        (
            lambda kit: kit.BatchSampler(range(3), 0, False),
            ValueError,
            "batch_size should be a positive integer value",
        ),
        (lambda kit: kit.BatchSampler(range(3), 2.0, False), ValueError, "batch_size=2.0"),
        (lambda kit: kit.BatchSampler(range(3), True, False), ValueError, "batch_size=True"),
        (lambda kit: kit.BatchSampler(range(3), 2, 1), ValueError, "drop_last=1"),
        (
            lambda kit: kit.TensorDataset(torch.zeros(2), torch.zeros(3)),
            AssertionError,
            "Size mismatch between tensors",
        ),
        (
            lambda kit: kit.DataLoader(range(3), num_workers=-1),
            ValueError,
            "num_workers option should be non-negative",
        ),
        (
            lambda kit: kit.DataLoader(range(3), timeout=-1),
            ValueError,
            "timeout option should be non-negative",
        ),
        (lambda kit: kit.DataLoader(range(3), prefetch_factor=2), ValueError, "prefetch_factor"),
        (
            lambda kit: kit.DataLoader(range(3), num_workers=1, prefetch_factor=-1),
            ValueError,
            "prefetch_factor option should be",
        ),
        (
            lambda kit: kit.DataLoader(range(3), persistent_workers=True),
            ValueError,
            "persistent_workers",
        ),
        (
            lambda kit: kit.DataLoader(range(3), multiprocessing_context="spawn"),
            ValueError,
            "multiprocessing_context",
        ),
        (
            lambda kit: kit.DataLoader(range(3), num_workers=1, multiprocessing_context="nonsense"),
            ValueError,
            "nonsense",
        ),
        (
            lambda kit: kit.DataLoader(range(3), shuffle=True, sampler=range(3)),
            ValueError,
            "sampler option is mutually exclusive with shuffle",
        ),
        (
            lambda kit: kit.DataLoader(range(3), 2, batch_sampler=[[0]]),
            ValueError,
            "batch_sampler option is mutually exclusive",
        ),
        (
            lambda kit: kit.DataLoader(range(3), batch_sampler=[[0]], drop_last=True),
            ValueError,
            "batch_sampler option is mutually exclusive",
        ),
        (
            lambda kit: kit.DataLoader(range(3), None, drop_last=True),
            ValueError,
            "batch_size=None option disables auto-batching",
        ),
        (
            lambda kit: kit.DataLoader(range(3), 0),
            ValueError,
            "batch_size should be a positive integer value",
        ),
    ],
)
def test_what_torch_refuses_is_refused(make, error, said):
    for kit in (ours, theirs):
        with pytest.raises(error) as caught:
            make(kit)
        if kit is ours:
            assert said in str(caught.value)


class Copies(TorchDispatchMode):
    """Keeps the tensors of numbers by which others are indexed."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index.Tensor:
            self.numbers += args[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("index", [[4, 0, 4], [2], []], ids=str)
def test_the_numbers_of_a_batch_are_sent_to_the_device_once(index):
    columns = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    expected = [column[index] for column in columns]
    assert [part.tolist() for part in TensorDataset(*columns)[index]] == [
        part.tolist() for part in expected
    ]
    away = [column.to("meta") for column in columns]
    with Copies() as copies:
        batch = TensorDataset(*away)[index]
    assert [part.shape for part in batch] == [part.shape for part in expected]
    if index:
        assert len(copies.numbers) == 2
        assert copies.numbers[0] is copies.numbers[1]
        assert copies.numbers[0].device.type == "meta"
    on_two = TensorDataset(columns[0], away[1])[index]
    assert torch.equal(on_two[0], expected[0])
    assert on_two[1].shape == expected[1].shape


class Stream(theirs.IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize("dataset", [Stream(), {1, 2}, iter([1, 2])])
def test_a_stream_is_refused(dataset):
    with pytest.raises(
        TypeError,
        match="expected a dataset with __getitem__ and __len__.*torch.utils.data.DataLoader",
    ):
        DataLoader(dataset)


@pytest.mark.parametrize(
    "options, error, said",
    [
        (dict(num_workers="2"), ValueError, "num_workers option should be non-negative integer"),
        (dict(num_workers=None), ValueError, "num_workers option should be non-negative integer"),
        (dict(num_workers=1.5), ValueError, "non-negative integer, got 1.5"),
        (dict(num_workers=1, timeout="1"), ValueError, "timeout option should be non-negative num"),
        (dict(num_workers=1, timeout=math.nan), ValueError, "non-negative number, got nan"),
        (dict(num_workers=1, timeout=math.inf), ValueError, "non-negative number, got inf"),
        (dict(num_workers=1, prefetch_factor=1.5), ValueError, "should be positive, got 1.5"),
        (dict(num_workers=1, prefetch_factor="2"), ValueError, "should be positive, got '2'"),
        (
            dict(num_workers=1, multiprocessing_context="bad"),
            ValueError,
            "multiprocessing_context 'bad' is none of ",
        ),
        (dict(num_workers=1, multiprocessing_context=3), ValueError, "multiprocessing_context 3"),
        (dict(generator=3), TypeError, "DataLoader expected a torch.Generator, got 3"),
        (dict(shuffle=True, generator="a"), TypeError, "DataLoader expected a torch.Generator"),
        (dict(sampler=RandomSampler), TypeError, "DataLoader expected a sampler that can be iter"),
        (dict(sampler=3), TypeError, "sampler that can be iterated, got 3"),
        (dict(batch_sampler=BatchSampler), TypeError, "DataLoader expected a sampler that can be"),
        (dict(dataset={"a": 1}), TypeError, "for numbers from 0, got {'a': 1}"),
        (dict(dataset=Numbers), TypeError, "for numbers from 0, got <class"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, str) else "",
)
def test_options_of_another_kind_are_refused_at_once(options, error, said):
    with pytest.raises(error) as caught:
        DataLoader(**({"dataset": range(4)} | options))
    assert str(caught.value).startswith("DataLoader")
    assert said in str(caught.value)


def test_a_sampler_refuses_another_generator():
    with pytest.raises(TypeError, match="RandomSampler expected a torch.Generator, got 3"):
        RandomSampler(range(3), generator=3)


def test_dictionaries_that_are_datasets():
    assert [b.tolist() for b in DataLoader({0: 5, 1: 6})] == [[5], [6]]
    assert [b.tolist() for b in DataLoader({"a": 5}, sampler=["a"])] == [[5]]
    assert [b.tolist() for b in DataLoader({"a": 5}, batch_sampler=[["a", "a"]])] == [[5, 5]]


def test_other_refusals():
    for make in (
        TensorDataset,
        lambda: TensorDataset(torch.tensor(1.0)),
        lambda: TensorDataset(torch.zeros(2), torch.tensor(1.0)),
    ):
        with pytest.raises(AssertionError, match="expected one or more of equal length"):
            make()
    with pytest.raises(NotImplementedError, match="Dataset has no __getitem__"):
        Dataset()[0]
    with pytest.raises(ValueError, match="prefetch_factor option should be positive, got 0"):
        DataLoader(range(3), num_workers=1, prefetch_factor=0)
    for unknown in ("pin_memory", "in_order", "num_worker"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{unknown}'"):
            DataLoader(range(3), **{unknown: False})


# --- collate --------------------------------------------------------------------------------------

LEAVES = [
    lambda k: torch.full((2,), float(k)),
    lambda k: torch.tensor(k),
    lambda k: torch.zeros(0, 3),
    lambda k: torch.full((1, 2), k / 3, dtype=torch.bfloat16),
    lambda k: torch.tensor([k > 1]),
    lambda k: k,
    lambda k: k / 7,
    lambda k: k > 1,
    lambda k: f"name {k}",
    lambda k: bytes([k]),
    lambda k: np.arange(3) * k,
    lambda k: np.float32(k),
    lambda k: np.float64(k),
    lambda k: np.int16(k),
    lambda k: np.bool_(k > 1),
    lambda k: np.array(k),
]


def structures():
    """Functions from k to a sample, so that several samples have one structure."""
    return st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
            lambda parts: st.sampled_from(
                [
                    lambda k: [part(k) for part in parts],
                    lambda k: tuple(part(k) for part in parts),
                    lambda k: {str(i): part(k) for i, part in enumerate(parts)},
                    lambda k: OrderedDict((i, part(k)) for i, part in enumerate(parts)),
                    lambda k: Pair(parts[0](k), parts[-1](k)),
                ]
            )
        ),
        max_leaves=5,
    )


@given(structure=structures(), n=st.integers(1, 4))
def test_collate_equals_torchs(structure, n):
    samples = [structure(k) for k in range(n)]
    assert plain(collate(samples)) == plain(theirs.default_collate(samples))


@pytest.mark.parametrize(
    "samples, error, said",
    [
        (
            [torch.zeros(2), torch.zeros(2), torch.zeros(3)],
            RuntimeError,
            (
                "got [2] at entry 0 and [3] at entry 2: give all samples one type, shape, device "
                "and set of keys, or write a collate_fn"
            ),
        ),
        ([np.zeros(2), np.zeros(3)], RuntimeError, "got [2] at entry 0 and [3] at entry 1"),
        (
            [[1, 2], [1]],
            RuntimeError,
            "each element in list of batch should be of equal size, got lengths [2, 1]",
        ),
        ([{"a": 1}, {"b": 1}], KeyError, "collate: 'a': give all samples one type, shape, device"),
        (
            [None, None],
            TypeError,
            (
                "batch must contain tensors, numpy arrays, numbers, dicts or lists; found <class "
                "'NoneType'>"
            ),
        ),
        ([np.array(["a"]), np.array(["b"])], TypeError, "found <class 'numpy.ndarray'>"),
        ([], IndexError, "collate: the batch is empty: give"),
        ([1, "a"], TypeError, "collate: "),
        ([1.0, "a"], TypeError, "collate: "),
        ([torch.zeros(1), 1], TypeError, "expected Tensor as element 1 in argument 0, but got int"),
        ([(1, 2), (1, "a")], TypeError, "collate: "),
        ([[1], 2], TypeError, "collate: "),
        ([{"a": [1]}, {"a": 1}], TypeError, "collate: "),
    ],
)
def test_collate_refuses_what_torch_refuses(samples, error, said):
    with pytest.raises(error):
        theirs.default_collate(samples)
    with pytest.raises(error) as caught:
        collate(samples)
    assert said in str(caught.value)
    assert str(caught.value).strip('"').startswith("collate: ")
    assert str(caught.value).count("collate: ") == 1
    assert "and set of keys, or write a collate_fn" in str(caught.value)


def test_a_container_that_cannot_be_made_of_parts_becomes_a_plain_one():
    made = collate([defaultdict(list, a=1), defaultdict(list, a=2)])
    assert made["a"].tolist() == [1, 2]
    assert [c.tolist() for c in collate([range(2), range(2)])] == [
        c.tolist() for c in theirs.default_collate([range(2), range(2)])
    ]


# --- the loader against torch's -------------------------------------------------------------------

CHOICES = [
    dict(),
    dict(batch_size=4),
    dict(batch_size=23),
    dict(batch_size=50),
    dict(batch_size=50, drop_last=True),
    dict(batch_size=4, shuffle=True),
    dict(batch_size=4, shuffle=True, drop_last=True),
    dict(batch_size=None),
    dict(batch_size=None, shuffle=True),
    dict(batch_size=3, sampler=[5, 5, 1, 0, 22]),
    dict(batch_sampler=[[1, 2], [], [3]], collate_fn=list),
    dict(batch_size=4, shuffle=True, generator=None),
    dict(batch_size=5, shuffle=True, collate_fn=len),
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize(
    "dataset", [Numbers(), AtOnce(), [3, 1, 4, 1, 5] * 5], ids=["dictionaries", "getitems", "list"]
)
def test_the_batches_are_torchs(dataset, options):
    assert two_epochs(DataLoader, dataset, **options) == two_epochs(
        theirs.DataLoader, dataset, **options
    )


@pytest.mark.parametrize(
    "options",
    [
        dict(batch_size=4, shuffle=True, num_workers=1),
        dict(batch_size=4, shuffle=True, num_workers=2),
        dict(batch_size=3, shuffle=True, num_workers=2, persistent_workers=True),
        dict(batch_size=1, num_workers=3, prefetch_factor=1),
        dict(batch_size=50, num_workers=2),
        dict(batch_size=None, num_workers=2),
        dict(batch_size=4, drop_last=True, num_workers=2, generator=None),
    ],
    ids=str,
)
def test_the_batches_of_workers_are_torchs(options):
    options = options | {"multiprocessing_context": METHOD}
    assert two_epochs(DataLoader, Numbers(), **options) == two_epochs(
        theirs.DataLoader, Numbers(), **options
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "reference, options",
    # Few, since each new Python imports torch. What torch's forked workers yield, its spawned ones
    # yield, too.
    [
        (
            METHOD,
            dict(
                batch_size=None,
                shuffle=True,
                num_workers=2,
                persistent_workers=True,
                generator=None,
            ),
        ),
        (METHOD, dict(shuffle=True, num_workers=1)),
        ("spawn", dict(shuffle=True, num_workers=1, persistent_workers=True)),
    ],
    ids=str,
)
def test_the_batches_of_spawned_workers_are_torchs(reference, options):
    options = dict(batch_size=4) | options
    assert two_epochs(
        DataLoader, Numbers(9), **options, multiprocessing_context="spawn"
    ) == two_epochs(theirs.DataLoader, Numbers(9), **options, multiprocessing_context=reference)


def test_the_samples_that_are_compared_are_random():
    def drawn(**options):
        return [
            torch.cat([batch["random"][0] for batch in loader])
            for loader in [
                DataLoader(Numbers(), 4, generator=torch.Generator().manual_seed(1), **options)
            ]
            for _ in range(2)
        ]

    forked = dict(multiprocessing_context=METHOD)
    here, one, two = drawn(), drawn(num_workers=1, **forked), drawn(num_workers=2, **forked)
    assert not any(
        torch.equal(a, b) for a, b in ((two[0], two[1]), (one[0], two[0]), (here[0], two[0]))
    )
    assert not torch.equal(two[0][:4], two[0][4:8])  # two workers
    assert all(torch.equal(a, b) for a, b in zip(two, drawn(num_workers=2, **forked), strict=True))


def test_the_parts_are_exchangeable():
    tensors = torch.arange(20.0).reshape(10, 2), torch.arange(10)
    reference = [plain(batch) for batch in theirs.DataLoader(theirs.TensorDataset(*tensors), 4)]
    for kind, data, sampler in (
        (DataLoader, theirs.TensorDataset, theirs.SequentialSampler),
        (theirs.DataLoader, TensorDataset, SequentialSampler),
    ):
        assert [
            plain(batch) for batch in kind(data(*tensors), 4, sampler=sampler(tensors[1]))
        ] == reference
    whole = DataLoader(
        TensorDataset(*tensors),
        batch_size=None,
        sampler=BatchSampler(SequentialSampler(tensors[1]), 4, False),
    )
    assert [[t.tolist() for t in batch] for batch in whole] == [
        [t.tolist() for t in batch] for batch in theirs.DataLoader(TensorDataset(*tensors), 4)
    ]
    assert DataLoader(tensors[1], 4).batch_size == 4
    assert DataLoader(tensors[1], batch_sampler=[[0]]).batch_size is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_from_a_saved_state(workers):
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        range(50),
        8,
        shuffle=True,
        generator=generator,
        num_workers=workers,
        **({"multiprocessing_context": METHOD} if workers else {}),
    )
    list(loader)
    state = generator.get_state()
    second = [batch.tolist() for batch in loader]
    resumed = DataLoader(range(50), 8, shuffle=True, generator=torch.Generator())
    resumed.generator.set_state(state)
    assert [batch.tolist() for batch in resumed] == second


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4),
        torch.rand(0, 4),
        torch.tensor(3),
        torch.rand(2, 3).bfloat16(),
        torch.rand(2, 3).half(),
        torch.rand(4, 6).T,
        torch.rand(6, 4)[::2],
        torch.rand(3, 1).expand(3, 5),
        torch.rand(600, 600),
        torch.rand(2, dtype=torch.complex64),
        torch.rand(3, requires_grad=True),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.empty(2, device="meta"),
        torch.nn.Parameter(torch.rand(2)),
    ],
    ids=lambda t: f"{t.dtype} {tuple(t.shape)} {t.device}",
)
def test_a_tensor_survives_the_parcel(tensor):
    got = pickle.loads(ours._Parcel.dumps(tensor, 5))
    assert (got.dtype, got.shape, got.device, got.requires_grad, type(got)) == (
        tensor.dtype,
        tensor.shape,
        tensor.device,
        tensor.requires_grad,
        type(tensor),
    )
    if tensor.device.type == "cpu":
        assert torch.equal(got, tensor)
    if tensor.numel():
        assert got.stride() == tensor.stride()


class Large(Numbers):
    def __getitem__(self, i):
        return torch.full((40_000,), float(i))


def shared_from_the_start(samples):
    return collate(samples).is_shared()


def test_large_batches_come_in_shared_memory_and_can_be_kept_and_changed():
    made = DataLoader(
        Large(8),
        batch_sampler=[[0], [1, 2, 3, 4]],
        collate_fn=shared_from_the_start,
        num_workers=1,
        multiprocessing_context=METHOD,
    )
    assert list(made) == [False, True]  # in the worker, before it is sent: no copy
    batches = list(DataLoader(Large(12), 4, num_workers=2, multiprocessing_context=METHOD))
    assert all(batch.is_shared() for batch in batches)
    assert [batch[:, 7].tolist() for batch in batches] == [
        [0.0, 1.0, 2.0, 3.0],
        [4.0, 5.0, 6.0, 7.0],
        [8.0, 9.0, 10.0, 11.0],
    ]
    small = next(iter(DataLoader(Numbers(), 4, num_workers=1, multiprocessing_context=METHOD)))["x"]
    small += 1
    assert not small.is_shared()
    assert small[0, 0, 0] == 1


# --- workers: seeds, order, errors, deaths, ends --------------------------------------------------


def test_worker_seeds_are_distinct_and_reproducible():
    seen = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        seeds, pids = zip(
            *[
                (seed[0].item(), pid[0].item())
                for seed, pid in DataLoader(
                    Seeds(), 1, num_workers=3, generator=generator, multiprocessing_context=METHOD
                )
            ],
            strict=True,
        )
        assert len(set(seeds)) == len(set(pids)) == 3
        assert os.getpid() not in pids
        assert all(pids[i] == pids[i % 3] for i in range(len(pids)))
        seen.append(seeds)
    assert seen[0] == seen[1]


def set_seed(base, worker):
    torch.manual_seed(base + worker)


def fail(worker):
    raise ZeroDivisionError("in init")


def test_worker_init_fn():
    loader = DataLoader(
        Seeds(),
        1,
        num_workers=2,
        worker_init_fn=partial(set_seed, 100),
        multiprocessing_context=METHOD,
    )
    assert [seed.item() for seed, _ in loader][:4] == [100, 101, 100, 101]
    with pytest.raises(
        ZeroDivisionError,
        match="Caught ZeroDivisionError in DataLoader worker process 0(?s:.*)in init",
    ):
        list(
            DataLoader(Seeds(), num_workers=1, worker_init_fn=fail, multiprocessing_context=METHOD)
        )


class Uneven(Numbers):
    def __getitem__(self, i):
        time.sleep(0.05 if i % 2 == 0 else 0)
        return i


def test_order_is_kept_when_one_worker_is_slow():
    assert [
        b.item() for b in DataLoader(Uneven(11), num_workers=2, multiprocessing_context=METHOD)
    ] == list(range(11))


def local_error():
    class LocalError(Exception):
        pass

    return LocalError("from a function")


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="an object with a local class cannot be sent to a spawned worker",
)
@pytest.mark.parametrize(
    "error, kind, said",
    [
        (KeyError("lost"), KeyError, "KeyError: 'lost'"),
        (ValueError("x"), ValueError, "ValueError: x"),
        (OddError("1", "2"), RuntimeError, "OddError: 1"),
        (DoubledError("1"), DoubledError, "DoubledError: "),
        (local_error(), RuntimeError, "from a function"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), RuntimeError, "why"),
    ],
    ids=repr,
)
def test_an_error_in_a_worker_comes_with_its_type_index_and_traceback(error, kind, said):
    with pytest.raises(kind) as caught:
        list(DataLoader(Fails(error), 4, num_workers=2, multiprocessing_context="fork"))
    text = str(caught.value)
    assert (
        f"Caught {type(error).__name__} in DataLoader worker process 1.\nOriginal Traceback" in text
    )
    assert said in text
    assert "at sample 13" in text
    assert "raise self.error" in text


def test_an_error_here_bears_a_note():
    with pytest.raises(KeyError, match="lost") as caught:
        list(DataLoader(Fails(), 4))
    assert caught.value.__notes__ == ["DataLoader: this happened at sample 13"]
    ragged = [torch.zeros(1 + (k == 5)) for k in range(8)]
    with pytest.raises(RuntimeError, match=r"\[1\] at entry 0 and \[2\] at entry 1") as caught:
        list(DataLoader(ragged, 4))
    assert caught.value.__notes__ == ["DataLoader: this happened at samples [4, 5, 6, 7]"]


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_error_one_can_go_on(workers):
    options = {"num_workers": workers, "multiprocessing_context": METHOD} if workers else {}
    seen = []
    for kind in (DataLoader, theirs.DataLoader):
        batches, got = iter(kind(Fails(), 5, **options)), []
        while True:
            try:
                got.append(next(batches).tolist())
            except KeyError:
                got.append("error")
            except StopIteration:
                break
        seen.append(got)
    del batches
    gc.collect()  # PyTorch's iterator and its error hold each other
    assert seen[0] == seen[1]
    assert seen[0][2] == "error"
    assert len(seen[0]) == 5


class Stops(Numbers):
    def __getitem__(self, i):
        return next(iter([])) if i == 13 else i


def test_a_stop_iteration_in_a_data_set_is_an_error():
    for options in ({}, {"num_workers": 2, "multiprocessing_context": METHOD}):
        with pytest.raises(RuntimeError, match="the dataset raised StopIteration at sample 13"):
            list(DataLoader(Stops(), 4, **options))


class Info(Numbers):
    def __getitem__(self, i):
        info = theirs.get_worker_info()
        return info.id, info.num_workers, info.seed, len(info.dataset), torch.get_num_threads()


def test_the_worker_info_is_torchs():
    one, two = (
        [
            [part.tolist() for part in batch]
            for batch in kind(
                Info(),
                4,
                num_workers=2,
                multiprocessing_context=METHOD,
                generator=torch.Generator().manual_seed(1),
            )
        ]
        for kind in (DataLoader, theirs.DataLoader)
    )
    assert one == two


def test_a_death_ends_the_pass():
    batches = iter(DataLoader(Dies(5), 4, num_workers=2, multiprocessing_context=METHOD))
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        for _ in range(9):
            next(batches)
    assert list(batches) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_after_an_interrupt_the_next_epoch_is_whole():
    def interrupt(*_):
        raise KeyboardInterrupt

    loader = DataLoader(
        range(400), 2, num_workers=2, persistent_workers=True, multiprocessing_context=METHOD
    )
    whole, before, interrupted = (
        [batch.tolist() for batch in loader],
        signal.signal(signal.SIGALRM, interrupt),
        0,
    )
    # An interrupt within a callback of the collector is not raised: it would be lost, with a
    # warning.
    gc.disable()
    try:
        for k in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.0005 * k)
                list(loader)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert [batch.tolist() for batch in loader] == whole
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 5


DEATHS = [5, 1] if sys.platform == "win32" else [5, -signal.SIGKILL]


@pytest.mark.parametrize("how", DEATHS)
@pytest.mark.parametrize("persistent", [False, True])
def test_a_dying_worker_is_reported(how, persistent):
    loader = DataLoader(
        Dies(how), 4, num_workers=2, persistent_workers=persistent, multiprocessing_context=METHOD
    )
    pids = set()
    for _ in range(2):  # persistent ones are started anew
        with pytest.raises(
            RuntimeError,
            match=(
                r"DataLoader worker 1 \(pid\(s\) \d+\) exited unexpectedly, "
                rf"with exit code {how}\b"
            ),
        ) as caught:
            list(loader)
        pids.add(str(caught.value).split("pid(s) ")[1].split(")")[0])
    assert len(pids) == 2
    assert seconds_until(lambda: not multiprocessing.active_children()) < 5


class LargeThenDies(Large):
    def __getitem__(self, i):
        return torch.zeros(200_000) if i == 0 else os._exit(5)


def test_a_death_before_a_large_batch_was_taken_is_reported():
    batches = iter(DataLoader(LargeThenDies(), num_workers=1, multiprocessing_context=METHOD))
    # Its first answer is in the pipe; the memory went with it.
    assert seconds_until(lambda: not multiprocessing.active_children()) < 10
    with pytest.raises(RuntimeError, match="exited unexpectedly, with exit code 5"):
        next(batches)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends open files")
def test_too_many_open_files_end_the_pass_with_torchs_words():
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    batches, kept = (
        iter(DataLoader(Large(500), 4, num_workers=2, multiprocessing_context=METHOD)),
        [],
    )
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, before[1])
        )
        with pytest.raises((OSError, RuntimeError), match="Too many open files|ancdata"):
            kept.extend(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert 5 < len(kept) < 25
    assert not multiprocessing.active_children()
    assert list(batches) == []
    # They are not kept, so there may be any number of them.
    assert (
        len(
            [
                batch[0, 0]
                for batch in DataLoader(
                    Large(500), 4, num_workers=2, multiprocessing_context=METHOD
                )
            ]
        )
        == 125
    )


def test_a_worker_that_hangs_runs_into_the_timeout():
    loader = DataLoader(Sleeps(4, 60), num_workers=1, timeout=0.3, multiprocessing_context=METHOD)
    with pytest.raises(
        RuntimeError, match="DataLoader timed out after 0.3 seconds waiting for worker 0"
    ):
        list(loader)
    assert seconds_until(lambda: not multiprocessing.active_children()) < 5


def test_leaving_early_leaves_nothing_behind():
    for _ in DataLoader(Sleeps(), 4, num_workers=2, multiprocessing_context=METHOD):
        break
    gc.collect()
    assert not multiprocessing.active_children()


def test_an_exhausted_or_failed_pass_leaves_nothing_behind_at_once():
    options = dict(num_workers=2, multiprocessing_context=METHOD)
    gc.disable()
    try:
        done = iter(DataLoader(range(5), **options))
        assert len(list(done)) == 5
        assert not multiprocessing.active_children()
        with contextlib.suppress(KeyError):
            list(DataLoader(Fails(), **options))
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_stopped_worker_is_ended():
    loader = DataLoader(
        range(40), num_workers=1, persistent_workers=True, multiprocessing_context=METHOD
    )
    list(loader)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGSTOP)
    del loader
    gc.collect()
    assert not multiprocessing.active_children()


def test_a_long_sample_does_not_keep_its_worker_alive():
    batches = iter(
        DataLoader(
            [0.0, 30.0, 30.0], num_workers=2, collate_fn=sleep_for, multiprocessing_context=METHOD
        )
    )
    next(batches)
    start = time.monotonic()
    del batches
    gc.collect()
    assert time.monotonic() - start < 5
    assert not multiprocessing.active_children()


def sleep_for(seconds):
    time.sleep(seconds[0])


def test_persistent_workers_stay_and_serve_one_pass_at_a_time():
    loader = DataLoader(
        Sleeps(12, 0), 2, num_workers=2, persistent_workers=True, multiprocessing_context=METHOD
    )
    pids = [{pid for batch in loader for pid in batch.tolist()} for _ in range(2)]
    assert pids[0] == pids[1]
    assert len(pids[0]) == 2
    loader = DataLoader(
        range(12), 2, num_workers=2, persistent_workers=True, multiprocessing_context=METHOD
    )
    first = iter(loader)
    next(first)
    # What the first pass left over is dropped.
    assert [batch.tolist() for batch in loader] == [[i, i + 1] for i in range(0, 12, 2)]
    with pytest.raises(RuntimeError, match="another pass over it has begun"):
        next(first)
    del loader, first
    gc.collect()
    assert not multiprocessing.active_children()


def test_two_passes_at_once_without_persistent_workers():
    loader = DataLoader(range(7), 2, num_workers=1, multiprocessing_context=METHOD)
    assert [(a.tolist(), b.tolist()) for a, b in zip(loader, loader, strict=True)] == [
        (b.tolist(), b.tolist()) for b in DataLoader(range(7), 2)
    ]


def test_long_messages_in_both_directions_do_not_block():
    options = dict(batch_sampler=[list(range(23)) * 20_000] * 6, collate_fn=long_text)
    # All are asked for at once.
    got = list(
        DataLoader(
            range(23),
            num_workers=2,
            prefetch_factor=3,
            multiprocessing_context=METHOD,
            timeout=60,
            **options,
        )
    )
    assert got == list(DataLoader(range(23), **options))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_fork_of_the_owner_does_not_end_the_workers():
    loader = DataLoader(
        range(40), num_workers=1, persistent_workers=True, multiprocessing_context=METHOD
    )
    list(loader)
    child = multiprocessing.get_context("fork").Process(target=loader._workers.close)
    child.start()
    child.join()
    assert len(list(loader)) == 40


def report(loader, pipe):
    pipe.send(sorted({pid.item() for pid in loader}))


@pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux only")
def test_a_fork_of_the_owner_starts_workers_of_its_own():
    loader = DataLoader(
        Sleeps(8, 0), num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    pids, (ours, other) = sorted({pid.item() for pid in loader}), multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=report, args=(loader, other))
    child.start()
    assert ours.poll(20), "the fork waits for workers that answer another process"
    in_the_fork = ours.recv()
    child.join()
    assert child.exitcode == 0
    assert len(in_the_fork) == 2
    assert not set(in_the_fork) & set(pids)
    assert sorted({pid.item() for pid in loader}) == pids  # and the owner's are as they were


def test_what_cannot_be_found_by_a_spawned_worker_is_said():
    unknown = type("Unknown", (Numbers,), {"__module__": "__main__"})
    sys.modules["__main__"].Unknown = unknown
    with pytest.raises(
        AttributeError,
        match=(
            "Caught AttributeError in DataLoader worker process 0(?s:.*)Can't get attribute "
            "'Unknown'"
        ),
    ):
        list(DataLoader(unknown(), num_workers=1, multiprocessing_context="spawn"))
    del sys.modules["__main__"].Unknown


def test_what_cannot_be_sent_is_said_before_a_process_starts():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        iter(
            DataLoader(
                range(3),
                num_workers=2,
                collate_fn=lambda samples: samples,
                multiprocessing_context="spawn",
            )
        )
    assert not multiprocessing.active_children()


SCRIPT = """
import os, signal, sys, threading, time
from fromfound.dataloader import DataLoader
class Sleeps:
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(0.02)
        return os.getpid()
if __name__ == "__main__":
    seen = set()
    for batch in DataLoader(Sleeps(), 2, num_workers=2, multiprocessing_context="{method}"):
        seen |= set(batch.tolist())
        if len(seen) == 2:
            helper = os.fork() if "{helper}" else 0
            if "{helper}" and not helper:
                time.sleep(60)
            print(*seen, helper, flush=True)
            seen.add(0)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
        return (
            "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if Path("/proc").exists()
            else True
        )
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("method", [FORK, "spawn"])
@pytest.mark.parametrize(
    "how, helper",
    [(signal.SIGINT, ""), (signal.SIGKILL, "a process that holds the pipes open")],
    ids=["Ctrl-C", "kill -9 with a helper"],
)
def test_no_process_outlives_the_main_one(method, how, helper, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT.replace("{method}", method).replace("{helper}", helper))
    )
    with open(tmp_path / "errors", "w+") as errors:  # no pipe: a helper would hold it open
        process = subprocess.Popen(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            start_new_session=True,
        )
        *pids, other = [int(pid) for pid in process.stdout.readline().split()]
        try:
            assert len(pids) == 2
            assert all(alive(pid) for pid in (*pids, *[other] * bool(helper)))
            if how == signal.SIGINT:
                os.killpg(process.pid, how)  # as a terminal does: to all of them
            else:
                process.kill()
            process.wait(20)
            assert seconds_until(lambda: not any(alive(pid) for pid in pids)) < 5
            assert not helper or alive(other)
        finally:
            process.stdout.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        errors.seek(0)
        said = errors.read()
    if how == signal.SIGINT:
        assert said.count("Traceback") == 1
        assert said.rstrip().endswith("KeyboardInterrupt")
    else:
        assert said == ""


STARTING = """
import multiprocessing, sys, time
from fromfound.dataloader import DataLoader
loader = iter(DataLoader(range(4), num_workers=2, worker_init_fn=lambda worker: time.sleep(600),
                         multiprocessing_context="fork"))
time.sleep(0.3)
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
next(loader)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux only")
def test_no_worker_outlives_a_main_process_that_is_killed_while_it_starts():
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING], stdout=subprocess.PIPE, text=True, env=environment
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.wait(20)
    process.stdout.close()
    assert seconds_until(lambda: not any(alive(pid) for pid in pids)) < 5


ORPHANS = """
import multiprocessing, os, threading, time
from fromfound.dataloader import DataLoader
os.register_at_fork(after_in_child=lambda: time.sleep(1.5))  # so late may a worker begin
loader = iter(DataLoader(range(4), num_workers=2, multiprocessing_context="fork"))
print(*[process.pid for process in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux only")
def test_no_worker_outlives_a_main_process_that_is_killed_before_it_begins():
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True, env=environment
    )
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait(20)
    process.stdout.close()
    try:
        assert all(alive(pid) for pid in pids)
        assert seconds_until(lambda: not any(alive(pid) for pid in pids)) < 6
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


# --- the exercises --------------------------------------------------------------------------------


def grown(loader, numbers):
    """The samples of two epochs, with the dataset changed in between."""
    seen = [sorted(number.item() for batch in loader for number in batch)]
    del loader.dataset[:]
    loader.dataset.extend(numbers)
    return [*seen, sorted(number.item() for batch in loader for number in batch), len(loader)]


@pytest.mark.parametrize("numbers", [list(range(7)), [5, 6]], ids=["grown", "shrunk"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_dataset_may_grow_and_shrink(numbers, shuffle):
    mine, reference = (
        grown(kind([0, 1, 2, 3], 2, shuffle=shuffle), numbers)
        for kind in (DataLoader, theirs.DataLoader)
    )
    assert mine == reference == [[0, 1, 2, 3], numbers, -(-len(numbers) // 2)]


@pytest.mark.parametrize(
    "name", ["dataset", "batch_size", "sampler", "batch_sampler", "drop_last", "persistent_workers"]
)
def test_what_is_fixed_at_the_start_cannot_be_set_later(name):
    for kind in (DataLoader, theirs.DataLoader):
        with pytest.raises(ValueError, match=f"{name} attribute should not be set after"):
            setattr(kind(range(4)), name, None)


def test_shuffle_set_later_would_do_nothing():
    with pytest.raises(ValueError, match="shuffle attribute should not be set after"):
        DataLoader(range(4), shuffle=True).shuffle = False


def test_a_generator_set_later_would_change_the_seeds_only():
    with pytest.raises(ValueError, match="generator attribute should not be set after"):
        DataLoader(range(4), shuffle=True).generator = torch.Generator()


def test_what_can_be_set_later_counts():
    loader = DataLoader(range(4), 2)
    loader.collate_fn = sum
    assert list(loader) == [1, 5]
    loader.num_workers, loader.multiprocessing_context = 1, multiprocessing.get_context(METHOD)
    assert list(loader) == [1, 5]


class Locked(Numbers):
    def __init__(self, method):
        context = multiprocessing.get_context(method)
        self.n, self.epoch, self.lock = 4, context.Value("i", 7), context.Lock()

    def __getitem__(self, i):
        with self.lock:
            return i + self.epoch.value


@pytest.mark.parametrize("method", [FORK, "spawn"])
def test_a_dataset_may_hold_a_lock(method):
    loader = DataLoader(Locked(method), 4, num_workers=1, multiprocessing_context=method)
    assert [batch.tolist() for batch in loader] == [[7, 8, 9, 10]]


def test_the_exercise_of_padding_agrees_with_torchs():
    samples = exercises._sentences(2, 5, 1)
    rows, lengths, labels = exercises._padded(samples)
    assert torch.equal(
        rows, torch.nn.utils.rnn.pad_sequence([words for words, _ in samples], batch_first=True)
    )
    assert lengths.tolist() == [2, 5, 1]
    assert labels.tolist() == [1, 2, 3]


def padded(part=None, kind=tuple):
    """Torch's own padding as an answer to exercise 4a.3.

    A part of it may be changed, or its container.
    """

    def pad(samples):
        words, labels = zip(*samples, strict=True)
        parts = [
            torch.nn.utils.rnn.pad_sequence(words, batch_first=True),
            torch.tensor([len(w) for w in words]),
            torch.tensor(labels),
        ]
        return kind([part(p) if part else p for p in parts])

    return pad


def test_padding_of_any_making_is_right_and_of_other_types_is_wrong():
    for answer in (padded(), padded(kind=list)):
        assert exercises.ex_4a_3.judge(answer).passed
    for answer, said in (
        (padded(torch.Tensor.float), "torch.float32, torch.float32, torch.float32"),
        (padded(torch.Tensor.int), "torch.int32"),
        (padded(torch.Tensor.tolist, list), "your parts are lists, not tensors"),
        (
            lambda samples: [p.float() if p.ndim == 2 else p for p in padded()(samples)],
            "your table is float; words are integers",
        ),
    ):
        verdict = exercises.ex_4a_3.judge(answer)
        assert not verdict.passed
        assert said in str(verdict)


def generator_of_batches(sampler, size, drop_last):
    yield from exercises._Batches(sampler, size, drop_last)


def test_the_exercise_of_batches_wants_an_epoch_from_each_loop():
    assert exercises.ex_4a_2.judge(
        lambda sampler, size, drop_last: BatchSampler(sampler, size, drop_last)
    ).passed
    for answer, said in (
        (generator_of_batches, "it is used up"),
        (lambda *case: list(exercises._Batches(*case)), "each epoch has the same order"),
    ):
        assert said in str(exercises.ex_4a_2.judge(answer))


def test_the_exercise_of_a_resumable_sampler_stops_everywhere():
    assert {(n, stop) for n, _, stop in exercises.ex_4a_7.cases} == {
        (n, stop) for n in (1, 4, 5) for stop in range(2 * n + 1)
    }
    for at in range(1, 8):  # a mistake at a single place

        class Once(exercises._Resumable):
            def state_dict(self, at=at):
                wrong = (
                    self.n == 4
                    and self.done == at % 4
                    and self.start.equal(torch.Generator().manual_seed(0).get_state()) == (at < 4)
                )
                return super().state_dict() | ({"done": self.done + 1} if wrong else {})

        assert not exercises.ex_4a_7.judge(Once).passed


def counted(make):
    """A check that compares with nothing.

    Complete, fresh, and each order of three about equally frequent.
    """
    small = make(3, torch.Generator().manual_seed(0))
    orders = [tuple(small) for _ in range(12_000)]
    return (
        all(abs(orders.count(order) / 12_000 - 1 / 6) < 0.012 for order in set(orders))
        and len(set(orders)) == 6
    )


def test_no_counting_finds_what_equality_finds_at_once():
    assert counted(exercises._Shuffle)
    assert counted(exercises._Thrifty)
    assert not counted(exercises._Biased)
    for mutant in (exercises._Thrifty, exercises._Biased):
        ours, torchs = (
            mutant(100, torch.Generator().manual_seed(0)),
            theirs.RandomSampler(range(100), generator=torch.Generator().manual_seed(0)),
        )
        assert [list(ours) for _ in range(2)] != [list(torchs) for _ in range(2)]


@pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux only")
def test_a_worker_whose_standard_output_is_closed_works_on(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    loader = DataLoader(range(4), 2, num_workers=1, multiprocessing_context="fork")
    batches = [batch.tolist() for batch in loader]
    monkeypatch.undo()
    assert batches == [[0, 1], [2, 3]]
