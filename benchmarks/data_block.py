"""Decode, resize and collate: our data block against torch's DataLoader over an equal dataset.

The other side is what one would write by hand: a map-style dataset that opens a file with PIL,
resizes it and makes a tensor of it. Both deliver the same images as floating-point numbers, with
labels, in batches of 64, without workers and with two. `python benchmarks/data_block.py` prints
JSON: for each case the images a second and the ratio ours / torch, as the median over rounds. A
round times both, one after the other. Without workers it reads the processor's clock, which other
programs disturb least.

The criterion for "no slower": the median ratio of images a second is at least 1, give or take its
own uncertainty, 1.57 interquartile ranges / sqrt(rounds) (the usual notch of a box plot). A case
whose uncertainty exceeds 0.1 is undecided, and not met. Exit code 1 where a case is not met.
"""

import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils import data as theirs

from fromfound.data import fetch
from fromfound.data_block import (
    ImageList,
    Resize,
    parent_labeler,
    random_splitter,
    to_byte_tensor,
    to_float_tensor,
)
from fromfound.dataloader import DataLoader

ROUNDS = 15
SIDE = 96
CASES = {"no workers": (0, 640), "two workers": (2, 1920)}  # workers, images


class ByHand(theirs.Dataset):
    """Images and labels, with nothing that is not needed."""

    def __init__(self, files: list[Path], labels: list[int]) -> None:
        self.files = files
        self.labels = labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[i]) as image:
            image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return x.float().div_(255), self.labels[i]


def seconds(loader) -> float:
    """Seconds of an epoch: processor time without workers, else wall-clock time."""
    clock = time.perf_counter if loader.num_workers else time.process_time
    start = clock()
    for _ in loader:
        pass
    return clock() - start


def compare(workers: int, n: int) -> dict:
    """Time both loaders over the same files, in turns.

    The first epoch, which starts the workers, checks that the batches are equal.
    """
    images = ImageList.from_files(
        fetch("imagenette"), [Resize(SIDE), to_byte_tensor, to_float_tensor]
    )
    numbers = torch.linspace(0, len(images) - 1, min(n, len(images))).long()
    data = images[numbers].split(random_splitter(0)).label(parent_labeler)
    by_hand = ByHand(data.train.x.items, data.train.y.tolist())
    options = {"batch_size": 64, "num_workers": workers, "persistent_workers": workers > 0}
    loaders = DataLoader(data.train, **options), theirs.DataLoader(by_hand, **options)
    assert all(
        torch.equal(a, b)
        for one, two in zip(*loaders, strict=True)
        for a, b in zip(one, two, strict=True)
    ), "the batches differ"
    rounds = []
    for k in range(ROUNDS):
        first, second = (seconds(loader) for loader in (loaders if k % 2 else loaders[::-1]))
        rounds.append((first, second) if k % 2 else (second, first))
    ratios = [torchs / ours for ours, torchs in rounds]
    low, median, high = statistics.quantiles(ratios, n=4)
    notch = 1.57 * (high - low) / ROUNDS**0.5
    ours, torchs = (len(by_hand) / statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "images a second": {"ours": float(f"{ours:.3g}"), "torch": float(f"{torchs:.3g}")},
        "ratio": round(median, 3),
        "uncertainty": round(notch, 3),
        "mark": ">= 1 +- uncertainty",
        "met": notch <= 0.1 and median >= 1 - notch,
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
