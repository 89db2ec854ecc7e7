"""What a training library adds to each step of a loop written by hand.

The libraries: our Learner, and fastai, Lightning, ignite and skorch where they are installed. The
loop trains an MLP (784-50-10, batches of 64, SGD) on tensors in memory and validates with a loss
and an accuracy averaged over samples. Each library does the same, with its bars, files and logs
switched off, and ours with its default callbacks. One thread, processor time.

The two take turns, epoch by epoch, in one process: whenever a library asks the training loader for
its batches, the loop first trains an epoch of its own, so that what disturbs the machine hits both.
An epoch of the library is compared with the mean of the loop's epochs before and after it. A fit of
13 epochs gives one value, the median of its 12 differences per step. What a fit costs once is in
none of them.

Reported is the median over fits with its 95 % interval (order statistics: no assumption about the
noise). As a control the loop is measured against itself. Ours meets its target if the whole
interval lies below it, and if the interval of the control contains 0: otherwise the measurement
itself is off. `python -m benchmarks.learner` prints JSON; exit code 1 where the target is missed.

The other libraries: `pip install "fromfound[bench]"`. With a CPU build of torch remove the
torchvision that comes with them, or it may prevent their import.
"""

import contextlib
import importlib
import io
import itertools
import json
import logging
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

os.environ["CI"] = "true"  # nobody watches: no progress bars

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fromfound.learner import DataBunch, Learner

MARK = 20  # microseconds a step
STEPS, LR = 100, 0.1
EPOCHS = 13
FITS = {"itself": 41, "ours": 41}  # 6 for a peer: its figure is many times larger
generator = torch.Generator().manual_seed(0)


class Batches:
    """A loader that has its batches ready, with what the libraries ask of one."""

    bs, device, dataset, n = 64, torch.device("cpu"), (), 64 * STEPS

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> object:
        return iter(self.batches)

    def to(self, device: object) -> "Batches":
        """Return itself: the tensors already lie on the CPU."""
        return self


