"""Chapter 10a: label smoothing against torch, mixing against its definition, and wrong ones."""

import copy
import itertools
import math
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fromfound.callback import Callback, ProgressBar, Recorder
from fromfound.exercises import mixup as exercises
from fromfound.experiments import mixup as experiments
from fromfound.learner import CancelBatchException, CancelFitException, Checkpoint, DataBunch
from fromfound.learner import Learner
from fromfound.mixup import CutMix, LabelSmoothingCrossEntropy, MixUp, RandomMix, random_boxes
from fromfound.schedule import LRFinder
from fromfound.training import cross_entropy
from tests.toys import same, seeded

N, CLASSES = 6, 4
IMAGES = torch.randn(N, 2, 5, 7, generator=seeded(1))
LABELS = torch.randint(CLASSES, (N,), generator=seeded(2))
SOFT = torch.randn(N, CLASSES, generator=seeded(3)).softmax(1)
ODD = [(IMAGES, LABELS), (IMAGES[:1], LABELS[:1]), (IMAGES[:3], LABELS[:3])]


# --- label smoothing ------------------------------------------------------------------------------

SHAPES = (CLASSES,), (5, CLASSES), (1, CLASSES), (3, CLASSES, 2), (2, CLASSES, 2, 3), (0, CLASSES)
DTYPES = torch.float32, torch.float64, torch.float16, torch.bfloat16


def logits_of(shape, dtype):
    return (3 * torch.randn(shape, generator=seeded(4))).to(dtype)


def indices_of(shape, ignored):
    """Class indices for logits of a shape; of several the first is to be ignored."""
    places = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = torch.randint(CLASSES, places, generator=seeded(5))
    if target.numel() > 1:
        target.view(-1)[0] = ignored
    return target


