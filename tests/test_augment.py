"""Augmentation: against torch and PIL, over random shapes; what repeats and what differs."""

import copy
import math
import pickle
import statistics
from functools import partial, reduce
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils import data as theirs

from fromfound import augment
from fromfound.augment import (
    Augment,
    Batch,
    BatchTransform,
    Compose,
    Flip,
    Geometric,
    ImageTransform,
    Lighting,
    PerspectiveWarp,
    RandomCrop,
    RandomDihedral,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomStream,
    Rotate,
    Translate,
    Warp,
    Zoom,
    affine_grid,
    affine_matrix,
    find_coeffs,
    homography,
    move_points,
    rotation,
    uniform,
    warp,
)
from fromfound.check import same_as
from fromfound.dataloader import DataLoader
from fromfound.exercises import augment as exercises
from fromfound.learner import Checkpoint, DataBunch, Learner
from fromfound.training import cross_entropy
from tests.toys import seeded

SIDES = st.integers(1, 9)
BATCH_TRANSFORMS = {
    "Flip": partial(Flip, 0.5),
    "Rotate": partial(Rotate, 30.0),
    "Zoom": partial(Zoom, 0.8, 1.5),
    "Translate": partial(Translate, 0.3),
    "Warp": partial(Warp, 0.4),
    "Lighting": Lighting,
    "RandomErasing": partial(RandomErasing, 0.9),
    "Compose": lambda seed=None: Compose(
        Flip(), Rotate(30), Lighting(), Zoom(), Warp(), RandomErasing(), seed=seed
    ),
}
each_transform = pytest.mark.parametrize("name", BATCH_TRANSFORMS)


