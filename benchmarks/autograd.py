"""A training step with our automatic differentiation and with torch's, in turns, in one run.

The network is that of chapter 02 (784-50-10, batch of 64). `python benchmarks/autograd.py` prints
JSON: seconds of a step, their ratio and its target; exit code 1 where it is missed.
"""

import json
import time

import torch
from torch import Tensor

from fromfound.autograd import Variable

MARK = 1.25
ROUNDS, STEPS = 60, 40


def parameters() -> list[Tensor]:
    """Weights as in the chapter, the last layer at random so that every gradient is at work."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(784, 50, generator=generator) * (2 / 784) ** 0.5,
        torch.zeros(50),
        torch.randn(50, 10, generator=generator) * 0.02**0.5,
        torch.zeros(10),
    ]


def loss_of(x: Tensor | Variable, target: Tensor, w1, b1, w2, b2):
    """The mean squared error of the two-layer network."""
    return (((x @ w1 + b1).relu() @ w2 + b2 - target) ** 2).mean()


def our_step(ws: list[Variable], x: Tensor | Variable, target: Tensor, lr: float) -> float:
    """One step of gradient descent with our Variables; return the loss."""
    loss = loss_of(x, target, *ws)
    loss.backward()
    for w in ws:
        w.data -= lr * w.grad
        w.grad = None
    return loss.item()


def torch_step(ws: list[Tensor], x: Tensor, target: Tensor, lr: float) -> float:
    """The same step with torch tensors; return the loss."""
    loss = loss_of(x, target, *ws)
    loss.backward()
    with torch.no_grad():
        for w in ws:
            w -= lr * w.grad
            w.grad = None
    return loss.item()


def in_turns(steps: dict) -> dict[str, float]:
    """Shortest mean time of STEPS calls of each, in seconds.

    In each of ROUNDS rounds each of them has its turn.
    """
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            best[name] = min(best[name], (time.perf_counter() - start) / STEPS)
    return best


def main() -> int:
    """Measure, print the result as JSON, and return the exit code."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    x, target = (
        torch.randn(64, 784, generator=generator),
        torch.eye(10)[torch.randint(10, (64,), generator=generator)],
    )
    wrapped, plain = ([Variable(p, requires_grad=True) for p in parameters()] for _ in range(2))
    theirs = [p.requires_grad_() for p in parameters()]
    for _ in range(20):  # the same numbers before the clock runs
        pair = our_step(wrapped, Variable(x), target, 0.1), torch_step(theirs, x, target, 0.1)
        assert abs(pair[0] - pair[1]) < 1e-5, f"the losses differ: {pair}"
    seconds = in_turns(
        {
            "ours": lambda: our_step(wrapped, Variable(x), target, 0.01),
            "torch": lambda: torch_step(theirs, x, target, 0.01),
            "ours_batch_not_wrapped": lambda: our_step(plain, x, target, 0.01),
        }
    )
    ratio = seconds["ours"] / seconds["torch"]
    print(
        json.dumps(
            {
                "seconds": {name: float(f"{s:.4g}") for name, s in seconds.items()},
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
