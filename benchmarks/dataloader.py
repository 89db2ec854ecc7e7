"""An epoch of our DataLoader and of torch's over the same datasets, in turns, in one run.

The cases: no workers and two, small batches and large ones. `python benchmarks/dataloader.py`
prints JSON: for each case the seconds of an epoch and the ratio ours / torch, as the median over
rounds. A round times both, one after the other, so that what disturbs the machine disturbs both.
Without workers it reads the processor's clock, which other programs disturb least.

The criterion for "no slower": the median ratio is at most 1, give or take its own uncertainty, 1.57
interquartile ranges / sqrt(rounds) (the usual notch of a box plot). A case whose uncertainty
exceeds 0.1 is undecided, and not met. Exit code 1 where a case is not met.
"""

import json
import statistics
import time

import torch
from torch.utils import data as theirs

from fromfound.dataloader import DataLoader

ROUNDS = 21
CASES = {  # workers, batch size, shape of a sample, samples, epochs of one timing
    "no workers": (0, 64, (784,), 6400, 2),
    "no workers, large samples": (0, 32, (3, 128, 128), 320, 2),
    "two workers": (2, 64, (784,), 6400, 1),
    "two workers, large samples": (2, 32, (3, 128, 128), 960, 1),
}


class Pictures:
    """Bytes in memory; a sample is a float tensor and its label, made when it is asked for."""

    def __init__(self, n: int, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
        self.y = torch.randint(10, (n,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.x[i].float(), self.y[i]


def seconds(loader, epochs: int) -> float:
    """Seconds of an epoch: processor time without workers, else wall-clock time."""
    clock = time.perf_counter if loader.num_workers else time.process_time
    start = clock()
    for _ in range(epochs):
        for _ in loader:
            pass
    return (clock() - start) / epochs


def compare(workers: int, batch_size: int, shape: tuple[int, ...], n: int, epochs: int) -> dict:
    """Time both loaders over one dataset, in turns.

    The first epoch, which starts the workers, checks that the batches are equal.
    """
    pictures = Pictures(n, shape)
    loaders = [
        kind(
            pictures,
            batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(1),
        )
        for kind in (DataLoader, theirs.DataLoader)
    ]
    assert all(
        torch.equal(a, b)
        for one, two in zip(*loaders, strict=True)
        for a, b in zip(one, two, strict=True)
    ), "the batches differ"
    rounds = []
    for k in range(ROUNDS):
        first, second = (
            seconds(loader, epochs) for loader in (loaders if k % 2 else loaders[::-1])
        )
        rounds.append((first, second) if k % 2 else (second, first))
    ratios = [ours / torchs for ours, torchs in rounds]
    low, median, high = statistics.quantiles(ratios, n=4)
    notch = 1.57 * (high - low) / ROUNDS**0.5
    ours, torchs = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "seconds": {"ours": float(f"{ours:.4g}"), "torch": float(f"{torchs:.4g}")},
        "ratio": round(median, 3),
        "uncertainty": round(notch, 3),
        "mark": "<= 1 +- uncertainty",
        "met": notch <= 0.1 and median <= 1 + notch,
    }


def main() -> int:
    """Measure every case, print the results as JSON, and return the exit code."""
    torch.set_num_threads(1)
    results = {name: compare(*case) for name, case in CASES.items()}
    print(
        json.dumps(
            results | {"machine": {"threads": torch.get_num_threads(), "torch": torch.__version__}},
            indent=1,
        )
    )
    return 0 if all(result["met"] for result in results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
