"""Chapter 10d: two processes on this machine, beside one, and what ends when one of them dies.

tests/distributed_job.py is what the processes do. One start by torchrun serves most tests.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fromfound.callback import Callback, CancelBatchException
from fromfound.check import same_as
from fromfound.dataloader import DataLoader, TensorDataset
from fromfound.distributed import (
    Distributed,
    SyncBatchNorm,
    convert_sync_batchnorm,
    process_group,
    rank_and_size,
    shard,
    sum_over_ranks,
)
from fromfound.experiments import distributed as experiments
from fromfound.learner import Checkpoint, Learner
from fromfound.norm import BatchNorm2d, RunningBatchNorm2d
from fromfound.training import cross_entropy
from tests import distributed_job as job
from tests.distributed_job import FITS, PULL, SHAPES, X, Y, learner, net, numbers, outcome
from tests.press.chapters import ROOT

TORCHRUN = [sys.executable, "-W", "error", "-m", "torch.distributed.run"]
OPTIONS = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def torchrun(mode, folder, *options, before=()):
    """Start the job on two processes; return the process, its output in FOLDER/log."""
    options = options or ("--standalone", "--nproc-per-node=2")
    command = [*before, *TORCHRUN, *options, "-m", "tests.distributed_job", mode, str(folder)]
    scratch = folder.with_name(f"{folder.name}-scratch")  # torchrun leaves folders there
    scratch.mkdir(exist_ok=True)
    options = OPTIONS | {"TMPDIR": str(scratch)}
    with open(folder / f"log{len(os.listdir(folder))}", "w", encoding="utf-8") as log:
        return subprocess.Popen(command, cwd=ROOT, env=options, stdout=log, stderr=log)


def said(folder):
    """What the processes have written to their logs."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("log*")))


def answers(folder):
    """What the two ranks have found."""
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


def waited(process, seconds=300):
    """Wait for a process, or end it and fail."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What both ranks found in one start of all checks."""
    folder = tmp_path_factory.mktemp("job")
    code = waited(torchrun("checks", folder))
    assert code == 0, said(folder)[-3000:]
    assert "Warning" not in said(folder)
    return answers(folder)


def found(both, name):
    """What a check found on each rank."""
    for rank in both:
        if isinstance(rank[name], dict) and "error" in rank[name]:
            raise AssertionError(rank[name]["error"])
    return [rank[name] for rank in both]


def close(a, b, tol=1e-5):
    """Compare lists of numbers."""
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=tol, atol=tol)


# --- dealing out ----------------------------------------------------------------------------------


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 9))
@example([7], 3)
def test_each_entry_counts_once(batch, size):
    given_ = list(batch)
    parts = [shard(batch, rank, size) for rank in range(size)]
    assert batch == given_
    assert sorted(k for part, count in parts for k in part[:count]) == sorted(batch)
    counts = [count for _, count in parts]
    assert max(counts) - min(counts) <= 1
    for part, count in parts:
        assert len(part) == max(count, 1)
        assert part[0] in batch


@pytest.mark.parametrize(
    "batch, rank, size, says",
    [
        ([], 0, 2, "got an empty one"),
        ([1], 2, 2, "a rank from 0 to 1, got 2"),
        ([1], -1, 2, "got -1"),
        ([1], 0, 0, "got 0"),
    ],
)
def test_what_shard_refuses(batch, rank, size, says):
    with pytest.raises(ValueError, match=says):
        shard(batch, rank, size)


# --- alone ----------------------------------------------------------------------------------------


def test_alone_there_is_one_rank():
    with process_group() as group:
        assert group == (0, 1)
        assert not dist.is_initialized()
    assert rank_and_size() == (0, 1)


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_timeout_that_is_none(timeout):
    with pytest.raises(ValueError, match="timeout above 0"), process_group(timeout):
        pass


def test_alone_a_sum_is_a_copy_with_a_gradient():
    x = torch.randn(3, requires_grad=True)
    total = sum_over_ranks(x)
    pull = torch.randn(3)
    total.backward(pull)
    assert torch.equal(x.grad, pull)
    with torch.no_grad():
        total += 1
    assert torch.equal(total, x + 1)


def test_alone_the_callback_does_nothing(capsys):
    plain = learner()
    with_it = learner(Distributed())
    one, other = outcome(plain), outcome(with_it)
    assert one == other
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == out[3:]


def test_alone_accumulated_batches_are_one_batch():
    def fit(bs, *cbs):
        dl = DataLoader(TensorDataset(X, Y), bs)
        learn = Learner(net(), dl, cross_entropy, lr=0.1, cbs=cbs, default_cbs=False)
        learn.fit(2)
        return numbers(learn.model)

    close(fit(14), fit(7, Distributed(accumulate=2)))
    close(fit(40), fit(8, Distributed(accumulate=5)))


