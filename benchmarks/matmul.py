"""The ladder of chapter 01: the time of (5, 784) @ (784, 10), one idea a step.

`python benchmarks/matmul.py` prints JSON: seconds for each rung, how many times faster than both
loops within this one run, and what the machine can do.
"""

import json

import torch

from fromfound.matmul import (
    best_time,
    matmul_broadcast,
    matmul_dot,
    matmul_einsum,
    matmul_lists,
    matmul_loops,
)

OPERATIONS = 2 * 5 * 784 * 10


def ladder() -> dict[str, float]:
    """Seconds of one product for each rung; the last one is a five-image share of 10,000 images."""
    generator = torch.Generator().manual_seed(0)
    images, w = (
        torch.rand(10_000, 784, generator=generator),
        torch.randn(784, 10, generator=generator),
    )
    x = images[:5]
    return {
        "tensor_loop": best_time(matmul_loops, x, w, budget=1),
        "list_loop": best_time(matmul_lists, x.tolist(), w.tolist(), budget=1),
        "dot": best_time(matmul_dot, x, w),
        "broadcast": best_time(matmul_broadcast, x, w),
        "einsum": best_time(matmul_einsum, x, w),
        "matmul": best_time(torch.matmul, x, w),
        "matmul_batched": best_time(torch.matmul, images, w) / 2000,
    }


def machine() -> dict[str, float]:
    """GFLOP/s of a large square product, GB/s of reading a tensor of 256 MiB."""
    square, long = torch.randn(1024, 1024), torch.ones(64 * 2**20)
    first, second = long.chunk(2)
    return {
        "gflops": 2 * 1024**3 / best_time(torch.matmul, square, square, budget=1) / 1e9,
        "gb_per_s": long.nbytes
        / min(best_time(long.sum, budget=1), best_time(torch.dot, first, second, budget=1))
        / 1e9,
    }


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """The values to four significant digits."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def main() -> None:
    """Measure and print the results as JSON."""
    seconds = ladder()
    print(
        json.dumps(
            {
                "seconds": rounded(seconds),
                "times_faster_than_tensor_loop": rounded(
                    {name: seconds["tensor_loop"] / s for name, s in seconds.items()}
                ),
                "times_faster_than_list_loop": rounded(
                    {name: seconds["list_loop"] / s for name, s in seconds.items()}
                ),
                "gflops": rounded({name: OPERATIONS / s / 1e9 for name, s in seconds.items()}),
                "machine": rounded(machine())
                | {"threads": torch.get_num_threads(), "torch": torch.__version__},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