def compared(mine, theirs, logits, target, tol):
    """Compare loss and gradient of logits with torch's in 32 bits or more."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    given = logits.clone().requires_grad_()
    exact = logits.to(wide, copy=True).requires_grad_()
    goal = target.to(wide) if target.is_floating_point() else target
    got, expected = mine(given, target), theirs(exact, goal)
    assert got.shape == expected.shape
    torch.testing.assert_close(got.to(wide), expected, rtol=tol, atol=tol, equal_nan=True)
    pull = torch.randn(expected.shape, generator=seeded(6)).to(wide)
    got.backward(pull.to(got.dtype))
    expected.backward(pull)
    assert given.grad.dtype == logits.dtype
    torch.testing.assert_close(given.grad.to(wide), exact.grad, rtol=tol, atol=tol, equal_nan=True)
    return got


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smoothing_is_torchs(shape, dtype):
    tol = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    logits, dim = logits_of(shape, dtype), min(1, len(shape) - 1)
    soft = torch.randn(shape, generator=seeded(7)).softmax(dim).to(dtype)
    weights = None, torch.tensor([0.5, 1.5, 1.0, 2.0])
    table = itertools.product((0.0, 0.1, 0.7, 1.0), weights, (-100, 1), ("none", "mean", "sum"))
    for part, weight, ignored, reduction in table:
        own = weight if weight is None else weight.to(dtype)
        mine = LabelSmoothingCrossEntropy(
            part, weight=own, ignore_index=ignored, reduction=reduction
        )
        if weight is not None:
            weight = weight.to(torch.promote_types(dtype, torch.float32))
        theirs = nn.CrossEntropyLoss(
            weight, ignore_index=ignored, reduction=reduction, label_smoothing=part
        )
        found = compared(mine, theirs, logits, indices_of(shape, ignored), tol)
        assert found.dtype == dtype
        if ignored < 0:
            found = compared(mine, theirs, logits, soft, tol)
            assert found.dtype == dtype


def test_half_precision_is_computed_in_32_bits():
    """A thousand small losses add up; in 16 bits their sum would stop growing."""
    logits = torch.zeros(4096, CLASSES, dtype=torch.bfloat16)
    target = torch.zeros(4096, dtype=torch.long)
    found = LabelSmoothingCrossEntropy(0.1)(logits, target)
    assert found.dtype == torch.bfloat16
    assert found.item() == pytest.approx(math.log(CLASSES), rel=4e-3)
    with torch.autocast("cpu", torch.bfloat16):
        found = LabelSmoothingCrossEntropy(0.1)(logits, target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(math.log(CLASSES), rel=1e-6)


def test_smoothing_has_the_state_of_torchs():
    weight = torch.rand(CLASSES)
    mine, theirs = LabelSmoothingCrossEntropy(weight=weight), nn.CrossEntropyLoss(weight)
    assert list(mine.state_dict()) == list(theirs.state_dict()) == ["weight"]
    mine.load_state_dict(theirs.state_dict())
    assert not LabelSmoothingCrossEntropy().state_dict()
    for name in ("label_smoothing", "ignore_index", "reduction"):
        assert hasattr(theirs, name)
        assert hasattr(mine, name)


@pytest.mark.parametrize("part", [-0.1, 1.1, math.nan, "0.1", None])
def test_smoothing_refuses_what_is_no_part(part):
    said = "LabelSmoothingCrossEntropy expected label_smoothing from 0 to 1, got"
    with pytest.raises(ValueError, match=said):
        LabelSmoothingCrossEntropy(part)


def test_smoothing_refuses_what_cross_entropy_refuses():
    with pytest.raises(ValueError, match="expected reduction 'none', 'mean' or 'sum', got 'avg'"):
        LabelSmoothingCrossEntropy(reduction="avg")
    loss = LabelSmoothingCrossEntropy()
    logits = torch.randn(N, CLASSES)
    for target, error, said in (
        (LABELS[:3], ValueError, "expected a target of shape"),
        (LABELS + 9, IndexError, "expected class indices from 0 to 3"),
        ([1, 2], TypeError, "expected a tensor of targets"),
        (LABELS.float(), TypeError, "dtype int64"),
    ):
        with pytest.raises(error, match=said):
            loss(logits, target)
    with pytest.raises(TypeError, match="expected floating-point scores"):
        loss(logits.long(), LABELS)
    with pytest.raises(ValueError, match="got probabilities"):
        LabelSmoothingCrossEntropy(ignore_index=1)(logits, SOFT)


# --- mixing, against its definition ---------------------------------------------------------------


class Seen(Callback):
    """Looks at what a callback before it has made of each batch."""

    order = 1

    def __init__(self):
        self.inputs, self.parts, self.values, self.modes = [], [], [], []

    def after_loss(self):
        learn = self.learn
        mixing = next(cb for cb in learn.cbs if isinstance(cb, MixUp))
        self.inputs.append(learn.xb)
        self.parts.append((mixing.lam, mixing.partner))
        self.values.append((learn.pred, learn.loss))
        self.modes.append(learn.training)


def network(n_classes=CLASSES):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(70, n_classes))


def fitted(cb, loss_func=F.cross_entropy, train=ODD, valid=None, epochs=1, model=None, **options):
    model = network() if model is None else model
    learn = Learner(model, DataBunch(train, valid), loss_func, **{"default_cbs": False} | options)
    torch.manual_seed(1)
    learn.fit(epochs, cbs=[cb, seen := Seen()])
    return learn, seen


def mixed_targets(lam, partner, target):
    hard = target if target.is_floating_point() else F.one_hot(target, CLASSES).float()
    return lam[:, None] * hard + (1 - lam[:, None]) * hard[partner]


@pytest.mark.parametrize("part", [0.0, 0.2])
@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["indices", "probabilities"])
@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_loss_is_that_of_the_mixed_target(make, target, part):
    batches = [(IMAGES, target), (IMAGES[:1], target[:1])]
    loss_func = LabelSmoothingCrossEntropy(part)
    _, seen = fitted(make(1.0), loss_func, batches)
    for (_, y), (lam, partner), (pred, loss) in zip(batches, seen.parts, seen.values, strict=True):
        expected = loss_func(pred, mixed_targets(lam, partner, y))
        torch.testing.assert_close(loss, expected)
        assert sorted(partner.tolist()) == list(range(len(y)))
        assert lam.shape == (len(y),)


def test_blended_images_are_what_lam_says():
    _, seen = fitted(MixUp(1.0))
    for (x, _), (mixed,), (lam, partner) in zip(ODD, seen.inputs, seen.parts, strict=True):
        part = lam[:, None, None, None]
        torch.testing.assert_close(mixed, part * x + (1 - part) * x[partner])
    assert torch.equal(seen.inputs[1][0], IMAGES[:1])  # alone, it is mixed with itself


def test_cut_images_are_what_lam_says():
    torch.manual_seed(0)
    for height, width in ((5, 7), (1, 9), (28, 28), (2, 2)):
        x = torch.arange(16.0)[:, None, None, None].expand(16, 2, height, width)
        partner = torch.randperm(16)
        (mixed,), lam = CutMix().mix((x,), partner)
        own = (mixed == x).float().mean((1, 2, 3))
        whole = partner == torch.arange(16)
        torch.testing.assert_close(own[~whole], lam[~whole])
        assert ((mixed == x) | (mixed == x[partner])).all()
        assert torch.equal(mixed[:, 0], mixed[:, 1])  # all channels are cut alike


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.4, 1.0, 4.0, 100.0])
def test_lam_is_of_a_beta_distribution(alpha):
    torch.manual_seed(0)
    lam = MixUp(alpha).draw(40_000).double()
    assert lam.min() >= 0
    assert lam.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    assert lam.mean().item() == pytest.approx(0.5, abs=4 * (variance / 40_000) ** 0.5)
    assert lam.var().item() == pytest.approx(variance, rel=0.04)
    fourth = ((lam - 0.5) ** 4).mean().item()
    expected = 3 * variance**2 * (2 * alpha + 1) / (2 * alpha + 3)  # of Beta(alpha, alpha)
    assert fourth == pytest.approx(expected, rel=0.06)


def box_faults(draw):
    """What is wrong with how boxes are drawn, by name."""
    torch.manual_seed(0)
    faults = set()
    for kept, (height, width) in itertools.product((0.2, 0.75), ((40, 24), (24, 40))):
        lam = torch.full((4000,), kept)
        boxes = draw(lam, height, width)
        if boxes.shape != (4000, height, width):
            return {"shape"}
        rows, columns = boxes.any(2).sum(1).double(), boxes.any(1).sum(1).double()
        if not torch.equal(rows * columns, boxes.sum((1, 2)).double()):
            faults.add("not a box")
        side = (1 - kept) ** 0.5
        for length, whole in ((rows, height), (columns, width)):
            if abs(length.max() - side * whole) > 1:
                faults.add("sides")
            # clipped by u from a center that is uniform: the mean length, as a fraction
            expected = side - side**2 / 4
            if abs(length.mean() / whole - expected) > 0.02:
                faults.add("center")
        if abs(torch.corrcoef(torch.stack([rows, columns]))[0, 1]) > 0.1:
            faults.add("rows and columns together")
        covered = boxes.double().mean(0)
        if abs(covered[0, 0] / (side / 2) ** 2 - 1) > 0.2:
            faults.add("corner")
        if (boxes != boxes[:1]).double().mean() < 0.05:
            faults.add("one box")
    return faults


def inner_boxes(lam, height, width, fault=""):
    """Boxes drawn by integers, with a fault of a given name."""
    found = torch.zeros(len(lam), height, width, dtype=torch.bool)
    for box, kept in zip(found, lam.tolist(), strict=True):
        side = 1 - kept if fault == "area for side" else (1 - kept) ** 0.5
        h, w = side * height, side * width
        if fault == "square":
            h = w = side * min(height, width)
        u, v = torch.rand(2).tolist()
        if fault == "diagonal":
            v = u
        y, x = u * height, v * width
        if fault == "never clipped":
            y, x = h / 2 + u * (height - h), w / 2 + v * (width - w)
        if fault == "from its corner":
            y, x = y + h / 2, x + w / 2
        if fault == "center":
            y, x = height / 2, width / 2
        top, left = max(0, round(y - h / 2)), max(0, round(x - w / 2))
        box[top : max(0, round(y + h / 2)), left : max(0, round(x + w / 2))] = True
    if fault == "one for all":
        found[:] = found[:1].clone()
    return found


def test_boxes_are_drawn_as_described():
    assert not box_faults(random_boxes)
    assert not box_faults(inner_boxes)
    assert not random_boxes(torch.ones(9), 5, 5).any()


@pytest.mark.parametrize(
    "fault",
    [
        "area for side",
        "square",
        "diagonal",
        "never clipped",
        "from its corner",
        "center",
        "one for all",
    ],
)
def test_wrong_boxes_are_found(fault):
    assert box_faults(partial(inner_boxes, fault=fault))


class Unclipped(CutMix):
    """Keeps the part that was asked for, whatever the border cut off."""

    def mix(self, inputs, partner):
        lam = self.draw(len(partner))
        inside = random_boxes(lam, *inputs[0].shape[2:])[:, None]
        return tuple(torch.where(inside, x[partner], x) for x in inputs), lam


def test_an_unclipped_lam_is_found():
    torch.manual_seed(0)
    x = torch.arange(64.0)[:, None, None, None].expand(64, 1, 9, 9)
    partner = torch.arange(64).roll(1)
    off = {}
    for make in (CutMix, Unclipped):
        (mixed,), lam = make().mix((x,), partner)
        off[make] = ((mixed == x).float().mean((1, 2, 3)) - lam).abs().max()
    assert off[CutMix] < 1e-6
    assert off[Unclipped] > 0.2


def test_both_ways_take_turns():
    cb = RandomMix(MixUp(1.0), CutMix(1.0))
    _, seen = fitted(cb, train=[(IMAGES, LABELS)] * 40)
    cut = [bool(torch.isin(mixed, IMAGES).all()) for (mixed,) in seen.inputs]
    assert 8 < sum(cut) < 32
    for (pred, loss), (lam, partner) in zip(seen.values, seen.parts, strict=True):
        expected = F.cross_entropy(pred, mixed_targets(lam, partner, LABELS))
        torch.testing.assert_close(loss, expected)


# --- with all kinds of losses, batches and precision ----------------------------------------------


class Learned(nn.Module):
    """A loss with a temperature that is trained, too."""

    def __init__(self):
        super().__init__()
        self.reduction = "mean"
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, pred, target):
        return F.cross_entropy(pred * self.scale, target, reduction=self.reduction)


def positional(pred, target, reduction="sum"):
    """A loss function of a user."""
    return F.cross_entropy(pred, target, reduction=reduction)


WEIGHT = torch.tensor([0.5, 1.5, 1.0, 2.0])
LOSSES = {  # and what is expected of logits and a mixed target
    "function": (F.cross_entropy, F.cross_entropy),
    "ours": (cross_entropy, F.cross_entropy),
    "module": (nn.CrossEntropyLoss(), F.cross_entropy),
    "partial": (
        partial(F.cross_entropy, label_smoothing=0.2),
        partial(F.cross_entropy, label_smoothing=0.2),
    ),
    "weights": (nn.CrossEntropyLoss(WEIGHT), partial(F.cross_entropy, weight=WEIGHT)),
    "sum": (
        nn.CrossEntropyLoss(reduction="sum"),
        partial(F.cross_entropy, reduction="sum"),
    ),
    "function, sum": (positional, partial(F.cross_entropy, reduction="sum")),
    "compiled": (torch.compile(nn.CrossEntropyLoss(), backend="eager"), F.cross_entropy),
    "learned": (Learned(), F.cross_entropy),
}


@pytest.mark.filterwarnings("ignore")  # what the compiler of torch says
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss_func, expected = LOSSES[name]
    state = copy.deepcopy({**vars(loss_func)}) if name != "compiled" else {}
    _, seen = fitted(MixUp(1.0), loss_func, [(IMAGES, LABELS)], lr=0.0)
    ((lam, partner),), ((pred, loss),) = seen.parts, seen.values
    torch.testing.assert_close(loss, expected(pred, mixed_targets(lam, partner, LABELS)))
    if hasattr(loss_func, "reduction"):
        assert loss_func.reduction == ("sum" if name == "sum" else "mean")
    if "__dict__" in dir(loss_func) and name != "compiled":
        assert vars(loss_func).keys() == state.keys()


def test_a_loss_that_learns_gets_its_gradient():
    loss_func = Learned()

    def groups(params, lr):
        return torch.optim.SGD([*params, *loss_func.parameters()], lr=lr)

    fitted(MixUp(), loss_func, opt_func=groups)
    assert loss_func.scale.item() != 1


def test_a_log_likelihood_and_a_loss_of_several_labels():
    model = nn.Sequential(network(), nn.LogSoftmax(1))
    _, seen = fitted(MixUp(), nn.NLLLoss(), model=model)
    assert all(loss.isfinite() for _, loss in seen.values)
    batch = [(IMAGES, SOFT)]
    _, seen = fitted(MixUp(), nn.BCEWithLogitsLoss(), batch)
    ((lam, partner),), ((pred, loss),) = seen.parts, seen.values
    goal = mixed_targets(lam, partner, SOFT)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(pred, goal))


def test_a_target_for_each_pixel():
    model = nn.Conv2d(2, CLASSES, 1)
    target = torch.randint(CLASSES, (N, 5, 7), generator=seeded())
    _, seen = fitted(MixUp(1.0), train=[(IMAGES, target)], model=model)
    ((lam, partner),), ((pred, loss),) = seen.parts, seen.values
    hard = F.one_hot(target, CLASSES).movedim(3, 1).float()
    part = lam[:, None, None, None]
    goal = part * hard + (1 - part) * hard[partner]
    torch.testing.assert_close(loss, F.cross_entropy(pred, goal))


class Two(nn.Module):
    """A model of two inputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(70 + 3, CLASSES)

    def forward(self, image, row):
        return self.linear(torch.cat([image.flatten(1), row], 1))