def test_gradients_of_a_step_that_was_left_are_forgotten():
    norms = {}

    class Leaves(Callback):
        def after_loss(self):
            if self.learn.training and self.learn.step == 1:
                raise CancelBatchException

    class Notes(Callback):
        def before_step(self):
            norms[name].append([p.grad.norm().item() for p in self.learn.model.parameters()])

    for name, leaves in (("all", []), ("left", [Leaves()])):
        norms[name] = []
        learn = job.learner(Distributed(accumulate=2), Notes(), *leaves, n=64, lr=0.0)
        torch.manual_seed(0)
        learn.fit(1)
    assert norms["left"] == norms["all"][1:]


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True, "2", None])
def test_what_accumulate_refuses(accumulate):
    with pytest.raises(ValueError, match="Distributed expected accumulate of 1 or more"):
        Distributed(accumulate=accumulate)


def test_torchrun_without_a_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    learn = learner(Distributed(), default_cbs=False)
    before = learn.data
    with pytest.raises(RuntimeError, match="torchrun has started 2 processes.*process_group"):
        learn.fit(1)
    assert learn.data is before


def test_a_checkpoint_of_one_process_is_as_ever(tmp_path, capsys):
    learner(Checkpoint(tmp_path / "one"), default_cbs=False).fit(1)
    learner(Checkpoint(tmp_path / "one"), Distributed(), default_cbs=False).fit(2)
    assert "1 of 2 epochs were done before" in capsys.readouterr().out


# --- batch normalization --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.BatchNorm1d(3), (5, 3)),
        (nn.BatchNorm1d(3, affine=False), (5, 3, 4)),
        (nn.BatchNorm2d(3, momentum=None), (5, 3, 4, 2)),
        (nn.BatchNorm2d(3, eps=1e-2, track_running_stats=False), (2, 3, 4, 2)),
        (nn.BatchNorm3d(3, momentum=0.3), (2, 3, 4, 2, 2)),
        (BatchNorm2d(3, bias=False), (5, 3, 4, 2)),
    ],
    ids=["rows", "sequences", "images", "no statistics", "volumes", "ours"],
)
def test_alone_it_is_batch_normalization(layer, shape):
    mine = convert_sync_batchnorm(nn.Sequential(type(layer)(3)))[0]
    assert type(mine) is SyncBatchNorm
    mine = convert_sync_batchnorm(nn.Sequential(layer))[0]
    reference = nn.Sequential(layer)[0]
    assert mine.weight is reference.weight
    assert list(mine.state_dict()) == list(reference.state_dict())
    if isinstance(layer, BatchNorm2d):
        fresh = BatchNorm2d(3, bias=False)
        same_as(SyncBatchNorm(3, bias=False), fresh, torch.randn(shape))
        return
    options = {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}
    options["track_running_stats"] = layer.track_running_stats
    same_as(SyncBatchNorm(3, **options), type(layer)(3, **options), torch.randn(shape))


def test_an_empty_batch_has_its_shape():
    layer = SyncBatchNorm(3).eval()
    nn.init.normal_(layer.weight)
    assert layer(torch.empty(0, 3, 4, 5)).shape == (0, 3, 4, 5)
    assert layer(torch.empty(0, 3)).shape == (0, 3)


def test_what_is_converted():
    shared = nn.BatchNorm2d(4)
    nn.init.normal_(shared.weight)
    inner = nn.Sequential(shared, nn.GroupNorm(2, 4), RunningBatchNorm2d(4), nn.InstanceNorm2d(4))
    model = nn.Sequential(nn.Conv2d(2, 4, 1), shared, inner, nn.BatchNorm1d(3)).eval()
    params, buffers = list(model.parameters()), list(model.buffers())
    state = list(model.state_dict())
    assert convert_sync_batchnorm(model) is model
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("SyncBatchNorm") == 2
    assert not any(m.training for m in model.modules())
    assert model[1] is model[2][0]
    assert all(map(lambda a, b: a is b, params, model.parameters()))
    assert all(map(lambda a, b: a is b, buffers, model.buffers()))
    assert list(model.state_dict()) == state
    assert "num_features=4" in repr(model[1])
    converted = convert_sync_batchnorm(shared)
    assert type(converted) is SyncBatchNorm
    assert convert_sync_batchnorm(converted) is converted


def test_a_lazy_layer_is_refused():
    with pytest.raises(ValueError, match="LazyBatchNorm2d: call the model on a batch"):
        convert_sync_batchnorm(nn.Sequential(nn.LazyBatchNorm2d()))


