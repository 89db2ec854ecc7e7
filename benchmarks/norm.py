"""Batch normalization at (64, 64, 28, 28), forward and backward, in turns, in one run.

It compares the derived backward pass, our layer in plain tensor operations, and torch's layer.
`python benchmarks/norm.py` prints JSON: milliseconds of forward and backward, their ratios and the
target for the derived one; exit code 1 where it is missed.
"""

import json
import time

import torch
from torch import nn

from fromfound.norm import BatchNorm2d, DerivedBatchNorm

MARK = 1.5
ROUNDS = 60
SHAPE = (64, 64, 28, 28)


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
    weight = torch.ones(1, SHAPE[1], 1, 1, requires_grad=True)
    bias = torch.zeros(1, SHAPE[1], 1, 1, requires_grad=True)
    ways = {
        "derived": lambda x: DerivedBatchNorm.apply(x, weight, bias),
        "layer": BatchNorm2d(SHAPE[1]),
        "torch": nn.BatchNorm2d(SHAPE[1]),
    }
    # The same numbers before the clock runs.
    gradients = {name: torch.autograd.grad(way(x), x, g)[0] for name, way in ways.items()}
    for name in ("derived", "layer"):
        assert torch.allclose(gradients[name], gradients["torch"], atol=1e-5), f"{name} differs"
    seconds = in_turns(ways, x, g)
    ratio = seconds["derived"] / seconds["torch"]
    print(
        json.dumps(
            {
                "milliseconds": {name: float(f"{1000 * s:.4g}") for name, s in seconds.items()},
                "layer_ratio": round(seconds["layer"] / seconds["torch"], 2),
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
