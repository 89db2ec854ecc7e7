"""What the processes of tests/test_distributed.py do.

`python -m tests.distributed_job MODE FOLDER`, started by torchrun for each rank, runs the checks
of a mode, and writes what came out, or the error, into FOLDER/RANK.json. Tensors become lists of
numbers, and are compared exactly.
"""

import contextlib
import copy
import io
import json
import os
import random
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fromfound.callback import Callback, CancelFitException
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
from fromfound.learner import Checkpoint, EarlyStopping, GradientClip, Learner
from fromfound.mixed_precision import MixedPrecision
from fromfound.norm import BatchNorm2d
from fromfound.schedule import LRFinder
from fromfound.training import DataBunch, Metric, accuracy, cross_entropy

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(103, 2, 4, 4, generator=GENERATOR)
Y = (X[:, 0].sum((1, 2)) > 0).long()
PULL = torch.randn(103, 2, 4, 4, generator=GENERATOR)


def net(dropout=0.0, norm=None, seed=3):
    """A small convolutional network."""
    torch.manual_seed(seed)
    middle = norm(6) if norm else nn.Identity()
    parts = [nn.Conv2d(2, 6, 3), middle, nn.ReLU(), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(24, 2))


def learner(*cbs, model=None, bs=16, n=103, n_valid=33, valid_bs=16, **options):
    """A learner with a shuffled training loader."""
    train = DataLoader(TensorDataset(X[:n], Y[:n]), bs, shuffle=True)
    valid = DataLoader(TensorDataset(X[:n_valid], Y[:n_valid]), valid_bs)
    options = {"lr": 0.1, "metrics": [accuracy]} | options
    model = net() if model is None else model
    loss = options.pop("loss_func", cross_entropy)
    return Learner(model, DataBunch(train, valid), loss, cbs=cbs, **options)


def numbers(model):
    """All numbers of a model, as a list."""
    return torch.cat([v.double().flatten() for v in model.state_dict().values()]).tolist()


def outcome(learn, epochs=2, seed=5):
    """Fit, and return what came out."""
    torch.manual_seed(seed)
    learn.fit(epochs)
    recorder = learn.recorder
    return {"weights": numbers(learn.model), "losses": recorder.losses, "history": recorder.history}


# --- compared with one process --------------------------------------------------------------------

FITS = {
    "plain": lambda: learner(Distributed()),
    "last batch of one": lambda: learner(Distributed(), bs=17, n_valid=5, valid_bs=4),
    "clipped": lambda: learner(Distributed(), GradientClip(0.05)),
    "adam": lambda: learner(Distributed(), opt_func=torch.optim.Adam, lr=0.01),
    "bfloat16": lambda: learner(Distributed(), MixedPrecision()),
    "accumulated": lambda: learner(Distributed(accumulate=2), bs=15),
    "no validation": lambda: Learner(
        net(), DataLoader(TensorDataset(X, Y), 16), cross_entropy, lr=0.1, cbs=[Distributed()]
    ),
    "synchronized": lambda: learner(
        Distributed(), model=convert_sync_batchnorm(net(norm=BatchNorm2d))
    ),
    "loader of torch": lambda: Learner(
        net(),
        torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(X, Y), 16, shuffle=True, drop_last=True
        ),
        F.cross_entropy,
        lr=0.1,
        cbs=[Distributed()],
    ),
}


def fits():
    """All of FITS."""
    return {name: outcome(make()) for name, make in FITS.items()}


def normalized(part, pull, momentum=0.1, layer=None):
    """Pass a part of the images through a normalization, forward and backward, twice."""
    layer = SyncBatchNorm(part.shape[1], momentum=momentum) if layer is None else layer
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, part.shape[1]))
    for _ in range(2):
        x = part.detach().clone().requires_grad_()
        out = layer(x)
        out.backward(pull)
    grads = [sum_over_ranks(layer.weight.grad).tolist(), sum_over_ranks(layer.bias.grad).tolist()]
    buffers = [buffer.double().flatten().tolist() for buffer in layer.buffers()]
    return {"out": out.tolist(), "grad": x.grad.tolist(), "grads": grads, "buffers": buffers}