def test_several_inputs_are_blended_alike():
    rows = torch.randn(N, 3, generator=seeded(8))
    _, seen = fitted(MixUp(1.0), train=[(IMAGES, rows, LABELS)], model=Two())
    ((lam, partner),), ((image, row),) = seen.parts, seen.inputs
    for mixed, given in ((image, IMAGES), (row, rows)):
        part = lam.reshape(-1, *[1] * (given.ndim - 1))
        torch.testing.assert_close(mixed, part * given + (1 - part) * given[partner])
    (one, two), _ = CutMix().mix((IMAGES, IMAGES[:, :1] + 50), partner)
    assert torch.equal(one[:, :1] + 50, two)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_other_precisions(make, dtype):
    batches = [(IMAGES.to(dtype), LABELS)]
    _, seen = fitted(make(1.0), train=batches, model=network().to(dtype))
    ((lam, partner),), ((pred, loss),) = seen.parts, seen.values
    assert seen.inputs[0][0].dtype == pred.dtype == dtype
    expected = F.cross_entropy(pred.double(), mixed_targets(lam, partner, LABELS).double())
    tol = 1e-6 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(loss.double(), expected, rtol=tol, atol=tol)


def test_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        _, seen = fitted(MixUp(1.0), LabelSmoothingCrossEntropy())
    for pred, loss in seen.values:
        assert pred.dtype == torch.bfloat16
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def test_with_channels_last():
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    for make in (MixUp, CutMix):
        one, two = (fitted(make(), train=[(x, LABELS)])[0] for x in (IMAGES, images))
        for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
            torch.testing.assert_close(a, b)


