"""A training step of xresnet50 beside plain torch, torchvision and fastai, on the CPU, in turns.

A step is forward, backward and SGD with momentum, for 8 images of 3 x 64 x 64 on one core. The
peers: the same layers called one after the other by a function of plain torch; fastai's xresnet50,
which computes the same numbers from the same weights; and torchvision's ResNet-50 beside ours with
its options. Libraries that are not installed are left out, and the result says so.
`python benchmarks/xresnet.py` prints JSON.

A ratio is ours / theirs, the median over rounds; a round times both, one after the other, by the
processor's clock.
"""

import json
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.augment import in_turns, library
from fromfound.xresnet import PLAIN, xresnet50

MARK = 1.05
OF_TORCHVISION = PLAIN | {"stride_in_3x3": True}


class ByHand(nn.Module):
    """The layers of one of our networks, called by plain functions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        for conv, norm, *_ in self.model.stem[:-1]:
            x = self.unit(conv, norm, x).relu()
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.model.stages:
            for block in stage:
                y = x
                for conv, norm, *act in block.convs:
                    y = self.unit(conv, norm, y)
                    y = y.relu() if act else y
                x = (y + block.shortcut(x)).relu()
        linear = self.model.head[2]
        return F.linear(x.mean((2, 3)), linear.weight, linear.bias)

    def unit(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """Convolve and normalize."""
        x = F.conv2d(x, conv.weight, None, conv.stride, conv.padding)
        norm.num_batches_tracked += 1
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True)


def stepper(model: nn.Module) -> Callable[[], None]:
    """Return a function that trains for one step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 64, 64, generator=generator)
    y = torch.randint(0, 1000, (8,), generator=generator)
    opt = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        F.cross_entropy(model(x), y).backward()
        opt.step()
        opt.zero_grad()

    return step


def steps_in_turns(mine: nn.Module, other: nn.Module) -> dict:
    """Time steps of both networks; return the ratio, its uncertainty, and whether it is met."""
    return in_turns(stepper(mine), stepper(other), MARK)


def same_numbers(mine: nn.Module, other: nn.Module) -> bool:
    """Give both the same weights; return whether they compute the same."""
    other.load_state_dict(dict(zip(other.state_dict(), mine.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return torch.allclose(mine.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-4)


def beside(name: str, depth_50: str, options: dict) -> dict | str:
    """Return the result beside the network of a library, or say that there is none."""
    if (found := library(name)) is None:
        return "not installed: unmeasured"
    mine, other = xresnet50(**options), getattr(found, depth_50)()
    counts = [sum(p.numel() for p in model.parameters()) for model in (mine, other)]
    assert counts[0] == counts[1], f"other networks: {counts}"
    same = same_numbers(mine, other)
    return steps_in_turns(mine.train(), other.train()) | {"same numbers": same}


def main() -> int:
    """Measure, print the result as JSON, and return the exit code."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mine = xresnet50()
    by_hand = ByHand(xresnet50())
    by_hand.model.load_state_dict(mine.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(mine(x), by_hand(x), rtol=1e-4, atol=1e-4), "the results differ"
    result = {
        "machine": {"threads": 1, "torch": torch.__version__},
        "plain torch": steps_in_turns(mine, by_hand),
        "torchvision": beside("torchvision.models.resnet", "resnet50", OF_TORCHVISION),
        # Imports torchvision as well, whose operators are declared by now.
        "fastai": beside("fastai.vision.models.xresnet", "xresnet50", {}),
    }
    print(json.dumps(result, indent=1))
    return 0 if '"met": false' not in json.dumps(result) else 1


if __name__ == "__main__":
    sys.exit(main())
