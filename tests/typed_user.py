"""What a user writes first: a callback, a metric, a learner and a schedule.

tests/test_types.py reads it as an editor does, and runs it.
"""

import torch
from torch import Tensor, nn

from fromfound.learner import Callback, Learner
from fromfound.schedule import ParamScheduler, sched_cos
from fromfound.training import DataBunch, cross_entropy


class Watch(Callback):
    """Print the learning rate and the loss of each training step."""

    def after_loss(self) -> None:
        """Look at what the learner has just computed."""
        if self.learn.training:
            lr = self.learn.opt.param_groups[0]["lr"]
            print(f"step {self.learn.step}: lr {lr:.3f}, loss {self.learn.loss.item():.3f}")


def error_rate(pred: Tensor, target: Tensor) -> Tensor:
    """Return the fraction of wrong predictions."""
    return (pred.argmax(dim=1) != target).float().mean()


x, y = torch.randn(64, 8), torch.randint(3, (64,))
batches = list(zip(x.split(16), y.split(16), strict=True))
model = nn.Linear(8, 3)
learn = Learner(model, DataBunch(batches, batches), cross_entropy, metrics=[error_rate])
learn.fit(2, lr=0.1, cbs=[Watch(), ParamScheduler("lr", sched_cos(0.1, 0.0))])
print(f"{learn.results['error_rate']:.0%} are wrong, {learn.predict(x).shape[1]} classes")
