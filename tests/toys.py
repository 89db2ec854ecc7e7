"""Small data, networks and callbacks that several test files use."""

import torch
import torch.nn.functional as F
from torch import nn

from fromfound.callback import EVENTS, Callback
from fromfound.learner import Learner
from fromfound.training import DataBunch

X = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
BATCHES = list(zip(X.split(16), Y.split(16), strict=True))  # seven, the last one of four
TRAIN, VALID = EVENTS[2:10], ["before_batch", "after_pred", "after_loss", "after_batch"]


def accuracy(pred, target):
    """The fraction of a batch whose largest output is the target."""
    return (pred.argmax(1) == target).float().mean()


def net(seed=0, dropout=0.2):
    """A network of six inputs that draws random numbers and keeps statistics."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2)
    )
    nn.init.normal_(model[1].weight)
    return model


def learner(train=BATCHES, valid=None, seed=0, **options):
    """A Learner of `net` without the default callbacks."""
    return Learner(
        net(seed),
        DataBunch(train, valid),
        F.cross_entropy,
        **{"lr": 0.1, "default_cbs": False} | options,
    )


def same(a, b):
    """Whether two models hold the same values, bit for bit."""
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


class Log(Callback):
    """Writes the events down; at the event `at` it raises `error`, once."""

    def __init__(self, at=None, error=None):
        self.lines, self.at, self.error = [], at, error


def _log(event):
    def method(self):
        self.lines.append(event)
        if event == self.at and (self.learn.training or event not in TRAIN):
            self.at = None
            raise self.error

    return method


for _event in EVENTS:
    setattr(Log, _event, _log(_event))


def seeded(seed=0):
    """A generator of random numbers."""
    return torch.Generator().manual_seed(seed)