# --- in training only, and nothing left behind ----------------------------------------------------


ALL = {"MixUp": MixUp(), "CutMix": CutMix(), "RandomMix": RandomMix(MixUp(), CutMix())}


@pytest.mark.parametrize("cb", ALL.values(), ids=ALL)
def test_in_training_only(cb):
    learn, seen = fitted(cb, valid=ODD, epochs=2, metrics=[lambda p, t: p.mean()])
    assert seen.modes == 2 * (3 * [True] + 3 * [False])
    for (mixed,), (lam, partner), training, (x, y), (pred, loss) in zip(
        seen.inputs, seen.parts, seen.modes, 4 * ODD, seen.values, strict=True
    ):
        if not training:
            assert torch.equal(mixed, x)
            assert lam is None
            assert partner is None
            torch.testing.assert_close(loss, F.cross_entropy(pred, y))
    learn.cbs.append(cb)
    before = torch.get_rng_state()
    found = learn.validate(ODD)
    assert torch.equal(torch.get_rng_state(), before)
    learn.cbs.remove(cb)
    assert found == learn.validate(ODD)
    assert torch.equal(learn.predict(IMAGES), learn.model.eval()(IMAGES))


def test_the_batches_of_the_loader_stay_as_they_are():
    batches = [(IMAGES.clone(), LABELS.clone())]
    for cb in (MixUp(), CutMix(), RandomMix(MixUp())):
        fitted(cb, train=batches, epochs=3)
        assert torch.equal(batches[0][0], IMAGES)
        assert torch.equal(batches[0][1], LABELS)