def pictures(n: int = 6, channels: int = 3, height: int = 12, width: int = 17, seed: int = 0):
    """Random images with values from 0 to 1."""
    return torch.rand(n, channels, height, width, generator=seeded(seed))


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """A PIL image of random bytes."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- random numbers -------------------------------------------------------------------------------


def numbers(stream: RandomStream, calls: int = 3) -> list[float]:
    """The first number of each of the next calls."""
    return [uniform(stream.generator(), 0, 1).item() for _ in range(calls)]


def test_a_seed_repeats_a_stream_and_another_one_does_not():
    assert numbers(RandomStream(3)) == numbers(RandomStream(3))
    drawn = [number for seed in range(50) for number in numbers(RandomStream(seed), 20)]
    assert len(set(drawn)) == len(drawn)
    assert abs(statistics.mean(drawn) - 0.5) < 0.04


def test_without_a_seed_torchs_decides():
    torch.manual_seed(0)
    first = numbers(RandomStream()), numbers(RandomStream())
    torch.manual_seed(0)
    assert first == (numbers(RandomStream()), numbers(RandomStream()))
    assert first[0] != first[1]


def test_a_stream_does_not_touch_other_random_numbers():
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    numbers(RandomStream(0))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]


@pytest.mark.parametrize("seed", [-1, 1.5, "a"])
def test_a_stream_refuses_other_seeds(seed):
    with pytest.raises(ValueError, match="RandomStream expected a seed of 0 or more"):
        RandomStream(seed)


def test_ranks_differ_and_repeat(monkeypatch):
    drawn = []
    for rank in ("0", "1", "1"):
        monkeypatch.setenv("RANK", rank)
        drawn.append(numbers(RandomStream(0)))
    assert drawn[0] != drawn[1]
    assert drawn[1] == drawn[2]
    monkeypatch.delenv("RANK")
    assert numbers(RandomStream(0)) == drawn[0], "alone is rank 0"


class Draws:
    """A dataset whose samples are random numbers of a stream."""

    def __init__(self) -> None:
        self.stream = RandomStream(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> float:
        return uniform(self.stream.generator(), 0, 1).item()


@pytest.mark.parametrize("kind", [DataLoader, theirs.DataLoader])
@pytest.mark.parametrize("staying", [False, True])
def test_workers_and_epochs_differ_and_repeat(kind, staying):
    def epochs():
        loader = kind(Draws(), 2, num_workers=2, persistent_workers=staying, generator=seeded(1))
        return [torch.cat(list(loader)).tolist() for _ in range(2)]

    first = epochs()
    drawn = [number for epoch in first for number in epoch]
    assert len(set(drawn)) == 16, "no number comes twice"
    assert epochs() == first


def test_one_seed_gives_different_classes_different_numbers():
    assert numbers(RandomStream(3, "Flip")) != numbers(RandomStream(3, "Warp"))
    images = torch.arange(40.0).expand(40, 1, 1, 40)
    mirrored = Flip(seed=7)(images)[:, 0, 0, 0] > 0
    turned = Rotate(30, seed=7)
    left = turned.matrix(40, 8, 8, turned.stream.generator())[:, 1, 0] < 0
    assert 0.2 < (mirrored == left).float().mean() < 0.8


def test_a_spawned_worker_has_the_rank_of_its_parent(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    sent = {}
    for rank in (0, 1):
        monkeypatch.setattr(augment, "_rank", lambda rank=rank: rank)
        sent[rank] = pickle.dumps(RandomStream(0))
    monkeypatch.setattr(augment, "_rank", lambda: 0)
    here = numbers(pickle.loads(sent[1]))
    assert here == numbers(RandomStream(0)), "outside of a worker its own rank counts"
    monkeypatch.setattr(augment, "get_worker_info", lambda: SimpleNamespace(seed=5))
    drawn = [numbers(pickle.loads(sent[rank])) for rank in (0, 1)]
    assert drawn[0] != drawn[1]


# --- one image at a time --------------------------------------------------------------------------


def test_random_flip_mirrors_about_half_and_returns_the_others():
    image = picture()
    results = [RandomFlip(seed=seed)(image) for seed in range(400)]
    same = [result for result in results if result is image]
    assert 160 < len(same) < 240
    mirrored = np.array(image)[:, ::-1]
    assert all(np.array_equal(r, mirrored) for r in results if r is not image)
    assert RandomFlip(0.0, seed=0)(image) is image
    assert RandomFlip(1.0, seed=0)(image) is not image


def test_random_dihedral_has_eight_ways_equally_likely():
    image, dihedral = picture(20, 20), RandomDihedral(seed=0)
    seen = [dihedral(image).tobytes() for _ in range(1600)]
    counts = [seen.count(way) for way in set(seen)]
    assert len(counts) == 8
    assert min(counts) > 140
    array = np.array(image)
    ways = {np.rot90(a, k).tobytes() for a in (array, array[:, ::-1]) for k in range(4)}
    assert set(seen) == ways


def test_random_crop_reaches_all_corners():
    image, crop = picture(7, 6), RandomCrop((5, 6), seed=0)
    seen = {crop(image).tobytes() for _ in range(100)}
    array = np.array(image)
    corners = [(top, left) for top in range(2) for left in range(2)]
    assert seen == {array[top : top + 5, left : left + 6].tobytes() for top, left in corners}


def test_random_crop_with_padding_shifts():
    image, crop = picture(8, 8), RandomCrop(8, padding=2, seed=0)
    seen = {crop(image).tobytes() for _ in range(600)}
    assert len(seen) == 25
    assert image.tobytes() in seen


def test_random_crop_says_what_is_too_small():
    with pytest.raises(
        ValueError, match="RandomCrop expected an image of at least 50 by 10 .*30 by"
    ):
        RandomCrop((50, 10), seed=0)(picture(40, 30))


@given(width=st.integers(1, 200), height=st.integers(1, 200), seed=st.integers(0, 99))
def test_boxes_lie_in_the_image(width, height, seed):
    crop = RandomResizedCrop(8)
    left, top, right, bottom = crop.box(width, height, seeded(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize("size", [(1000, 1000), (2000, 500)])
def test_the_area_is_an_area_and_does_not_compound(size):
    crop, generator = RandomResizedCrop(8), seeded(0)
    boxes = [crop.box(*size, generator) for _ in range(3000)]
    sides = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    areas = torch.tensor([w * h / size[0] / size[1] for w, h in sides])
    assert areas.min() > 0.079
    always = 0.75 * min(size) / max(size)  # what fits in any ratio
    counts = areas[areas < always].histc(4, 0.08, always)
    assert (counts / counts.sum() - 0.25).abs().max() < 0.05
    ratios = torch.tensor([math_log(w / h) for w, h in sides])
    assert ratios.abs().max() < math_log(4 / 3) + 0.02
    assert size[0] != size[1] or abs(ratios.mean()) < 0.02


def math_log(x: float) -> float:
    """The natural logarithm."""
    return float(np.log(x))


@pytest.mark.parametrize(
    "size, box", [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))]
)
def test_what_never_fits_gives_the_largest_in_the_middle(size, box):
    crop = RandomResizedCrop(8, scale=(1.0, 1.0))
    assert crop.box(*size, seeded(0)) == box


def test_the_crop_has_the_size_that_was_asked_for():
    assert RandomResizedCrop((20, 10), seed=0)(picture()).size == (10, 20)
    assert RandomCrop((20, 10), seed=0)(picture()).size == (10, 20)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: RandomFlip(1.5), "RandomFlip expected a probability p from 0 to 1, got 1.5"),
        (lambda: RandomCrop(0), "RandomCrop expected a size .*got 0"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.1)), "RandomResizedCrop expected a scale"),
        (lambda: RandomResizedCrop(8, scale=(0, 1)), "RandomResizedCrop expected a scale"),
        (lambda: RandomResizedCrop(8, ratio=(2, 1)), "RandomResizedCrop expected a ratio"),
        (lambda: PerspectiveWarp(1.0), "PerspectiveWarp expected a magnitude"),
        (lambda: Warp(-0.1), "Warp expected a magnitude"),
        (lambda: Warp(0.67), "Warp expected a magnitude"),
        (lambda: Zoom(0, 1), "Zoom expected 0 < low <= high"),
        (lambda: Lighting(-1), "Lighting expected numbers of 0 or more"),
        (lambda: RandomErasing(area=(0.5, 0.1)), "RandomErasing expected area and ratio"),
        (lambda: Flip(-0.1), "Flip expected a probability"),
        (lambda: Flip("0.5"), "Flip expected a probability p from 0 to 1, got '0.5'"),
        (lambda: RandomCrop(True), "RandomCrop expected a size .*got True"),
        (lambda: RandomCrop(2.5), "RandomCrop expected a size .*got 2.5"),
        (lambda: RandomCrop((2.5, 3)), "RandomCrop expected a size of 1 or more pixels"),
        (lambda: RandomCrop((3, 8, 8)), "RandomCrop expected a size of 1 or more pixels"),
        (lambda: RandomCrop("8"), "RandomCrop expected a size .*got '8'"),
        (lambda: RandomCrop(8, padding=-1), "RandomCrop expected a padding of 0 or more"),
        (lambda: RandomResizedCrop(None), "RandomResizedCrop expected a size"),
        (lambda: RandomResizedCrop(8, scale=0.5), "RandomResizedCrop expected a scale"),
        (lambda: RandomResizedCrop(8, ratio=(1, math.inf)), "RandomResizedCrop expected a ratio"),
        (lambda: RandomFlip(seed=True), "RandomStream expected a seed of 0 or more"),
        (lambda: Rotate(math.nan), "Rotate expected degrees of 0 or more, got nan"),
        (lambda: Rotate((-5, 5)), "Rotate expected degrees of 0 or more"),
        (lambda: Translate(math.inf), "Translate expected a fraction of 0 or more, got inf"),
        (lambda: Lighting(math.nan), "Lighting expected numbers of 0 or more"),
        (lambda: Zoom(1, math.inf), "Zoom expected 0 < low <= high"),
        (lambda: RandomErasing(area=0.3), "RandomErasing expected area and ratio"),
        (lambda: RandomErasing(value=None), "RandomErasing expected a value that is one number"),
        (lambda: Compose(padding_mode="wrap"), "Compose expected a padding_mode"),
    ],
)
def test_refusals_name_what_was_called(make, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        make()


@pytest.mark.parametrize(
    "make",
    [
        partial(RandomFlip, 0.5),
        RandomDihedral,
        partial(RandomCrop, 20),
        partial(RandomResizedCrop, 16),
        partial(PerspectiveWarp, 0.3),
    ],
)
def test_image_transforms_repeat_and_go_on_after_pickling(make):
    first, second = make(seed=4), make(seed=4)
    image = picture()
    results = [first(image).tobytes() for _ in range(6)]
    assert [second(image).tobytes() for _ in range(3)] == results[:3]
    again = pickle.loads(pickle.dumps(second))
    assert [again(image).tobytes() for _ in range(3)] == results[3:]
    assert image.tobytes() == picture().tobytes(), "the image of the caller is as it was"


@pytest.mark.parametrize("image", [torch.ones(3, 8, 8), np.ones((8, 8, 3)), "a.png"])
@pytest.mark.parametrize("make", [RandomFlip, RandomDihedral, partial(RandomCrop, 4)])
def test_image_transforms_say_that_they_want_pil_images(make, image):
    with pytest.raises(TypeError, match=f"expected a PIL image, got {type(image).__name__}"):
        make()(image)


def test_numpys_whole_numbers_are_whole_numbers():
    number = np.int64(7)
    assert RandomCrop(number, seed=number)(picture()).size == (7, 7)
    repeated = RandomFlip(seed=7), RandomFlip(seed=number)
    first, second = ([flip(picture()).tobytes() for _ in range(9)] for flip in repeated)
    assert first == second


def test_the_base_asks_for_a_change():
    with pytest.raises(NotImplementedError, match="ImageTransform has no change"):
        ImageTransform(1.0)(picture())
    with pytest.raises(NotImplementedError, match="Geometric has no draw"):
        Geometric()(pictures())
    with pytest.raises(NotImplementedError, match="BatchTransform has no change"):
        BatchTransform()(pictures())


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid behavior")  # of single pixels
@given(n=st.integers(1, 3), height=SIDES, width=SIDES, align=st.booleans(), seed=st.integers(0, 9))
def test_affine_grid_is_torchs(n, height, width, align, seed):
    theta = torch.randn(n, 2, 3, generator=seeded(seed), dtype=torch.float64)
    size = (n, 1, height, width)
    torch.testing.assert_close(
        affine_grid(theta, size, align), F.affine_grid(theta, size, align_corners=align)
    )


def test_affine_grid_has_torchs_gradients():
    size = (2, 3, 4, 5)
    same_as(
        lambda t: affine_grid(t, size),
        lambda t: F.affine_grid(t, size, align_corners=False),
        torch.randn(2, 2, 3, generator=seeded(0)),
    )


def test_a_third_row_divides():
    theta = torch.eye(3)[None].clone()
    theta[0, 2] = torch.tensor([0.2, -0.1, 1.5])
    plain = affine_grid(torch.eye(2, 3)[None], (1, 1, 4, 6))
    depth = 0.2 * plain[..., 0] - 0.1 * plain[..., 1] + 1.5
    torch.testing.assert_close(affine_grid(theta, (1, 1, 4, 6)), plain / depth[..., None])
    assert torch.autograd.gradcheck(
        lambda t: affine_grid(t, (1, 1, 2, 2)), theta.double().requires_grad_()
    )


@pytest.mark.parametrize(
    "theta, size, said",
    [
        (torch.eye(2), (1, 1, 2, 2), "theta of shape"),
        (torch.zeros(2, 2, 2), (2, 1, 2, 2), "theta of shape"),
        (torch.zeros(2, 2, 3), (3, 1, 2, 2), "a size .2, C, H, W. for 2 matrices"),
        (torch.zeros(2, 2, 3), (2, 2, 2), "a size"),
        (torch.zeros(2, 2, 3), (2, 1, 0, 2), "a size"),
    ],
)
def test_affine_grid_refuses(theta, size, said):
    with pytest.raises(ValueError, match=f"affine_grid expected {said}"):
        affine_grid(theta, size)


SQUARE = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)


@given(seed=st.integers(0, 99))
def test_a_homography_takes_four_points_where_they_should_go(seed):
    source, target = SQUARE + 0.4 * torch.rand(2, 4, 2, generator=seeded(seed)).double()
    matrix = homography(source, target)
    moved = F.pad(source, (0, 1), value=1.0) @ matrix.T
    torch.testing.assert_close(moved[:, :2] / moved[:, 2:], target)
    back = homography(target, source) @ matrix
    torch.testing.assert_close(back / back[2, 2], torch.eye(3).double())


def test_homographies_come_in_batches():
    targets = SQUARE + 0.3 * torch.rand(5, 2, 4, 2, generator=seeded(0)).double()
    many = homography(SQUARE.expand(5, 2, 4, 2), targets)
    assert many.shape == (5, 2, 3, 3)
    torch.testing.assert_close(many[3, 1], homography(SQUARE, targets[3, 1]))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "second, third",
    [((1, 0), (2, 0)), ((0.1, 0.1), (0.3, 0.3)), ((1, 0), (1, math.nan)), ((1, 1), (1, 1))],
)
def test_three_points_on_a_line_are_refused(second, third, kind):
    line = torch.tensor([[0.0, 0], second, third, [0, 1]], dtype=kind) / 3
    said = "homography expected points of which no three"
    with pytest.raises(ValueError, match=said):
        homography(line, SQUARE.to(kind))
    with pytest.raises(ValueError, match=said):
        homography(SQUARE.to(kind), line)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64])
def test_what_is_no_line_is_taken_at_any_scale(kind, scale):
    scale = int(max(1, scale)) if kind is torch.int64 else scale
    points = torch.tensor([[0.0, 0], [4, 1], [5, 5], [-1, 3]]).mul(scale).to(kind)
    matrix = homography(points, 2 * points)
    points = points.to(matrix.dtype)
    moved = F.pad(points, (0, 1), value=1.0) @ matrix.T
    torch.testing.assert_close(moved[:, :2] / moved[:, 2:] / scale, 2 * points / scale)


@pytest.mark.parametrize("shapes", [((3, 2), (3, 2)), ((4, 2), (2, 4, 2)), ((4, 3), (4, 3))])
def test_homographies_want_four_points_and_four_places(shapes):
    with pytest.raises(ValueError, match="homography expected two tensors of points"):
        homography(*map(torch.ones, shapes))


HORIZON = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0, 1]])  # 0 two pixels left of the center


def test_points_may_be_lists():
    corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
    torch.testing.assert_close(homography(corners, corners), torch.eye(3))


MATRICES = {
    "turn": rotation(20.0),
    "zoom": affine_matrix(0.8, 0, 0, 1.1),
    "shift": affine_matrix(1, 0, 0, 1, 2.3, -1.4),
    "perspective": homography(20 * SQUARE, 20 * SQUARE * torch.tensor([[0.9], [0.7], [1], [0.8]])),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_warp_is_pils(name):
    image, matrix = picture(48, 36), MATRICES[name]
    to_center = affine_matrix(1, 0, 0, 1, -24, -18)
    whole = to_center.inverse() @ matrix @ to_center
    coeffs = (whole / whole[2, 2]).flatten()[:8].tolist()
    perspective = Image.Transform.PERSPECTIVE
    theirs_ = image.transform((48, 36), perspective, coeffs, Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).movedim(-1, 0)[None].double()
    inside = warp(torch.ones(1, 3, 36, 48), matrix, padding_mode="zeros") > 0.9999
    gap = (warp(x, matrix) - torch.from_numpy(np.array(theirs_)).movedim(-1, 0))[inside]
    assert inside.float().mean() > 0.4
    assert gap.min() > -1e-3
    assert gap.max() < 1 + 1e-3, "PIL cuts off the fraction"


def test_pils_rotation_has_our_direction():
    image = picture(40, 40)
    theirs_ = torch.from_numpy(np.array(image.rotate(90))).movedim(-1, 0)[None].float()
    x = torch.from_numpy(np.array(image)).movedim(-1, 0)[None].float()
    torch.testing.assert_close(warp(x, rotation(90.0)), theirs_, atol=0.01, rtol=0)


def test_find_coeffs_are_pils():
    corners = [(0, 0), (40, 0), (40, 30), (0, 30)]
    image = picture()
    coeffs = find_coeffs(corners, corners[1:] + corners[:1])
    turned = image.transform((40, 30), Image.Transform.PERSPECTIVE, coeffs)
    assert np.array(turned)[0, 0].tolist() == np.array(image)[0, 39].tolist()


def test_a_turn_keeps_angles_also_where_images_are_wide():
    points = torch.tensor([[[50.0, 10], [70, 10], [50, 30]]])
    a, b, c = move_points(points, rotation(33.0)[None], 40, 100)[0]
    assert abs((b - a) @ (c - a)) < 1e-3
    assert abs((b - a).norm() - 20) < 1e-3


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_places_are_exact_in_any_type(kind):
    x = pictures(2, 1, 40, 600)
    y = warp(x.to(kind), affine_matrix(1, 0, 0, 1, 7.0, 0))
    assert y.dtype == kind
    gap = (y[..., :593].double() - x.to(kind)[..., 7:].double()).abs().max()
    assert gap < {torch.float16: 1e-3, torch.bfloat16: 5e-3, torch.float64: 1e-9}[kind]


def test_one_matrix_serves_all():
    x = pictures()
    torch.testing.assert_close(warp(x, rotation(10.0)), warp(x, rotation(10.0 * torch.ones(6))))


@pytest.mark.parametrize(
    "call, error, said",
    [
        (lambda: warp(torch.ones(3, 4, 4), torch.eye(3)), ValueError, "warp expected a batch"),
        (
            lambda: warp([1], torch.eye(3)),
            ValueError,
            "warp expected a batch of images .* got list",
        ),
        (lambda: warp(pictures().byte(), torch.eye(3)), TypeError, "floating-point images, got"),
        (lambda: warp(pictures(), torch.eye(3).repeat(5, 1, 1)), ValueError, "warp expected matri"),
        (lambda: warp(pictures(), torch.eye(2)), ValueError, "warp expected matrices"),
        (lambda: warp(pictures(), rotation(math.nan)), ValueError, "matrices of finite numbers"),
        (lambda: warp(pictures(), np.eye(3)), ValueError, "warp expected matrices .* got ndarray"),
        (lambda: warp(pictures(), torch.zeros(3, 3)), ValueError, "expected a horizon outside of"),
        (lambda: warp(pictures(), HORIZON), ValueError, "a horizon outside of the image, got"),
        (lambda: warp(pictures(), torch.eye(3), padding_mode="wrap"), ValueError, "warp expected"),
        (lambda: affine_grid(torch.eye(3)[None].long(), (1, 1, 2, 2)), TypeError, "floating-point"),
        (lambda: affine_grid(torch.eye(3)[None], (1, 1, 2.5, 2)), ValueError, "expected a size"),
        (lambda: Rotate()(pictures(), [1]), ValueError, "Rotate expected a tensor of masks"),
        (lambda: Rotate()(pictures(), None, [1]), ValueError, "expected a tensor of points"),
        (
            lambda: Rotate()(pictures(), torch.ones(3, 1, 1, 20, 30)),
            ValueError,
            "Rotate expected masks",
        ),
        (
            lambda: move_points(torch.ones(1, 1, 2), torch.zeros(1, 3, 3), 4, 4),
            ValueError,
            "move_points expected matrices that can be inverted",
        ),
        (
            lambda: PerspectiveWarp(resample=Image.Resampling.LANCZOS),
            ValueError,
            "PerspectiveWarp expected the filter",
        ),
        (lambda: Flip()(picture()), ValueError, "Flip expected a batch of images .* got Image"),
        (lambda: Rotate()(pictures().byte()), TypeError, "Rotate expected floating-point images"),
        (lambda: Compose(Lighting())(pictures().byte()), TypeError, "Lighting expected floating"),
        (lambda: Flip()(torch.ones(3, 4, 4)), ValueError, "Flip expected a batch of images"),
        (lambda: Compose(3), TypeError, "Compose expected transforms such as Flip.., got 3"),
        (lambda: Compose(Flip(seed=1)), ValueError, "parts without a seed, got one for Flip"),
        (lambda: Augment(Flip), TypeError, "Augment expected a transform such as Flip"),
    ],
)
def test_batches_refuse(call, error, said):
    with pytest.raises(error, match=said):
        call()


# --- batches --------------------------------------------------------------------------------------


@each_transform
def test_a_batch_transform_keeps_the_contract(name):
    make = BATCH_TRANSFORMS[name]
    x = pictures(40)
    before = x.clone()
    tfm = make(seed=0)
    y = tfm(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.equal(x, before), "the batch of the caller is as it was"
    assert not torch.equal(y, x)
    assert y.data_ptr() != x.data_ptr()
    assert torch.equal(make(seed=0)(x), y)
    assert not torch.equal(make(seed=1)(x), y)
    second = tfm(x)
    assert not torch.equal(second, y)
    assert tfm.eval()(x) is x
    assert not list(tfm.parameters())


@each_transform
def test_a_batch_transform_goes_on_from_its_state(name):
    make = BATCH_TRANSFORMS[name]
    x, tfm = pictures(), make(seed=0)
    tfm(x)
    state = copy.deepcopy(tfm.state_dict())
    copies = [copy.deepcopy(tfm), pickle.loads(pickle.dumps(tfm)), make()]
    copies[-1].load_state_dict(state)
    expected = tfm(x)
    for other in copies:
        assert torch.equal(other(x), expected)


@each_transform
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_batch_transform_takes_other_types(name, kind):
    x = pictures()
    y = BATCH_TRANSFORMS[name](seed=0)(x.to(kind))
    assert y.dtype == kind
    plain = BATCH_TRANSFORMS[name](seed=0)(x)
    assert (y.double() - plain.double()).abs().max() < (0.03 if kind == torch.bfloat16 else 4e-3)


@each_transform
def test_a_batch_transform_takes_any_layout(name):
    x = pictures()
    expected = BATCH_TRANSFORMS[name](seed=0)(x)
    wide = torch.cat([x, x], 3)[..., :17]
    last = x.contiguous(memory_format=torch.channels_last)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (wide, last, turned):
        result = BATCH_TRANSFORMS[name](seed=0)(other)
        torch.testing.assert_close(result, expected)
    one = x[:1]
    result = BATCH_TRANSFORMS[name](seed=0)(one.expand(6, -1, -1, -1))
    torch.testing.assert_close(result, BATCH_TRANSFORMS[name](seed=0)(one.repeat(6, 1, 1, 1)))
    assert len({image.tolist().__repr__() for image in result}) > 1, "each in its own way"


@each_transform
def test_a_batch_transform_takes_empty_and_single(name):
    tfm = BATCH_TRANSFORMS[name](seed=0)
    assert tfm(pictures(0)).shape == (0, 3, 12, 17)
    assert tfm(pictures(1)).shape == (1, 3, 12, 17)
    assert tfm(pictures(2, 1, 1, 1)).shape == (2, 1, 1, 1)


@each_transform
def test_gradients_go_through(name):
    x = pictures().requires_grad_()
    y = BATCH_TRANSFORMS[name](seed=0)(x)
    y.backward(torch.randn(y.shape, generator=seeded(1)))
    assert x.grad.isfinite().all()


@each_transform
def test_p_of_zero_changes_nothing(name):
    tfm = BATCH_TRANSFORMS[name](seed=0)
    for part in tfm.modules():
        if isinstance(part, BatchTransform):
            part.p = 0.0
    torch.testing.assert_close(tfm(pictures()), pictures(), atol=1e-5, rtol=0)


@each_transform
def test_a_default_device_changes_nothing(name):
    make, x = BATCH_TRANSFORMS[name], pictures()
    expected = make(seed=0)(x)
    with torch.device("meta"):
        make()(x)
        assert torch.equal(make(seed=0)(x), expected)


def test_a_default_device_does_not_reach_pil_transforms():
    image = picture()
    expected = PerspectiveWarp(0.4, 1.0, seed=0)(image).tobytes()
    with torch.device("meta"):
        assert PerspectiveWarp(0.4, 1.0, seed=0)(image).tobytes() == expected
        assert RandomResizedCrop(8)(image).size == (8, 8)


@each_transform
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_batch_transform_keeps_channels_last(name, kind):
    x = pictures().to(kind).contiguous(memory_format=torch.channels_last)
    y = BATCH_TRANSFORMS[name](seed=0)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_matrices_of_whole_numbers_do():
    mirror = torch.tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(warp(pictures(), mirror), pictures().flip(-1))


@pytest.mark.parametrize(
    "kind, result",
    [
        (torch.int64, torch.float32),
        (torch.float32, torch.float32),
        (torch.float16, torch.float16),
        (torch.float64, torch.float64),
    ],
)
def test_points_of_any_type_move_by_fractions(kind, result):
    points = torch.tensor([[[3, 5], [10, 2]]])
    moved = move_points(points.to(kind), rotation(33.0)[None], 13, 17)
    assert moved.dtype == result
    expected = move_points(points.double(), rotation(33.0)[None], 13, 17)
    torch.testing.assert_close(moved.double(), expected, atol=5e-3, rtol=0)
    assert (expected - expected.round()).abs().max() > 0.1


@pytest.mark.parametrize("make", [Flip, Rotate, Lighting, lambda: Compose(Flip(), Zoom())])
@pytest.mark.parametrize(
    "moving, said",
    [
        ({"masks": torch.ones(6, 12, 16)}, r"masks \(6, 12, 17\) or"),
        ({"masks": torch.ones(12, 17)}, "expected masks"),
        ({"masks": torch.ones(5, 12, 17)}, "expected masks"),
        ({"points": torch.ones(6, 2)}, r"expected points \(6, K, 2\), got \(6, 2\)"),
        ({"points": torch.ones(1, 4, 2)}, "expected points"),
        ({"points": torch.ones(6, 4, 3)}, "expected points"),
    ],
)
def test_what_does_not_belong_to_the_images_is_refused(make, moving, said):
    with pytest.raises(ValueError, match=said):
        make()(pictures(), **moving)


def test_a_part_that_drew_its_seed_may_be_composed():
    flip = Flip()
    flip(pictures())
    Compose(flip, seed=0)(pictures())


def test_quadrilaterals_do_not_fold():
    for seed in range(20):
        matrix = Warp(0.66).draw(500, 100, 100, seeded(seed))
        corners = torch.tensor([[-50.0, -50, 1], [50, -50, 1], [50, 50, 1], [-50, 50, 1]]).double()
        assert (matrix[:, 2] @ corners.mT > 0).all(), "no place lies behind the eye"


def test_channels_last_stays():
    x = pictures().contiguous(memory_format=torch.channels_last)
    assert warp(x, rotation(5.0)).is_contiguous(memory_format=torch.channels_last)


def test_flip_is_exact_and_takes_bytes():
    x = torch.randint(256, (200, 3, 4, 5), generator=seeded(0), dtype=torch.uint8)
    for tfm in (Flip(seed=0), Compose(Flip(), seed=0)):
        y = tfm(x)
        mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(y, x, strict=True)]
        kept = [torch.equal(a, b) for a, b in zip(y, x, strict=True)]
        assert all(a != b for a, b in zip(mirrored, kept, strict=True))
        assert 70 < sum(mirrored) < 130


def test_composing_is_one_warp_by_the_product_in_order():
    x = pictures()
    parts = [Rotate(30), Zoom(1.1, 1.5), Translate(0.2), Warp(0.3), Flip()]
    composed = Compose(*parts, seed=0)
    generator = RandomStream(0, "Compose").generator()
    matrices = [part.matrix(6, 12, 17, generator) for part in parts]
    torch.testing.assert_close(composed(x), warp(x, reduce(torch.matmul, matrices)))
    steps = x
    for matrix in matrices:  # on a smooth image the steps agree with it
        steps = warp(steps, matrix)
    ramp = torch.linspace(0, 1, 60)[:, None] + torch.linspace(0, 1, 60)
    ramp = ramp.expand(1, 1, 60, 60)
    first, second = rotation(10.0), affine_matrix(0.8, 0, 0, 0.8, 3, 0)
    at_once, by_step = warp(ramp, first @ second), warp(warp(ramp, first), second)
    other = warp(ramp, second @ first)
    inner = (..., slice(15, 45), slice(15, 45))
    assert (at_once - by_step)[inner].abs().max() < 1e-3
    assert (other - by_step)[inner].abs().max() > 1e-3


def test_composing_keeps_the_order_around_what_is_not_geometric():
    holes = RandomErasing(1.0, area=(0.2, 0.2), value=5.0)
    x = torch.zeros(4, 1, 40, 40)
    last = Compose(Rotate(45), holes, seed=0)(x)
    first = Compose(holes, Rotate(45), seed=0)(x)
    assert set(last.unique().tolist()) == {0.0, 5.0}, "erased last: sharp edges"
    assert len(first.unique()) > 2, "erased first: the hole is turned"


def test_a_part_in_evaluation_mode_is_left_out():
    tfm = Compose(Flip(1.0), Lighting(0.5, 0.5), seed=0)
    tfm.parts[1].eval()
    assert torch.equal(tfm(pictures()), pictures().flip(-1))


def test_nested_compositions_work():
    inner = Compose(Flip(1.0))
    assert torch.equal(Compose(inner, seed=0)(pictures()), pictures().flip(-1))


def test_padding_of_a_composition():
    x = torch.ones(2, 1, 8, 8)
    assert Compose(Zoom(0.5, 0.5), padding_mode="zeros", seed=0)(x).min() == 0
    assert Compose(Zoom(0.5, 0.5), seed=0)(x).min() > 0.999


def test_masks_move_by_the_nearest_pixel():
    masks = torch.randint(5, (6, 12, 17), generator=seeded(0))
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.float32):
        tfm = Compose(Rotate(30), Zoom(), seed=0)
        images, moved = tfm(pictures(), masks=masks.to(dtype))
        assert moved.dtype == dtype
        assert moved.shape == masks.shape
        assert set(moved.unique().tolist()) <= set(masks.to(dtype).unique().tolist())
        torch.testing.assert_close(images, Compose(Rotate(30), Zoom(), seed=0)(pictures()))
    deep = masks[:, None].repeat(1, 2, 1, 1)
    _, moved_deep = Compose(Rotate(30), Zoom(), seed=0)(pictures(), masks=deep)
    torch.testing.assert_close(moved_deep[:, 1].float(), moved.float())


@pytest.mark.parametrize("name", ["Flip", "Rotate", "Zoom", "Translate", "Warp", "Compose"])
def test_masks_and_points_stay_with_the_image(name):
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    blob = (-((x - 44.5) ** 2 + (y - 33.5) ** 2) / 8).exp().expand(12, 1, 60, 80)
    points = torch.tensor([[45.0, 34.0]]).expand(12, 1, 2)
    tfm = {
        "Flip": Flip(seed=0),
        "Rotate": Rotate(30, seed=0),
        "Zoom": Zoom(0.8, 1.3, seed=0),
        "Translate": Translate(0.1, seed=0),
        "Warp": Warp(0.2, seed=0),
        "Compose": Compose(Flip(), Rotate(30), Zoom(1, 1.2), Warp(0.2), seed=0),
    }[name]
    images, masks, moved = tfm(blob, masks=(blob[:, 0] > 0.5), points=points)
    for image, mask, (place,) in zip(images, masks, moved, strict=True):
        total = image[0].sum()
        center = torch.stack([((x + 0.5) * image[0]).sum(), ((y + 0.5) * image[0]).sum()]) / total
        assert (center - place).abs().max() < 0.5
        assert mask[int(place[1]), int(place[0])]


def test_only_what_was_given_comes_back():
    points = torch.ones(6, 1, 2)
    assert isinstance(Flip()(pictures()), torch.Tensor)
    assert len(Flip()(pictures(), points=points)) == 2
    kept = Lighting().eval()(pictures(), points=points)
    assert kept[1] is points


def test_lighting_is_a_factor_and_a_summand_for_each_image():
    x = pictures(50)
    y = Lighting(0.3, 0.5, seed=0)(x)
    shift = y.mean((1, 2, 3)) - x.mean((1, 2, 3))
    factor = y.std((1, 2, 3)) / x.std((1, 2, 3))
    assert shift.abs().max() <= 0.3 + 1e-6
    assert shift.abs().max() > 0.25
    assert factor.max() <= 1.5 + 1e-5
    assert factor.min() >= 1 / 1.5 - 1e-5
    assert factor.max() > 1.4
    assert len(factor.unique()) == 50


def test_each_image_loses_a_rectangle_of_its_own():
    x = torch.ones(400, 2, 20, 30)
    y = RandomErasing(0.75, area=(0.1, 0.3), seed=0)(x)
    holes = y[:, 0] == 0
    assert torch.equal(y[:, 0], y[:, 1])
    sizes = holes.float().mean((1, 2))
    hit = sizes > 0
    assert 270 < hit.sum() < 330
    assert sizes[hit].min() > 0.08
    assert sizes[hit].max() < 0.33
    assert abs(sizes[hit].mean() - 0.2) < 0.015
    assert len({hole.tolist().__repr__() for hole in holes[hit]}) > 250
    for hole in holes[hit]:
        rows, columns = hole.any(1), hole.any(0)
        assert hole.sum() == rows.sum() * columns.sum(), "a whole rectangle"
    many = RandomErasing(1.0, area=(0.1, 0.3), seed=0)(torch.ones(4000, 1, 20, 30))
    assert (many == 0).any(0).all(), "every place at some time"


def test_what_never_fits_is_not_erased():
    x = torch.ones(5, 1, 2, 50)
    assert torch.equal(RandomErasing(1.0, area=(0.9, 1), ratio=(3, 3), seed=0)(x), x)


def test_zoom_enlarges_and_translate_shifts_by_pixels():
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20, 28] = 1
    enlarged = Zoom(1.5, 1.5, seed=0)(x)
    assert enlarged[0, 0].argmax() == 20 * 41 + 32
    matrix = Translate(0.25, seed=0).matrix(500, 40, 80, seeded(0))
    assert matrix[:, 0, 2].abs().max() <= 20
    assert matrix[:, 0, 2].abs().max() > 18
    assert matrix[:, 1, 2].abs().max() <= 10


def test_a_single_warp_shows_nothing_from_outside():
    x = torch.ones(50, 1, 20, 30)
    y = Compose(Warp(0.6), padding_mode="zeros", seed=0)(x)
    assert y[..., 1:-1, 1:-1].min() > 0.99


# --- the callback ---------------------------------------------------------------------------------


class Seen(nn.Module):
    """A model that notes what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)
        self.inputs = {True: [], False: []}

    def forward(self, x, *others):
        self.inputs[self.training].append(x.detach().clone())
        return self.linear(x.flatten(1))