@pytest.mark.parametrize(
    "x, error, says",
    [
        (torch.randn(4, 2, 3, 3), RuntimeError, r"SyncBatchNorm expected \(N, 3, H, W\)"),
        (torch.randn(4), ValueError, r"SyncBatchNorm expected \(N, 3, ...\)"),
        (torch.ones(4, 3).long(), TypeError, "floating-point"),
        (torch.randn(1, 3), ValueError, "more than 1 value"),
    ],
    ids=["channels", "one dimension", "whole numbers", "one value"],
)
def test_what_it_refuses(x, error, says):
    layer = SyncBatchNorm(3)
    nn.init.normal_(layer.weight)
    with pytest.raises(error, match=says):
        layer(x)


def whole(name):
    """What one process finds for a check of `norms`."""
    if name == "average":
        images, pull, momentum = X[:7], PULL[:7], None
        layer = nn.BatchNorm2d(2, momentum=momentum)
    else:
        shape = SHAPES.get(name, lambda x: x)
        images, pull = shape(X[:7]), shape(PULL[:7])
        kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        layer = kinds[images.ndim](images.shape[1])
    nn.init.normal_(layer.weight)  # the check sets it to other numbers
    return job.normalized(images, pull, layer=layer)


@pytest.mark.parametrize("name", [*SHAPES, "average", "empty part"])
def test_two_parts_are_normalized_as_one(both, name):
    parts = [rank[name] for rank in found(both, "norms")]
    expected = whole(name)
    tol = 1e-4 if name == "images" else 1e-5  # that one has an offset of 100
    for key in ("out", "grad"):
        if name == "empty part":
            close(parts[0][key], expected[key], tol)
            assert parts[1][key] == []
            continue
        for rank in range(2):
            close(parts[rank][key], expected[key][rank::2], tol)
    for part in parts:
        for key in ("grads", "buffers"):
            for mine, theirs in zip(part[key], expected[key], strict=True):
                close(mine, theirs, 1e-4)
    assert parts[0]["buffers"] == parts[1]["buffers"]


def test_a_sum_and_its_gradient(both):
    for rank, (total, grad, x) in enumerate(found(both, "sums")):
        plain = torch.arange(6.0).view(2, 3).t()
        assert total == (3 * plain).tolist()
        assert grad == [[3, 3]] * 3
        assert x == (plain * (rank + 1)).tolist()


# --- fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(FITS))
def test_two_processes_are_one(both, name):
    first, second = (rank[name] for rank in found(both, "fits"))
    assert first == second  # bitwise: weights, losses and metrics
    alone = outcome(FITS[name]())
    tol = 5e-3 if name == "bfloat16" else 2e-5
    if name != "bfloat16":
        close(first["weights"], alone["weights"], tol)
    close(first["losses"], alone["losses"], tol)
    assert len(first["history"]) == len(alone["history"]) == 2
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert list(mine) == list(theirs)
        assert abs(mine["train_loss"] - theirs["train_loss"]) < tol


def test_metrics_are_over_all_samples(both):
    first, _ = (rank["last batch of one"] for rank in found(both, "fits"))
    alone = outcome(FITS["last batch of one"]())
    for mine, theirs in zip(first["history"], alone["history"], strict=True):
        assert abs(mine["valid_loss"] - theirs["valid_loss"]) < 1e-5
        assert (5 * mine["accuracy"]) == pytest.approx(round(5 * mine["accuracy"]))


def test_nothing_is_left_behind(both):
    first, second = found(both, "behind")
    assert first == second  # random numbers go on alike
    for case in first.values():
        assert case["data"]
        assert case["model"]
        assert case["stdout"]
        assert case["seen"] == ["Sequential"]
        assert case["hooks"] == 0
    assert first["fit"]["random"] != first["failed"]["random"]


def test_a_second_fit(both):
    first, second = found(both, "twice")
    assert first[0]
    assert first == second


def test_rank_0_prints(both):
    first, second = found(both, "printed")
    assert second == ""
    assert first.startswith("EarlyStopping: the best valid_loss")
    assert first.count("\n") == 4


def test_each_rank_draws_numbers_of_its_own(both):
    first, second = found(both, "drawn")
    assert len(first) == len(second)
    assert not set(first) & set(second)


def test_an_overflow_on_one_rank_skips_the_step_on_all(both):
    first, second = found(both, "overflow")
    assert first == second
    assert first[:2] == [1, 2.0**7]
    assert all(map(math.isfinite, first[2]))


def test_only_the_last_batch_of_a_step_is_sent(both):
    assert found(both, "counts") == [[7, 3, 1]] * 2


def test_passes_within_a_fit_and_after_it(both):
    for (within, part), after, all_, changed in found(both, "within"):
        assert within == after
        assert part == 3  # the second rank borrows one
        assert all_ == 5
        assert not changed