class Stop(Callback):
    """Raises an error at an event of the second batch."""

    order = 2

    def __init__(self, event, error):
        self.error = error
        setattr(self, event, self.stop)

    def stop(self):
        if self.learn.training and self.learn.step == 1:
            raise self.error


@pytest.mark.parametrize("event", ["before_batch", "after_pred", "after_loss", "after_backward"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, CancelBatchException, CancelFitException, ArithmeticError]
)
@pytest.mark.parametrize(
    "loss_func", [F.cross_entropy, nn.CrossEntropyLoss()], ids=["function", "module"]
)
def test_nothing_is_left_behind(event, error, loss_func):
    cb, model = MixUp(), network()
    learn = Learner(model, DataBunch(ODD, ODD), loss_func, cbs=[cb], default_cbs=False)
    try:
        learn.fit(1, cbs=[Stop(event, error)])
    except ArithmeticError:
        assert error is ArithmeticError
    assert cb.lam is None
    assert cb.partner is None
    assert learn.loss_func is loss_func
    assert getattr(loss_func, "reduction", "mean") == "mean"
    clean = Learner(model, DataBunch(ODD, ODD), loss_func, default_cbs=False)
    assert learn.validate() == clean.validate()


class PowerCutError(Exception):
    """What ends a fit that is killed."""