TRAIN, VALID = (
    Batches(
        [
            (
                torch.randn(64, 784, generator=generator),
                torch.randint(10, (64,), generator=generator),
            )
            for _ in range(n)
        ]
    )
    for n in (STEPS, STEPS // 6)
)


class Turns(Batches):
    """The training batches, with an epoch of the loop by hand before each epoch.

    `stamps` gets the processor time before and after each of these.
    """

    def __init__(self) -> None:
        super().__init__(TRAIN.batches)
        self.hand, self.stamps = by_hand(), []

    def __iter__(self) -> object:
        self.stamps.append(time.process_time())
        next(self.hand)
        self.stamps.append(time.process_time())
        return super().__iter__()


def mlp() -> nn.Module:
    """The network, with the same weights every time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    """The fraction of samples whose largest output is the target."""
    return (pred.argmax(1) == target).float().mean()


def by_hand(train: Batches = TRAIN) -> Iterator[nn.Module]:
    """The loop written by hand; yields the model after each epoch."""
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    while True:
        model.train()
        for xb, yb in train:
            cross_entropy(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        totals, count = torch.zeros(2), 0
        with torch.no_grad():
            for xb, yb in VALID:
                pred = model(xb)
                totals += torch.stack([cross_entropy(pred, yb), accuracy(pred, yb)]) * len(yb)
                count += len(yb)
        (totals / count).tolist()
        yield model


def itself(train: Batches, epochs: int) -> nn.Module:
    """The control: the loop by hand in the place of a library."""
    return list(itertools.islice(by_hand(train), epochs))[-1]


def ours(train: Batches, epochs: int) -> nn.Module:
    """Train with our Learner; return the model."""
    learner = Learner(mlp(), DataBunch(train, VALID), cross_entropy, lr=LR, metrics=[accuracy])
    learner.fit(epochs)
    return learner.model


def fastai(train: Batches, epochs: int) -> nn.Module:
    """Train with fastai; return the model."""
    import fastai.callback.progress  # noqa: F401  gives its Learner no_bar
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner as FastLearner
    from fastai.metrics import accuracy as metric
    from fastai.optimizer import OptimWrapper

    def opt_func(params, lr, **_):
        return OptimWrapper(params, torch.optim.SGD, lr=lr)

    learner = FastLearner(
        DataLoaders(train, VALID, device="cpu"),
        mlp(),
        loss_func=cross_entropy,
        opt_func=opt_func,
        lr=LR,
        metrics=[metric],
    )
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs)
    return learner.model


def lightning(train: Batches, epochs: int) -> nn.Module:
    """Train with Lightning; return the model."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def training_step(self, batch: tuple, k: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: tuple, k: int) -> None:
            pred = self.net(batch[0])
            self.log_dict(
                {"loss": cross_entropy(pred, batch[1]), "accuracy": accuracy(pred, batch[1])},
                batch_size=len(batch[1]),
            )

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()
    L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(module, train, VALID)
    return module.net


def ignite(train: Batches, epochs: int) -> nn.Module:
    """Train with ignite; return the model."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    model = mlp()
    trainer = create_supervised_trainer(
        model, torch.optim.SGD(model.parameters(), lr=LR), cross_entropy
    )
    evaluator = create_supervised_evaluator(
        model, {"accuracy": Accuracy(), "loss": Loss(cross_entropy)}
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(VALID))
    trainer.run(train, max_epochs=epochs)
    return model


def skorch(train: Batches, epochs: int) -> nn.Module:
    """Train with skorch; return the model."""
    from skorch import NeuralNetClassifier
    from skorch.helper import predefined_split
    from torch.utils.data import TensorDataset

    fitted, valid = (
        TensorDataset(*map(torch.cat, zip(*batches.batches, strict=True)))
        for batches in (TRAIN, VALID)
    )
    # Its own loaders would be timed as well.
    net = NeuralNetClassifier(
        mlp(),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=LR,
        max_epochs=epochs,
        batch_size=64,
        train_split=predefined_split(valid),
        verbose=0,
        iterator_train=lambda data, **_: train,
        iterator_valid=lambda data, **_: VALID,
    )
    net.fit(fitted, y=None)
    return net.module_


def added(fit: Callable[[Batches, int], nn.Module]) -> tuple[float, float]:
    """One fit: the microseconds a step of it beyond the loop, and those of the loop."""
    turns = Turns()
    fit(turns, EPOCHS)
    asked = len(turns.stamps) // 2
    assert asked in (EPOCHS, EPOCHS + 1), (
        f"{fit.__name__} asked {asked} times for batches in {EPOCHS} epochs"
    )
    stamps = turns.stamps[-2 * EPOCHS :]  # Lightning asks once before it begins
    # Loop, library, loop, library, ..., loop.
    spans = [1e6 * (b - a) / STEPS for a, b in itertools.pairwise(stamps)]
    hand, theirs = spans[0::2], spans[1::2]
    return statistics.median(
        t - (a + b) / 2 for t, a, b in zip(theirs, hand, hand[1:], strict=False)
    ), statistics.median(hand)


def middle(values: list[float]) -> dict[str, object]:
    """The median, and between which two of the values it lies with 95 % certainty."""
    values = sorted(values)
    k = int(len(values) / 2 - 0.98 * math.sqrt(len(values)))  # the ranks of a binomial distribution
    return {
        "median": round(statistics.median(values), 1),
        "interval": [round(values[k], 1), round(values[-1 - k], 1)],
    }


def main() -> int:
    """Measure each installed library, print the results as JSON, and return the exit code."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    contenders, missing = {"itself": itself, "ours": ours}, {}
    for fit, module in (
        (fastai, "fastai.callback.progress"),
        (lightning, "lightning"),
        (ignite, "ignite.engine"),
        (skorch, "skorch"),
    ):
        try:
            importlib.import_module(module)
            contenders[fit.__name__] = fit
        # The second: a torchvision that was built for another torch.
        except (ImportError, RuntimeError) as error:
            missing[fit.__name__] = f'{error}; pip install "fromfound[bench]" gets it'
    figures, hand = {name: [] for name in contenders}, []
    with contextlib.redirect_stdout(io.StringIO()):
        reference = list(next(by_hand()).parameters())
        same = {
            name: all(
                torch.equal(p, q)
                for p, q in zip(fit(TRAIN, 1).parameters(), reference, strict=True)
            )
            for name, fit in contenders.items()
        }
        assert same["ours"], "the Learner's weights differ from those of the loop"
        for k in range(max(FITS.values())):
            for name, fit in contenders.items():
                if k < FITS.get(name, 6):
                    more, plain = added(fit)
                    figures[name].append(more)
                    hand.append(plain)
    found = {name: middle(values) for name, values in figures.items()}
    control = found.pop("itself")
    low, high = control["interval"]
    met = found["ours"]["interval"][1] <= MARK and low <= 0 <= high
    print(
        json.dumps(
            {
                "by_hand_microseconds_a_step": round(statistics.median(hand), 1),
                "added_microseconds_a_step": {
                    name: figure | {"weights_equal": same[name]} for name, figure in found.items()
                },
                "control": control,
                "missing": missing,
                "mark": f"<= {MARK}",
                "met": met,
                "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
            },
            indent=1,
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