def learner(*cbs, n: int = 3, extra: bool = False):
    """A learner of a few batches of images."""
    more = [torch.ones(4)] if extra else []
    batches = [(pictures(4, 1, 3, 4, seed=k), *more, torch.arange(4) % 3) for k in range(n)]
    torch.manual_seed(0)
    data = DataBunch(batches, batches[:1])
    return Learner(Seen(), data, cross_entropy, lr=0.1, cbs=cbs, default_cbs=False)


@pytest.mark.parametrize("extra", [False, True])
def test_augment_changes_training_batches_only(extra):
    learn = learner(Augment(Flip(1.0)), extra=extra)
    before = [batch[0].clone() for batch in learn.data.train_dl]
    learn.fit(1)
    for given_, seen in zip(before, learn.model.inputs[True], strict=True):
        assert torch.equal(seen, given_.flip(-1))
    assert torch.equal(learn.model.inputs[False][0], before[0])
    for batch, given_ in zip(learn.data.train_dl, before, strict=True):
        assert torch.equal(batch[0], given_), "the loader's batches are as they were"


def test_augment_takes_any_function():
    learn = learner(Augment(torch.neg))
    learn.fit(1)
    assert (learn.model.inputs[True][0] <= 0).all()
    assert Augment(torch.neg).state_dict() == {}