@pytest.mark.parametrize("make", [MixUp, CutMix, lambda: RandomMix(MixUp(), CutMix())])
def test_resumed_bit_for_bit(make, tmp_path):
    def run(place, seed, *more):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(70, CLASSES), nn.Dropout(0.2))
        learn = Learner(model, DataBunch(ODD, ODD), LabelSmoothingCrossEntropy(), default_cbs=False)
        learn.fit(3, cbs=[make(), Checkpoint(tmp_path / place), *more])
        return learn.model

    class Cut(Callback):
        def after_loss(self):
            if (self.learn.epoch, self.learn.step) == (1, 2):
                raise PowerCutError

    straight = run("straight", 0)
    with pytest.raises(PowerCutError):
        run("broken", 0, Cut())
    assert same(run("broken", 7), straight)


def test_with_the_default_callbacks():
    learn, _ = fitted(MixUp(), valid=ODD, epochs=2, default_cbs=True)
    kinds = [type(cb) for cb in learn.cbs]
    assert Recorder in kinds
    assert ProgressBar in kinds
    assert len(learn.recorder.losses) == 6
    assert all(map(math.isfinite, learn.recorder.losses))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MixUp, CutMix])
@pytest.mark.parametrize("alpha", [0, -1, 0.001, math.nan, math.inf, "0.4", None, [0.4]])
def test_alpha_is_a_number_from_a_hundredth_on(make, alpha):
    with pytest.raises(ValueError, match=f"{make.__name__} expected alpha as a number from 0.01"):
        make(alpha)


@pytest.mark.parametrize(
    "ways",
    [(), (MixUp,), (MixUp(), 3), ([MixUp()],)],
    ids=["none", "a class", "a number", "a list"],
)
def test_ways_are_objects_that_mix(ways):
    with pytest.raises(TypeError, match=r"RandomMix expected objects as MixUp\(\) and CutMix\(\)"):
        RandomMix(*ways)


def no_reduction(pred, target):
    """A loss that can't be taken apart."""
    return F.cross_entropy(pred, target)


def deaf(pred, target, reduction="mean"):
    """A loss that takes an option and forgets it."""
    return F.cross_entropy(pred, target)