def test_a_fit_after_one_that_ended_within_an_epoch(both):
    first, second = found(both, "again")
    assert first == second


SAYS = {
    "weights": "ValueError: Distributed: rank 1 has another 0.weight in its model than rank 0",
    "shape": "ValueError: Distributed: rank 1 has another 1.weight",
    "samples": "another number of training samples than rank 0, 101 and 100",
    "batches": "another number of training batches than rank 0, 5 and 7",
    "metric": "TypeError: Distributed can reduce means over samples, as Metric, got Count",
    "list": "TypeError: Distributed expected a DataLoader",
    "loss": "the loss has parameters",
    "float16": "can't accumulate gradients in float16",
    "nested": "RuntimeError: Distributed: this callback is in another fit",
    "unused": "RuntimeError: Distributed: no gradient reached idle.weight, idle.bias (2 of 6",
    "exchanged": "RuntimeError: Distributed: the training loader was exchanged within the fit",
    "finder": "ValueError: Distributed can't take part in an LRFinder",
    "two": "both own 'distributed'",
    "lazy": "ValueError: Distributed expected a model with shapes",
    "epochs": "another number of epochs than rank 0, 2 and 1",
    "group": "process_group: this process is in a group already",
    "rate": "another setting of the optimizer than rank 0",
    "accumulate": "another accumulate than rank 0, 2 and 1",
    "metrics": "another list of metrics than rank 0, [] and ['accuracy']",
    "sampler": "TypeError: Distributed divides the batches itself, got a DistributedSampler",
}


@pytest.mark.parametrize("name", list(SAYS))
def test_refusals_are_the_same_on_all_ranks(both, name):
    first, second = found(both, "refusals")
    assert SAYS[name] in first[name]
    assert second[name] == first[name]


def test_parameters_without_gradient_may_be_allowed(both):
    first, second = found(both, "refusals")
    assert first["allowed"] == second["allowed"]
    assert len(first["allowed"]) > 100


def test_a_rank_that_stays_away(both):
    first, second = found(both, "timed_out")
    assert first.endswith("Error")
    assert second == "went on"


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_fit_resumes_bitwise(both):
    first, second = found(both, "resumes")
    for rank in (first, second):
        assert rank["same"]
        assert rank["history"]
        assert rank["losses"] == 28
    assert first["weights"] == second["weights"]
    assert first["random"] == second["random"]
    assert "2 of 4 epochs were done before" in first["said"]
    assert second["said"] == ""
    files = [name for name in first["files"] if not name.startswith("log")]
    assert files == ["half", "half.previous", "whole", "whole.previous"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_the_run_resumes(both, tmp_path):
    start = time.monotonic()
    code = waited(torchrun("killed", tmp_path), 120)
    assert code == 1
    assert time.monotonic() - start < 100
    assert "Signal 9 (SIGKILL) received by PID" in said(tmp_path)
    assert (tmp_path / "half").exists()
    assert waited(torchrun("killed", tmp_path), 120) == 0
    first, second = found(answers(tmp_path), "killed")
    assert first == second
    assert first == found(both, "resumes")[0]["weights"]
    assert "2 of 4 epochs were done before" in said(tmp_path)


# --- two hosts ------------------------------------------------------------------------------------


def ip(*words):
    """Call `ip`; skip where it is not allowed."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    """Two network namespaces with a cable between them: their names and interfaces."""
    if shutil.which("ip") is None:
        pytest.skip("there is no program ip, which makes network namespaces")
    pid = os.getpid()
    names = [f"fromfound{pid}{letter}" for letter in "ab"]
    ends = [f"ff{pid}{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True), 1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.13.{i}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", ends[0]], capture_output=True)


@pytest.mark.slow
def test_two_hosts(both, hosts, tmp_path):
    processes = []
    for node, (name, end) in enumerate(hosts):
        inside = ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={end}"]
        meeting = "--master-addr=10.77.13.1", "--master-port=29500"
        options = "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1", *meeting
        processes.append(torchrun("hosts", tmp_path, *options, before=inside))
    assert [waited(process, 120) for process in processes] == [0, 0], said(tmp_path)[-3000:]
    first, second = answers(tmp_path)
    assert first["rank"] == [0, 2]
    assert second["rank"] == [1, 2]
    assert first["fit"] == second["fit"]
    assert first["fit"] == found(both, "fits")[0]["plain"]


# --- experiments ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_experiment_runs(monkeypatch):
    monkeypatch.setattr(experiments, "_measure", {1: 10.0, 2: 15.0}.get)
    values = experiments.scaling(0)
    assert values["efficiency"] == 0.75