def test_a_resumed_fit_goes_on_in_the_augmentation(tmp_path):
    def tfm():
        return Augment(Compose(Flip(), Rotate(20), RandomErasing(), seed=5))

    whole = learner(tfm())
    whole.fit(4)
    first = learner(tfm(), Checkpoint(tmp_path / "run"))
    first.fit(2)
    second = learner(Augment(Compose(Flip(), Rotate(20), RandomErasing())))
    state = first.cbs[0].state_dict()
    second.cbs[0].load_state_dict(state)
    second.model.load_state_dict(first.model.state_dict())
    second.fit(2)
    expected = whole.model.inputs[True][6:]
    for seen, right in zip(second.model.inputs[True], expected, strict=True):
        assert torch.equal(seen, right)


def test_every_exported_name_is_tried_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in augment.__all__ if name not in source] == []
    assert Batch(pictures()).masks is None


def test_the_exercises_take_other_forms_of_right_answers():
    image = [[1, 2, 3], [4, 5, 4], [3, 2, 1]]
    for answer in (image, np.array(image)):
        assert exercises.ex_8a_5.judge(answer).passed
    for form in (torch.Tensor.tolist, torch.Tensor.numpy):
        assert exercises.ex_8a_3.judge(lambda *a, f=form: f(exercises._turn_about(*a))).passed
    said = exercises.ex_8a_2.judge(-2)
    assert said.passed
    assert "to the left" in str(said)
    erased = exercises._random_erasing(torch.ones(2, 1, 8, 8).byte(), 0.2, seeded(0))
    assert erased.dtype == torch.uint8