BYTES = (IMAGES * 9).byte()
REFUSED = [
    (MixUp(), no_reduction, ODD, TypeError, "MixUp expected a loss with an option `reduction`"),
    (MixUp(), deaf, ODD, ValueError, "MixUp expected 6 losses, one for each sample, got shape ()"),
    (CutMix(), nn.CrossEntropyLoss(reduction="none"), ODD, ValueError, "got 'none'"),
    (MixUp(), nn.KLDivLoss(reduction="batchmean"), ODD, ValueError, "got 'batchmean'"),
    (MixUp(), None, [(BYTES, LABELS)], TypeError, "expected floating-point inputs (N, ...)"),
    (MixUp(), None, [(IMAGES[:3], LABELS)], TypeError, "with N = 6, got (3, 2, 5, 7)"),
    (MixUp(), None, [(IMAGES, LABELS > 1)], TypeError, "class indices or probabilities"),
    (MixUp(), None, [(IMAGES, LABELS.tolist())], TypeError, "as the target, got list"),
    (MixUp(), None, [(IMAGES, LABELS[0])], TypeError, "got () of torch.int64"),
    (MixUp(), None, [(IMAGES, 3 * SOFT)], ValueError, "probabilities from 0 to 1, got numbers"),
    (MixUp(), None, [(IMAGES, SOFT * math.nan)], ValueError, "got numbers from nan"),
    (CutMix(), None, [(IMAGES[0], LABELS[:2])], ValueError, "expected images (N, C, H, W)"),
    (CutMix(), None, [(IMAGES, IMAGES[..., 1:], LABELS)], ValueError, "of one size, got (6, 2"),
    (CutMix(), None, [(IMAGES, LABELS[:, None, None])], ValueError, "one target for each image"),
    (RandomMix(CutMix()), None, [(IMAGES, LABELS[:, None, None])], ValueError, "RandomMix expect"),
]


@pytest.mark.parametrize(("cb", "loss", "train", "error", "said"), REFUSED)
def test_refused(cb, loss, train, error, said):
    with pytest.raises(error, match=re.escape(said)):
        fitted(cb, loss or F.cross_entropy, train)
    assert cb.lam is None


def test_two_that_mix_are_refused_before_the_first_batch():
    learn = Learner(network(), DataBunch(ODD), F.cross_entropy, default_cbs=False)
    before = copy.deepcopy(learn.model.state_dict())
    for pair in ([MixUp(), CutMix()], [MixUp(), MixUp()], [RandomMix(MixUp()), CutMix()]):
        with pytest.raises(ValueError, match="both own 'mixed samples'"):
            learn.fit(1, cbs=pair)
    assert all(torch.equal(learn.model.state_dict()[k], v) for k, v in before.items())


# --- wrong variants -------------------------------------------------------------------------------


class Table(Callback):
    """Compares loss and gradient with those of the target that the inputs show."""

    order = 1

    def __init__(self):
        self.faults, self.rows = set(), []

    def after_loss(self):
        learn = self.learn
        (rows,) = learn.xb
        expected = learn.loss_func(learn.pred, rows @ F.one_hot(learn.yb, CLASSES).double())
        if not learn.training:
            if not torch.equal(rows, torch.eye(len(rows)).double()):
                self.faults.add("validation")
            return
        if not torch.allclose(learn.loss, expected):
            self.faults.add("loss")
        weight = learn.model.weight
        grads = [
            torch.autograd.grad(loss, weight, retain_graph=True)[0]
            for loss in (learn.loss, expected)
        ]
        if not torch.allclose(*grads, atol=1e-7):
            self.faults.add("gradient")
        self.rows.append(rows)


def mixing_faults(make):
    """What is wrong with a MixUp, by name; each image is a pixel of its own."""
    torch.manual_seed(0)
    x = torch.eye(40).double()
    batch, table = (x.clone(), torch.arange(40) % CLASSES), Table()
    learn = Learner(
        nn.Linear(40, CLASSES).double(),
        DataBunch([batch] * 30, [batch]),
        LabelSmoothingCrossEntropy(0.3),
        lr=0.0,
        cbs=[make(0.4), table],
        default_cbs=False,
    )
    loss_func = learn.loss_func
    learn.fit(1)
    faults = table.faults
    if learn.loss_func is not loss_func:
        faults.add("loss function")
    if not torch.equal(batch[0], x):
        faults.add("loader")
    rows = torch.stack(table.rows)
    lam = rows.diagonal(dim1=1, dim2=2)
    if abs(lam.mean() - 0.5) > 0.05:
        faults.add("mean")
    if abs(lam.var(1).mean() - 1 / 7.2) > 0.03:
        faults.add("variance")
    partner = (rows - torch.diag_embed(lam)).argmax(2)
    if (partner[0] == partner[1]).double().mean() > 0.5:
        faults.add("partners")
    return faults


