"""Batch normalization at (64, 64, 28, 28), forward and backward, in turns, in one run.

It compares our derived gradient, the simplest form as it is written, and torch's layer. `python
benchmarks/norm.py` prints JSON: milliseconds of forward and backward, their ratios and the target
for ours; exit code 1 where it is missed.
"""

import json
import time

import torch
from torch import nn

from fromfound.norm import BatchNorm2d

MARK = 1.5
ROUNDS = 60
SHAPE = (64, 64, 28, 28)


def as_written(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """Batch normalization in its simplest form, with `layer`'s weight and bias."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[
        :, None, None
    ]


def in_turns(ways: dict, x: torch.Tensor, g: torch.Tensor) -> dict[str, float]:
    """Shortest time of each, in seconds, over ROUNDS rounds in which each has its turn."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            x.grad = None
            start = time.perf_counter()
            way(x).backward(g)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> int:
    """Measure, print the result as JSON, and return the exit code."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, g = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    ours, theirs = BatchNorm2d(SHAPE[1]), nn.BatchNorm2d(SHAPE[1])
    # The same numbers before the clock runs.
    gradients = [torch.autograd.grad(layer(x), x, g)[0] for layer in (ours, theirs)]
    assert torch.allclose(*gradients, atol=1e-5), "the gradients differ"
    seconds = in_turns(
        {"ours": ours, "torch": theirs, "as_written": lambda x: as_written(x, theirs)}, x, g
    )
    ratio = seconds["ours"] / seconds["torch"]
    print(
        json.dumps(
            {
                "milliseconds": {name: float(f"{1000 * s:.4g}") for name, s in seconds.items()},
                "as_written_ratio": round(seconds["as_written"] / seconds["torch"], 2),
                "ratio": round(ratio, 3),
                "mark": f"<= {MARK}",
                "met": ratio <= MARK,
                "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
            },
            indent=1,
        )
    )
    return 0 if ratio <= MARK else 1


if __name__ == "__main__":
    raise SystemExit(main())