SHAPES = {
    "images": lambda x: 3 * x + 100,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "rows": lambda x: x.flatten(1)[:, :5],
    "sequences": lambda x: x.flatten(2),
    "volumes": lambda x: x[..., None],
}


def norms():
    """Normalize unequal parts of seven images, and an empty one."""
    rank, size = rank_and_size()
    found = {}
    for name, shape in SHAPES.items():
        whole, pull = shape(X[:7]), shape(PULL[:7])
        found[name] = normalized(whole[rank::size], pull[rank::size])
    found["average"] = normalized(X[:7][rank::size], PULL[:7][rank::size], None)
    n = 7 if rank == 0 else 0
    found["empty part"] = normalized(X[:n], PULL[:n])
    return found


def sums():
    """The gradient of a sum over ranks, of an input that isn't contiguous."""
    rank, _ = rank_and_size()
    x = (torch.arange(6.0).view(2, 3).t() * (rank + 1)).requires_grad_()
    total = sum_over_ranks(x)
    (total * (rank + 1)).sum().backward()
    return total.tolist(), x.grad.tolist(), x.tolist()


# --- a fit that leaves nothing behind -------------------------------------------------------------


class Fails(Callback):
    """Raises an error in the second step."""

    def after_loss(self):
        """Fail."""
        if self.learn.training and self.learn.step == 1:
            raise OverflowError("on purpose")


class Model(Callback):
    """Notes the class of the model at each event."""

    order = -50  # before `Distributed` itself

    def before_fit(self):
        """Begin with nothing."""
        self.seen = set()

    def note(self):
        """Note."""
        self.seen.add(type(self.learn.model).__name__)

    before_epoch = before_batch = after_pred = after_loss = before_backward = note
    before_step = after_batch = after_epoch = note


def behind():
    """What is left after a fit, a failed one, and a second one with the same callbacks."""
    found = {}
    for name, more in {"fit": [], "failed": [Fails()]}.items():
        model = Model()
        learn = learner(Distributed(), model, *more, default_cbs=False)
        data, plain = learn.data, learn.model
        stdout = sys.stdout
        with contextlib.suppress(OverflowError):
            learn.fit(1)
        rank, _ = rank_and_size()
        if rank == 0:  # nobody else takes part: a hook that was left would wait for them
            plain(X[:4]).sum().backward()
        found[name] = {
            "data": learn.data is data,
            "model": learn.model is plain and isinstance(plain, nn.Sequential),
            "stdout": sys.stdout is stdout,
            "seen": sorted(model.seen),
            "random": [torch.rand(1).item(), random.random(), np.random.rand()],
            "hooks": sum(len(m._forward_pre_hooks) for m in plain.modules()),
        }
        dist.barrier()
    return found


def twice():
    """Two fits with the same callback, and one epoch of other data in between."""
    learn = learner(Distributed())
    first = outcome(learn, 1)
    second = outcome(learn, 1)
    return [first["losses"] != second["losses"], numbers(learn.model)]


def printed():
    """What each rank prints in a fit that ends early."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        learner(Distributed(), EarlyStopping(patience=1, min_delta=9.0)).fit(9)
    return text.getvalue()


def drawn():
    """The random numbers that a rank draws in a fit; those of the second fit differ."""

    class Draws(Callback):
        def before_fit(self):
            """Begin with nothing."""
            self.numbers = []

        def after_pred(self):
            """Draw."""
            self.numbers.append(torch.rand(1).item())

    draws = Draws()
    torch.manual_seed(1)
    learner(Distributed(), draws, default_cbs=False).fit(1)
    return draws.numbers


def overflow():
    """A batch of which one rank's part overflows in float16: do all ranks skip it?"""
    mixed = MixedPrecision(torch.float16, init_scale=2.0**8)

    class Spoils(Callback):
        def before_batch(self):
            """Spoil the batch."""
            if rank_and_size()[0] == 1 and self.learn.step == 2 and self.learn.training:
                self.learn.xb = (self.learn.xb[0] * 1e4,)

    learn = learner(Distributed(), mixed, Spoils(), default_cbs=False)
    learn.fit(1)
    return mixed.skipped, mixed.scaler.scale, numbers(learn.model)