def test_the_library_has_no_fault():
    assert not mixing_faults(MixUp)
    assert not mixing_faults(exercises._Mix)


@pytest.mark.parametrize("fault", exercises._MUTANTS)
def test_wrong_callbacks_are_found(fault):
    assert mixing_faults(partial(exercises._Mix, fault=fault))


# --- the experiments ------------------------------------------------------------------------------


def test_wrong_labels_are_wrong_and_as_many_as_said():
    y = torch.randint(10, (5000,), generator=seeded())
    for fraction in (0.0, 0.2, 0.4):
        noisy = experiments._noisy(y, fraction, seeded(1))
        wrong = noisy != y
        assert wrong.sum() == round(fraction * 5000)
        steps = (noisy - y)[wrong] % 10
        if fraction:
            counts = torch.bincount(steps, minlength=10)
            assert counts[0] == 0
            assert counts[1:].min() > 0.7 * wrong.sum() / 9


def test_the_loader_gives_each_image_once_a_round():
    x, y = torch.arange(1000.0), torch.arange(1000)
    loader = experiments._Batches(x, y, 25, seed=3)
    batches = list(loader)
    assert len(loader) == len(batches) == 25
    assert all(xb.shape == (128,) for xb, _ in batches)
    seen = torch.cat([yb for _, yb in batches])
    for start in (0, 1000, 2000):
        assert sorted(seen[start : start + 1000].tolist()) == list(range(1000))
    again = torch.cat([yb for _, yb in loader])
    assert torch.equal(seen, again)


def test_a_condition_compares_arms_on_the_same_batches(monkeypatch):
    calls = []
    x = torch.randn(60, 1, 28, 28, generator=seeded())
    y = torch.randint(10, (60,), generator=seeded())

    def trained(arm, lr, seed, x, y, steps):
        calls.append((arm, lr, seed, x, y, steps))
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    rates = {f"{arm} best": torch.tensor(0.1) for arm in experiments._ARMS}
    monkeypatch.setattr(experiments, "_images", lambda part: (x, y))
    monkeypatch.setattr(experiments, "_train", trained)
    monkeypatch.setattr(experiments, "show_run", lambda name: {k: Mean for k in rates})
    found = experiments._condition("small", 5, 50, 0.2, 7)
    assert [call[0] for call in calls] == list(experiments._ARMS)
    for _, lr, seed, images, labels, steps in calls:
        assert (lr, seed, steps) == (0.1, 5, 7)
        assert torch.equal(images, calls[0][3])
        assert torch.equal(labels, calls[0][4])
    for what in ("accuracy", "cross-entropy"):
        for arm in list(experiments._ARMS)[1:]:
            change = found[f"small, {arm}: {what}"] - found[f"small, none: {what}"]
            assert found[f"small, {arm}: change in {what}"] == pytest.approx(change)


class Mean:
    """A learning rate as a record gives it."""

    mean = 0.1


# --- beside other callbacks -----------------------------------------------------------------------


def test_the_finder_sees_the_loss_that_is_trained():
    trained = []

    class Keep(Callback):
        order = 100

        def after_loss(self):
            trained.append(self.learn.loss.item())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, CLASSES))
    learn = Learner(model, DataBunch(ODD), cross_entropy, default_cbs=False)
    finder = LRFinder(min_lr=1e-5, steps=6)
    finder.run(learn, cbs=[MixUp(1.0), Keep()])
    assert len(trained) >= 5  # the last one ends the search
    assert finder.losses[: len(trained)] == pytest.approx(trained)


def test_a_right_answer_may_be_a_tensor():
    def entropy(part, classes):
        target = torch.full((classes,), part / classes).double()
        target[0] += 1 - part
        return -(target * target.log()).sum()

    assert exercises.ex_10a_2.judge(entropy).passed
    assert not exercises.ex_10a_2.judge(lambda *case: 0.9 * entropy(*case)).passed
    for box in ((0.1, 1, 1), (0.05, 0.5, 0.5), (0.1, 27, 27)):  # show 14 by 14 pixels
        assert exercises.ex_10a_3.judge(box).passed
