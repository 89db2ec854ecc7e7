"""Adam's step on two million parameters in 41 tensors, on the CPU, in turns, in one run.

It compares ours with torch's three: its loop (the default on the CPU), foreach and fused, and
counts the bytes of their states. `python benchmarks/optim.py` prints JSON: milliseconds a step, the
ratio to the default with its uncertainty (the standard error of the mean of five repetitions), and
the target; exit code 1 where it is missed by more than the uncertainty.
"""

import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from fromfound.optim import adam

MARK = 1.0
REPEATS, ROUNDS = 5, 25
SHAPES = [(256, 384)] * 20 + [(384,)] * 20 + [(384, 88)]
WAYS: dict[str, Callable] = {
    "ours": adam,
    "torch": torch.optim.Adam,
    "foreach": partial(torch.optim.Adam, foreach=True),
    "fused": partial(torch.optim.Adam, fused=True),
}


def optimizer(make: Callable) -> torch.optim.Optimizer:
    """Return an optimizer whose parameters have gradients and a state."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    opt = make(params)
    opt.step()
    return opt


def fastest(optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, float]:
    """Return each one's fastest step, in seconds, over ROUNDS rounds in which each has its turn."""
    best = dict.fromkeys(optimizers, math.inf)
    for _ in range(ROUNDS):
        for name, opt in optimizers.items():
            start = time.perf_counter()
            opt.step()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def state_bytes(opt: torch.optim.Optimizer) -> int:
    """Count the bytes of all tensors that the optimizer keeps."""
    return sum(x.nbytes for state in opt.state.values() for x in state.values())


def main() -> int:
    """Measure, print the result as JSON, and return the exit code."""
    torch.set_num_threads(1)
    optimizers = {name: optimizer(make) for name, make in WAYS.items()}
    mine, theirs = (optimizers[name].param_groups[0]["params"] for name in ("ours", "torch"))
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True)), "other results"
    runs = [fastest(optimizers) for _ in range(REPEATS)]
    ratios = [run["ours"] / run["torch"] for run in runs]
    ratio = statistics.mean(ratios)
    uncertainty = statistics.stdev(ratios) / math.sqrt(REPEATS)
    met = ratio <= MARK + uncertainty
    ms = {name: float(f"{1000 * min(run[name] for run in runs):.3g}") for name in WAYS}
    print(
        json.dumps(
            {
                "ms": ms,
                "ratio": round(ratio, 3),
                "uncertainty": round(uncertainty, 3),
                "mark": f"<= {MARK}",
                "met": met,
                "parameters": sum(math.prod(shape) for shape in SHAPES),
                "state_bytes": {name: state_bytes(opt) for name, opt in optimizers.items()},
                "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
            },
            indent=1,
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