def sends(accumulate):
    """How many buckets are sent in an epoch of seven batches."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    sent = []

    def counted(state, bucket):
        sent.append(bucket.index())
        return default_hooks.allreduce_hook(None, bucket)

    class Counts(Callback):
        def before_epoch(self):
            """Act."""
            distributed._ddp.register_comm_hook(None, counted)

    distributed = Distributed(accumulate=accumulate)
    learner(distributed, Counts(), default_cbs=False).fit(1)
    return len(sent)


def counts():
    """Sends for steps of one, three and nine batches."""
    return [sends(n) for n in (1, 3, 9)]


def within(folder):
    """What `validate` and `get_preds` say within a fit, and after it."""

    class Asks(Callback):
        order = 10

        def after_epoch(self):
            """Ask."""
            before = self.learn.results
            self.said = self.learn.validate()["accuracy"], len(self.learn.get_preds()[0])
            self.changed = self.learn.results != before

    asks = Asks()
    (folder / "asked").mkdir(exist_ok=True)
    checkpoint = Checkpoint(folder / "asked" / "within")
    options = {"n_valid": 5, "valid_bs": 4, "default_cbs": False}  # a part of a batch is empty
    learn = learner(Distributed(), asks, checkpoint, **options)
    learn.fit(3)
    return asks.said, learn.validate()["accuracy"], len(learn.get_preds()[0]), asks.changed


def again():
    """A second fit after one that has ended within an epoch, with running statistics."""

    class Ends(Callback):
        def after_batch(self):
            """Act."""
            if self.learn.training and self.learn.step == 3:
                raise CancelFitException

    learn = learner(Distributed(), model=net(norm=BatchNorm2d), default_cbs=False)
    learn.fit(1, cbs=[Ends()])
    learn.fit(1)
    return numbers(learn.model)


# --- refusals -------------------------------------------------------------------------------------


class Count(Metric):
    """A metric that isn't a mean."""

    def __init__(self):
        super().__init__(accuracy, "count")

    def compute(self):
        """Add up."""
        return float(sum(self.sizes))


class Twofold(nn.Module):
    """A network with a layer that it doesn't use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.used = net()
        self.idle = nn.Linear(3, 4)

    def forward(self, x):
        """Compute."""
        return self.used(x)


class LearnedLoss(nn.Module):
    """A loss with a parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pred, target):
        """Compute."""
        return cross_entropy(pred * self.scale, target)


class Exchanges(Callback):
    """Puts another training loader into the place of the first."""

    def before_epoch(self):
        """Act."""
        self.learn.data.train_dl = DataLoader(TensorDataset(X, Y), 16)


class Nests(Callback):
    """Begins another fit with the same callback."""

    def before_epoch(self):
        """Act."""
        learner(*[cb for cb in self.learn.cbs if isinstance(cb, Distributed)]).fit(1)


def dealt():
    """A loader that deals out the samples by itself."""
    data = torch.utils.data.TensorDataset(X, Y)
    sampler = torch.utils.data.DistributedSampler(data)
    return torch.utils.data.DataLoader(data, 16, sampler=sampler)


def refusals():
    """The errors of fits that can't go well, the same on all ranks."""
    rank, _ = rank_and_size()
    made = {
        "weights": lambda: learner(Distributed(), model=net(seed=rank)),
        "shape": lambda: learner(Distributed(), model=net(norm=[None, BatchNorm2d][rank])),
        "samples": lambda: learner(Distributed(), n=100 + rank),
        "batches": lambda: learner(Distributed(), bs=16 + 8 * rank),
        "metric": lambda: learner(Distributed(), metrics=[Count()]),
        "list": lambda: Learner(net(), [(X, Y)], cross_entropy, cbs=[Distributed()]),
        "loss": lambda: learner(Distributed(), loss_func=LearnedLoss()),
        "float16": lambda: learner(Distributed(accumulate=2), MixedPrecision(torch.float16)),
        "nested": lambda: learner(Distributed(), Nests()),
        "unused": lambda: learner(Distributed(), model=Twofold()),
        "exchanged": lambda: learner(Distributed(), Exchanges()),
        "finder": lambda: learner(Distributed(), LRFinder()),
        "two": lambda: learner(Distributed(), Distributed()),
        "lazy": lambda: learner(Distributed(), model=nn.Sequential(nn.Flatten(), nn.LazyLinear(2))),
        "rate": lambda: learner(Distributed(), lr=0.1 * (1 + rank)),
        "accumulate": lambda: learner(Distributed(accumulate=1 + rank)),
        "metrics": lambda: learner(Distributed(), metrics=[accuracy][rank:]),
        "sampler": lambda: Learner(net(), dealt(), cross_entropy, cbs=[Distributed()]),
    }
    found = {}
    for name, make in made.items():
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                make().fit(1)
                found[name] = "nothing"
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            learner(Distributed()).fit(1 + rank)
        except ValueError as error:
            found["epochs"] = str(error)
        try:
            with process_group():
                pass
        except RuntimeError as error:
            found["group"] = str(error)
    learn = learner(Distributed(find_unused_parameters=True), model=Twofold(), default_cbs=False)
    learn.fit(1)
    found["allowed"] = numbers(learn.model)
    return found


