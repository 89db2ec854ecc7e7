"""Our warps of a batch beside PIL, torch, torchvision and kornia, on the CPU, in turns, in one run.

The cases, for 64 images of 3 x 128 x 128 on one core: a composed warp beside its one
`F.grid_sample`, a flip beside PIL's, a rotation and a perspective warp beside the transforms of
torchvision and kornia. Libraries that are not installed are left out, and the result says so.
`python benchmarks/augment.py` prints JSON.

A ratio is ours / theirs, the median over rounds; a round times both, one after the other, by the
processor's clock. Beside the speed stands the quality: how far, at most, our result is from the
other one in the middle of the images, in 1/255.

torchvision has no build for every torch: where its operators do not load, they are declared, which
is enough for transforms that use none of them.
"""

import ctypes
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fromfound.augment import (
    Compose,
    Flip,
    Rotate,
    Warp,
    Zoom,
    affine_grid,
    homography,
    rotation,
    warp,
)

ROUNDS = 21
SIDE = 128


def keep_memory() -> None:
    """Let the allocator keep what is freed, so no page is fetched again while time is taken."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, 2**30)


def seconds(fn: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    fn()
    return time.process_time() - start


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], mark: float) -> dict:
    """Time both in turns; return the ratio, its uncertainty, and whether it keeps the mark."""
    for fn in (ours, theirs, ours, theirs):
        fn()
    rounds = []
    for k in range(ROUNDS):
        if k % 2:
            rounds.append((seconds(ours), seconds(theirs)))
        else:
            other = seconds(theirs)
            rounds.append((seconds(ours), other))
    low, median, high = statistics.quantiles([a / b for a, b in rounds], n=4)
    mine, others = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "ms": {"ours": float(f"{1e3 * mine:.3g}"), "theirs": float(f"{1e3 * others:.3g}")},
        "ratio": round(median, 3),
        "uncertainty": round(1.57 * (high - low) / ROUNDS**0.5, 3),
        "mark": f"<= {mark}",
        "met": median <= mark,
    }


def library(name: str) -> object | None:
    """Import a library if it is there, torchvision also where its operators do not load."""
    if name.startswith("torchvision"):
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            operators.define(f"{operator}(Tensor dets, Tensor scores, float iou) -> Tensor")
        library.kept = operators  # it lives as long as this object
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def farthest(ours: Tensor, theirs: Tensor) -> float:
    """The greatest difference in the middle of the images, in steps of a byte."""
    inner = slice(SIDE // 4, -SIDE // 4)
    return round(255 * (ours - theirs)[..., inner, inner].abs().max().item(), 2)


def composed(images: Tensor) -> dict:
    """Draw, compose and warp, beside the one interpolation in it."""
    parts = Rotate(10), Zoom(), Warp()
    tfm = Compose(*parts, seed=0)
    generator = Compose(seed=0).stream.generator()
    half = torch.tensor([SIDE / 2, SIDE / 2, 1], dtype=torch.float64)
    matrices = [part.matrix(len(images), SIDE, SIDE, generator) for part in parts]
    theta = reduce(torch.matmul, matrices) * half / half[:, None]
    grid = affine_grid(theta.float(), images.shape)

    def sample() -> Tensor:
        return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)

    assert torch.allclose(tfm(images), sample(), atol=1e-4), "the results differ"
    return in_turns(lambda: tfm(images), sample, 1.2)


def flipped(images: Tensor) -> dict:
    """A flip of each image of a batch of bytes, beside PIL's."""
    pictures = [Image.fromarray(image.movedim(0, -1).numpy()) for image in images]
    way = Image.Transpose.FLIP_LEFT_RIGHT
    tfm = Flip(1.0, seed=0)
    return in_turns(lambda: tfm(images), lambda: [p.transpose(way) for p in pictures], 1.0)


def smooth(n: int) -> Tensor:
    """Images without fine detail: where programs differ by rounding, results hardly do."""
    coarse = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)


def beside_torchvision(images: Tensor) -> dict:
    """The same rotation and perspective for all images, by the functions of both."""
    if (v2 := library("torchvision.transforms.v2.functional")) is None:
        return {"torchvision": "not installed: unmeasured"}
    bilinear = importlib.import_module("torchvision.transforms.v2").InterpolationMode.BILINEAR
    turn = rotation(20.0)
    corners = [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]]
    places = [[6, 9], [122, 4], [120, 125], [3, 118]]
    pixel_corners, pixel_places = (torch.tensor(p).double() - SIDE / 2 for p in (corners, places))
    tilt = homography(pixel_corners, pixel_places)

    def their_turn() -> Tensor:
        return v2.rotate_image(images, 20.0, interpolation=bilinear)

    def their_tilt() -> Tensor:
        return v2.perspective_image(images, places, corners, interpolation=bilinear)

    found = {}
    for name, matrix, theirs in (("rotate", turn, their_turn), ("perspective", tilt, their_tilt)):
        result = in_turns(lambda m=matrix: warp(images, m, padding_mode="zeros"), theirs, 1.0)
        result["farthest"] = farthest(warp(images, matrix, padding_mode="zeros"), theirs())
        found[f"{name}, torchvision"] = result
    return found


def beside_kornia(images: Tensor) -> dict:
    """A rotation and a perspective warp of each image by its own matrix."""
    if (kornia := library("kornia.geometry.transform")) is None:
        return {"kornia": "not installed: unmeasured"}
    n = len(images)
    angles = torch.linspace(-20, 20, n)
    turn = rotation(angles)
    corner = SIDE / 2 * torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    inward = 1 - 0.2 * torch.rand(n, 4, 2, generator=torch.Generator().manual_seed(1)).double()
    tilt = homography(corner.expand(n, 4, 2), corner * inward)
    center = torch.eye(3, dtype=torch.float64)
    center[:2, 2] = (SIDE - 1) / 2  # kornia counts from the center of the first pixel
    found = {}
    size = (SIDE, SIDE)
    for name, matrix in (("affine", turn), ("perspective", tilt)):
        forward = (center @ matrix.inverse() @ center.inverse()).float()
        if name == "affine":
            fn, given = kornia.warp_affine, forward[:, :2]
        else:
            fn, given = kornia.warp_perspective, forward

        def theirs(fn: Callable = fn, given: Tensor = given) -> Tensor:
            return fn(images, given, size, align_corners=True)

        def ours(matrix: Tensor = matrix) -> Tensor:
            return warp(images, matrix, padding_mode="zeros")

        found[f"{name}, kornia"] = in_turns(ours, theirs, 1.0)
        found[f"{name}, kornia"]["farthest"] = farthest(ours(), theirs())
    return found


def main() -> int:
    """Measure every case, print the results as JSON, and return the exit code."""
    torch.set_num_threads(1)
    keep_memory()
    images = smooth(64)
    results = {
        "composed warp beside its F.grid_sample": composed(images),
        "flip beside PIL": flipped((255 * images).byte()),
        **beside_torchvision(images),
        **beside_kornia(images),
    }
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(results | {"machine": machine}, indent=1))
    return 0 if all(r["met"] for r in results.values() if isinstance(r, dict)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
