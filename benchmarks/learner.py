"""What a training library adds to each step of a loop written by hand: our Learner, and fastai, Lightning, ignite and skorch where they are installed.

The loop trains an MLP (784-50-10, batches of 64, SGD) on tensors in memory and validates with a loss and an accuracy averaged over samples; each library does the
same, with its bars, files and logs switched off, and ours with its default callbacks. One thread, processor time. In each round the loop and a library take turns to
train for 1 and for 3 epochs; the difference, by step, is free of what a fit costs once. Reported is the median over rounds of what the library takes beyond the loop.
A busy machine is visible in a slow loop and wide quartiles. `python -m benchmarks.learner` prints JSON; exit code 1 where ours is above its mark.
The peers: `pip install "fromfound[bench]"`; with a CPU build of torch remove the torchvision that comes with them, or it may keep them from being imported.
"""
import contextlib
import importlib
import io
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable

os.environ["CI"] = "true"  # nobody watches: no progress bars

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fromfound.learner import DataBunch, Learner

MARK = 20  # microseconds a step
STEPS, LR = 100, 0.1
ROUNDS = {"ours": 121}  # 7 for a peer: its figure is many times larger
generator = torch.Generator().manual_seed(0)


class Batches:
    "A loader that has its batches ready, with what the libraries ask of one."
    bs, device, dataset, n = 64, torch.device("cpu"), (), 64 * STEPS

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> object:
        return iter(self.batches)

    def to(self, device: object) -> "Batches":
        return self


TRAIN, VALID = (Batches([(torch.randn(64, 784, generator=generator), torch.randint(10, (64,), generator=generator)) for _ in range(n)]) for n in (STEPS, STEPS // 6))


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.argmax(1) == target).float().mean()


def by_hand(epochs: int) -> nn.Module:
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(epochs):
        model.train()
        for xb, yb in TRAIN:
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
    return model


def ours(epochs: int) -> nn.Module:
    learner = Learner(mlp(), DataBunch(TRAIN, VALID), cross_entropy, lr=LR, metrics=[accuracy])
    learner.fit(epochs)
    return learner.model


def fastai(epochs: int) -> nn.Module:
    import fastai.callback.progress  # gives its Learner no_bar
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner as FastLearner
    from fastai.metrics import accuracy as metric
    from fastai.optimizer import OptimWrapper

    def opt_func(params, lr, **_):
        return OptimWrapper(params, torch.optim.SGD, lr=lr)
    learner = FastLearner(DataLoaders(TRAIN, VALID, device="cpu"), mlp(), loss_func=cross_entropy, opt_func=opt_func, lr=LR, metrics=[metric])
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs)
    return learner.model


def lightning(epochs: int) -> nn.Module:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def training_step(self, batch: tuple, k: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: tuple, k: int) -> None:
            pred = self.net(batch[0])
            self.log_dict({"loss": cross_entropy(pred, batch[1]), "accuracy": accuracy(pred, batch[1])}, batch_size=len(batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()
    L.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0).fit(module, TRAIN, VALID)
    return module.net


def ignite(epochs: int) -> nn.Module:
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    model = mlp()
    trainer = create_supervised_trainer(model, torch.optim.SGD(model.parameters(), lr=LR), cross_entropy)
    evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy(), "loss": Loss(cross_entropy)})
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: evaluator.run(VALID))
    trainer.run(TRAIN, max_epochs=epochs)
    return model


def skorch(epochs: int) -> nn.Module:
    from skorch import NeuralNetClassifier
    from skorch.helper import predefined_split
    from torch.utils.data import TensorDataset

    train, valid = (TensorDataset(*map(torch.cat, zip(*batches))) for batches in (TRAIN, VALID))
    net = NeuralNetClassifier(mlp(), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=LR, max_epochs=epochs, batch_size=64, train_split=predefined_split(valid), verbose=0,
                              iterator_train=lambda data, **_: TRAIN, iterator_valid=lambda data, **_: VALID)  # its own loaders would be timed as well
    net.fit(train, y=None)
    return net.module_


def step_microseconds(fit: Callable[[int], nn.Module]) -> float:
    times = []
    for epochs in (1, 3):
        start = time.process_time()
        fit(epochs)
        times.append(time.process_time() - start)
    return 1e6 * (times[1] - times[0]) / (2 * STEPS)


def main() -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    contenders, missing = {"ours": ours}, {}
    for fit, module in ((fastai, "fastai.callback.progress"), (lightning, "lightning"), (ignite, "ignite.engine"), (skorch, "skorch")):
        try:
            importlib.import_module(module)
            contenders[fit.__name__] = fit
        except (ImportError, RuntimeError) as error:  # the second: a torchvision that was built for another torch
            missing[fit.__name__] = f'{error}; pip install "fromfound[bench]" gets it'
    with contextlib.redirect_stdout(io.StringIO()):
        reference = list(by_hand(1).parameters())
        same = {name: all(torch.equal(p, q) for p, q in zip(fit(1).parameters(), reference, strict=True)) for name, fit in contenders.items()}
        assert same["ours"], "the Learner's weights differ from those of the loop"
        rounds = {name: [(step_microseconds(by_hand), step_microseconds(fit)) for _ in range(ROUNDS.get(name, 7))] for name, fit in contenders.items()}
    added = {name: statistics.quantiles([theirs - plain for plain, theirs in pairs], n=4) for name, pairs in rounds.items()}
    mine = added["ours"][1]
    print(json.dumps({
        "by_hand_microseconds_a_step": round(statistics.median(plain for plain, _ in rounds["ours"]), 1),
        "added_microseconds_a_step": {name: {"median": round(q[1], 1), "quartiles": [round(q[0], 1), round(q[2], 1)], "weights_equal": same[name]} for name, q in added.items()},
        "missing": missing, "mark": f"<= {MARK}", "met": mine <= MARK, "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
    }, indent=1))
    return 0 if mine <= MARK else 1


if __name__ == "__main__":
    raise SystemExit(main())