# --- checkpoints ----------------------------------------------------------------------------------


class Stops(Callback):
    """Ends the fit before an epoch."""

    order = 1

    def __init__(self, epoch):
        self.at_epoch = epoch

    def before_epoch(self):
        """Act."""
        if self.learn.epoch == self.at_epoch:
            raise CancelFitException


def resumable(file, *more, **options):
    """A learner with all that may differ from rank to rank, or that has a memory."""
    model = convert_sync_batchnorm(net(0.3, nn.BatchNorm2d))
    cbs = [Checkpoint(file), Distributed(), EarlyStopping(patience=9), *more]
    options = {"opt_func": torch.optim.Adam, "lr": 0.01} | options
    return learner(*cbs, model=model, **options)


def resumes(folder):
    """Four epochs at once, and two and two; what the second half prints."""
    torch.manual_seed(5)
    whole = resumable(folder / "whole")
    whole.fit(4)
    torch.manual_seed(5)
    resumable(folder / "half", Stops(2)).fit(4)
    torch.manual_seed(999)  # what follows has to come from the file
    again = resumable(folder / "half")
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        again.fit(4)
    files = sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".json"
    )
    same = numbers(whole.model) == numbers(again.model)
    histories = whole.recorder.history == again.recorder.history
    return {
        "same": same,
        "history": histories,
        "weights": numbers(again.model),
        "random": torch.rand(1).item(),
        "said": text.getvalue(),
        "files": files,
        "losses": len(again.recorder.losses),
    }


class Dies(Callback):
    """Kills rank 1 in the third epoch, unless it did so before."""

    def __init__(self, folder):
        self.mark = folder / "died"

    def after_batch(self):
        """Die."""
        learn = self.learn
        if rank_and_size()[0] == 1 and learn.epoch == 2 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder):
    """A fit in which rank 1 is killed, at the first time."""
    torch.manual_seed(5)
    learn = resumable(folder / "half", Dies(folder))
    learn.fit(4)
    return numbers(learn.model)


def timed_out():
    """A collective from which rank 1 stays away."""
    group = dist.new_group(timeout=timedelta(seconds=1))
    if rank_and_size()[0] == 0:
        try:
            dist.all_reduce(torch.ones(1), group=group)
        except RuntimeError as error:
            return type(error).__name__
    return "went on"


# --- the job --------------------------------------------------------------------------------------


def checks(mode, folder):
    """The functions of a mode, by name."""
    if mode == "killed":
        return {"killed": lambda: killed(folder)}
    if mode == "hosts":
        return {"fit": lambda: outcome(FITS["plain"]()), "rank": rank_and_size}
    named = fits, norms, sums, behind, twice, printed, drawn, overflow, counts, again, refusals
    return {f.__name__: f for f in named} | {
        "within": lambda: within(folder),
        "resumes": lambda: resumes(folder),
        "timed_out": timed_out,
    }


def main(mode, folder):
    """Run the checks of a mode and write what came out."""
    torch.set_num_threads(1)
    found = {}
    with process_group(timeout=60) as (rank, size):
        assert size == 2
        assert shard([1], rank, size)[0] == [1]
        for name, check in checks(mode, folder).items():
            try:
                found[name] = copy.deepcopy(check())
            except Exception:
                found[name] = {"error": traceback.format_exc()}
            (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
            dist.barrier()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
