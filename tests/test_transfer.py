"""Chapter 10c: cutting, freezing, groups, a learner from the data, views and activation maps.

What is frozen must stay bitwise the same, whatever is done to the model around it.
"""

import copy
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from fromfound import transfer, xresnet
from fromfound.callback import Callback
from fromfound.data_block import (
    ImageList,
    MultiCategory,
    Normalize,
    Number,
    grandparent_splitter,
    parent_labeler,
    to_byte_tensor,
    to_float_tensor,
)
from fromfound.learner import Checkpoint, Learner
from fromfound.mixed_precision import MixedPrecision
from fromfound.mixup import MixUp
from fromfound.optim import adamw, sgd
from fromfound.schedule import ParamScheduler, sched_lin
from fromfound.training import DataBunch, accuracy, cross_entropy
from fromfound.transfer import (
    ConcatPool2d,
    Standardize,
    body_channels,
    class_activation,
    create_head,
    create_model,
    cut_body,
    discriminative,
    freeze,
    mirrored,
    param_groups,
    tta,
    unfreeze,
    unfreeze_top,
    vision_learner,
)
from tests.toys import same

X = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
BATCHES = list(zip(X.split(4), Y.split(4), strict=True))


def body(seed=0):
    """A body with batch normalization and dropout, whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    layers = [xresnet.conv_layer(3, 4), nn.Dropout(0.3), xresnet.ResBlock(4, 8, 2)]
    made = nn.Sequential(*layers)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # that of a block would be 0
    made(3 * X + 1)
    return made


def net(seed=0, pool="concat"):
    """A body and a head for three classes."""
    model = create_model(body(seed), 3, pool=pool)
    model(X)
    return model


def learner(model, **options):
    """A learner without the default callbacks."""
    data = DataBunch(BATCHES, BATCHES)
    return Learner(model, data, cross_entropy, default_cbs=False, **{"lr": 0.1} | options)


def snapshot(module):
    """Copies of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module, before):
    """Whether they are bitwise what they were, and no name is new."""
    now = module.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in now)


# --- cutting --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_body_and_old_head_are_the_network(depth):
    model = xresnet.XResNet(depth, 5, width=0.125).eval()
    cut = cut_body(model)
    x = torch.randn(2, 3, 33, 40)
    with torch.no_grad():
        assert torch.equal(model.head(cut(x)), model(x))
    assert len(cut) == 5
    assert all(any(p is q for q in model.parameters()) for p in cut.parameters())


def plain_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


class Classic(nn.Module):
    """As the networks of torchvision, with squeeze-and-excitation inside a block."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Gate(4), nn.Conv2d(4, 5, 3))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.avgpool(self.layer1(self.conv1(x))).flatten(1))


class Gate(nn.Module):
    """A layer with a pooling inside, at which nothing must be cut."""

    def __init__(self, n):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(n, n, 1)

    def forward(self, x):
        return x * self.conv(self.pool(x)).sigmoid()


def test_other_networks_are_cut_before_their_pooling():
    assert len(cut_body(plain_cnn())) == 3
    assert body_channels(cut_body(plain_cnn())) == 6
    model = Classic().eval()  # without normalization
    maps = cut_body(model)(X)
    assert torch.equal(model.fc(maps.mean((2, 3))), model.fc(model.avgpool(maps).flatten(1)))
    flat = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2), nn.Flatten())
    assert len(cut_body(flat)) == 1
    sizes = nn.AdaptiveAvgPool2d(4), nn.Conv2d(2, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    assert len(cut_body(nn.Sequential(nn.Conv2d(3, 2, 3), *sizes))) == 3
    again = cut_body(create_model(cut_body(xresnet.xresnet18(width=0.125)), 3))
    assert len(again) == 5


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Sequential(nn.Flatten())]
)
def test_what_has_no_body_is_refused(model):
    with pytest.raises(ValueError, match="cut_body found no pooling"):
        cut_body(model)


def test_channels_are_found_without_a_trace():
    model = body().train()
    model[1].eval()
    before, state = snapshot(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    assert body_channels(model) == 8
    assert unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"expected maps \(N, C, H, W\), got \(1, 4096\)"):
        body_channels(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten()))
    with pytest.raises(ValueError, match="Conv2d"):
        body_channels(nn.Flatten())


def test_a_model_changes_nothing_of_its_body():
    frozen = body()
    freeze(frozen)
    before = snapshot(frozen)
    model = create_model(frozen, 3)
    assert unchanged(frozen, before)
    unfreeze(frozen)
    assert frozen.training
    assert model.head.training
    assert create_model(body().double(), 3)(X.double()).dtype == torch.float64


# --- heads ----------------------------------------------------------------------------------------


def test_concat_pooling():
    x = torch.randn(3, 5, 4, 2)
    means, maxima = ConcatPool2d()(x).flatten(1).split(5, 1)
    assert torch.allclose(means, x.mean((2, 3)))
    assert torch.equal(maxima, x.amax((2, 3)))
    narrow = ConcatPool2d()(x.half().contiguous(memory_format=torch.channels_last))
    assert narrow.shape == (3, 10, 1, 1)
    assert narrow.dtype == torch.float16


@pytest.mark.parametrize(
    "bad", [(0, 2), (2, -1), (2.0, 2), (True, 2), (2, 2, "max"), (2, "two")], ids=str
)
def test_heads_refuse(bad):
    n_in, n_out, *pool = bad
    with pytest.raises(ValueError, match="create_head expected"):
        create_head(n_in, n_out, **({"pool": pool[0]} if pool else {}))


# --- freezing -------------------------------------------------------------------------------------


class TrainsAll(Callback):
    """Asks everything to train, at the worst moments."""

    def before_batch(self):
        self.learn.model.train(self.learn.training)
        self.learn.model.body.train(self.learn.training)


@pytest.mark.parametrize("copied", ["itself", "deepcopy", "pickle", "twice"])
def test_frozen_is_bitwise_the_same_after_an_epoch(copied):
    model = net()
    freeze(model.body)
    if copied == "deepcopy":
        model = copy.deepcopy(model)
    if copied == "pickle":
        model = pickle.loads(pickle.dumps(model))
    if copied == "twice":
        freeze(model.body)
    before, head = snapshot(model.body), snapshot(model.head)
    assert any("num_batches_tracked" in name for name in before)
    learn = learner(model, opt_func=lambda p, lr: adamw(p, lr, weight_decay=0.5))
    learn.fit(2, cbs=[TrainsAll()])
    learn.fit(1)
    assert unchanged(model.body, before)
    assert not any(torch.equal(model.head.state_dict()[k], head[k]) for k in head)
    unfreeze(model)
    assert not model.body.training  # the validation asked for eval last
    model.train()
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    learn.fit(1)
    assert not any(torch.equal(model.body.state_dict()[k], before[k]) for k in before)


def test_frozen_never_shows_train_mode():
    model = net()
    freeze(model.body)
    model.train()
    assert model.head.training
    assert not any(module.training for module in model.body.modules())
    assert model.train(True) is model
    assert model.body.train() is model.body
    model.body[0].train()
    assert not model.body[0].training


def test_two_copies_are_frozen_apart():
    model = net()
    freeze(model.body)
    other = copy.deepcopy(model)
    unfreeze(other)
    other.train()
    model.train()
    assert other.body.training
    assert not model.body.training
    assert not any(p.requires_grad for p in model.body.parameters())
    assert same(other, model)
    assert list(other.state_dict()) == list(net().state_dict())


def test_state_dicts_know_nothing_of_it():
    model, other = net(), net(1)
    freeze(model.body)
    other.load_state_dict(model.state_dict())
    assert same(model, other)
    model.load_state_dict(net(2).state_dict())
    assert same(model, net(2))
    assert not model.body.training


def test_unfreeze_restores_what_was():
    model = net()
    model.body[0][0].weight.requires_grad_(False)
    model.body[2].eval()
    learned = [p.requires_grad for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    freeze(model)
    freeze(model.body[2], norms="train")
    freeze(model, norms="statistics")
    unfreeze(model)
    assert [p.requires_grad for p in model.parameters()] == learned
    assert [module.training for module in model.modules()] == modes
    unfreeze(model)  # nothing is frozen
    assert [p.requires_grad for p in model.parameters()] == learned
    assert not any("train" in vars(module) for module in model.modules())


def test_a_shared_parameter_learns_again():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    freeze(model)
    assert not first.weight.requires_grad
    unfreeze(model)
    assert first.weight.requires_grad


@pytest.mark.parametrize("norms", ["statistics", "train"])
def test_what_norms_may_do(norms):
    model = net()
    freeze(model.body, norms=norms)
    model.train()
    assert not model.body[1].training  # dropout
    before = snapshot(model.body)
    model(X).backward(torch.randn(12, 3, generator=torch.Generator().manual_seed(1)))
    torch.optim.SGD(model.parameters(), 0.1).step()
    after = model.body.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    statistics = {name for name, _ in model.body.named_buffers()}
    own = {
        f"{name}.{part}"
        for name, module in model.body.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert moved == statistics | (own if norms == "train" else set())
    model.eval()
    before = snapshot(model.body)
    model(X)
    assert unchanged(model.body, before)


def test_no_momentum_and_no_decay_move_a_part_frozen_within_a_fit():
    class Freeze(Callback):
        def before_batch(self):
            if self.learn.step == 1 and self.learn.training:
                freeze(self.learn.model.body)
                self.before = snapshot(self.learn.model.body)

    model, stop = net(), Freeze()
    opt = {"opt_func": lambda p, lr: sgd(p, lr, momentum=0.9, weight_decay=0.1)}
    learner(model, **opt).fit(1, cbs=[stop])
    assert unchanged(model.body, stop.before)


def test_old_gradients_are_not_left_to_the_optimizer():
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model(X).backward(torch.randn(12, 3))
        opt.step()
    freeze(model.body)
    before = snapshot(model.body)
    opt.step()
    assert unchanged(model.body, before)


def test_freeze_refuses():
    with pytest.raises(TypeError, match="Learner: give its .model"):
        freeze(learner(net()))
    with pytest.raises(TypeError, match="unfreeze expected"):
        unfreeze([net()])
    model = net()
    with pytest.raises(ValueError, match="'eval', 'statistics' or 'train'"):
        freeze(model, norms="off")
    assert all(p.requires_grad for p in model.parameters())


def test_a_compiled_model_stays_frozen():
    model = net()
    freeze(model.body)
    before = snapshot(model.body)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        compiled.train()
        compiled(X)
    assert unchanged(model.body, before)


def test_the_top_is_unfrozen_part_by_part():
    model = net()
    for n, learns in enumerate([[False, False], [False, True], [True, True]]):
        unfreeze_top(model, n)
        parts = model.body[0], model.body[2]
        assert [all(p.requires_grad for p in part.parameters()) for part in parts] == learns
        model.train()
        assert [part.training for part in parts] == learns
        assert all(p.requires_grad for p in model.head.parameters())
    for bad in (-1, 3, 1.0, True):
        with pytest.raises(ValueError, match="from 0 to 2"):
            unfreeze_top(model, bad)


# --- groups ---------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.floats(1e-6, 1), st.floats(1e-6, 1))
@settings(deadline=None, max_examples=30)
def test_groups_are_a_partition_with_geometric_rates(n, low, high):
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(n)))
    groups = param_groups(model, (low, high), weight_decay=0.1)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    rates = [group["lr"] for group in groups if group["weight_decay"]]
    assert rates[-1] == high
    assert n == 1 or rates[0] == low
    ratios = [after / before for before, after in zip(rates, rates[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios) if ratios else [])
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.1}


def test_groups_by_depth():
    model = net()
    rates = {}
    for group in param_groups(model, (1e-4, 1e-2)):
        rates |= {id(p): group["lr"] for p in group["params"]}
    for part, rate in ((model.body[0], 1e-4), (model.body[2], 1e-3), (model.head, 1e-2)):
        for p in part.parameters():
            assert rates[id(p)] == pytest.approx(rate)
    freeze(model.body[0])
    held = [p for group in param_groups(model, (1e-4, 1e-2)) for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert param_groups(model, (1e-4, 1e-2))[0]["lr"] == pytest.approx(1e-3)


def test_groups_refuse():
    model = net()
    for bad in (0, -1, (0, 1), float("nan"), float("inf"), (1, 2, 3), "fast", True):
        with pytest.raises((ValueError, TypeError)):
            param_groups(model, bad)
    with pytest.raises(ValueError, match="parts without head"):
        param_groups(model, 0.1, parts=[model.body])
    freeze(model)
    with pytest.raises(ValueError, match="nothing that learns"):
        param_groups(model, 0.1)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    held = [id(p) for group in param_groups(tied, 0.1) for p in group["params"]]
    assert len(held) == len(set(held)) == 3


def test_a_schedule_keeps_the_ratio_and_a_later_fit_has_what_was_unfrozen():
    model = net()
    freeze(model.body)
    seen = []

    class Rates(Callback):
        order = 90

        def before_step(self):
            seen.append([group["lr"] for group in self.learn.opt.param_groups])

    learn = learner(model, opt_func=discriminative(model, 100.0))
    cbs = [ParamScheduler("lr", sched_lin(1, 0.5), scale=True), Rates()]
    learn.fit(1, cbs=cbs)
    assert all(len(rates) == 2 for rates in seen)
    unfreeze(model)
    seen.clear()
    learn.fit(1, cbs=cbs)
    assert all(rates[-1] / rates[0] == pytest.approx(100) for rates in seen)
    assert len({rates[-1] for rates in seen}) == len(seen)


# --- views ----------------------------------------------------------------------------------------


def test_views_are_averaged_as_by_hand():
    model = net()
    learn = learner(model)
    model.train()
    state, before = torch.get_rng_state(), snapshot(model)
    got, targets = tta(learn, views=[mirrored, lambda x: x.flip(2)], activation=torch.sigmoid)
    model.eval()
    with torch.no_grad():
        views = [model(x).sigmoid() for x in (X, X.flip(3), X.flip(2))]
    assert torch.allclose(got, sum(views) / 3, atol=1e-6)
    assert torch.equal(targets, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert unchanged(model, before)
    plain, _ = tta(learn, views=[])
    assert torch.allclose(plain, learn.get_preds()[0], atol=1e-6)
    assert tta(learn, [(X[:2], None)])[1] is None
    assert accuracy(got, targets) >= 0
    with pytest.raises(ValueError, match="no batch"):
        tta(learn, [])
    with pytest.raises(TypeError, match=r"write views=\[...\]"):
        tta(learn, views=mirrored)
    given = X.clone()
    tta(learn, [(given, Y)], views=[lambda x: x.mul_(0)])
    assert torch.equal(given, X)
    learn.data.valid_dl = None
    with pytest.raises(ValueError, match="no batch"):
        tta(learn)


# --- activation maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_mean_of_a_map_is_the_output(training):
    model = net(pool="avg").train(training)
    state, before = torch.get_rng_state(), snapshot(model)
    maps, outputs = class_activation(model, X)
    assert maps.shape == (12, 3, 8, 8)
    assert torch.allclose(maps.mean((2, 3)), outputs, atol=1e-5)
    assert unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training is training
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model.eval()(X), outputs)
    assert class_activation(model, X[:0])[0].shape == (0, 3, 8, 8)
    last = X.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(class_activation(model, last)[0], maps, atol=1e-5)


def test_maps_refuse():
    with pytest.raises(ValueError, match="linear head on means, got ConcatPool2d"):
        class_activation(net(), X)
    bent = net(pool="avg")
    bent.head.append(nn.ReLU())
    with pytest.raises(ValueError, match="linear head"):
        class_activation(bent, X)
    model = net(pool="avg").train()
    with pytest.raises(RuntimeError):
        class_activation(model, X[:, :1])
    assert model.training
    assert model.body.training
    assert not any(module._forward_hooks for module in model.modules())


# --- a learner from the data ----------------------------------------------------------------------

TFMS = [to_byte_tensor, to_float_tensor]


@pytest.fixture
def photos(tmp_path: Path) -> ImageList:
    """Twelve images of 20 by 20, two classes, two parts."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ants", "bees"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4 if part == "train" else 2):
                pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return ImageList.from_files(tmp_path)


def bunch(photos, labeler=parent_labeler, kind=None, tfms=TFMS):
    split = photos.split(grandparent_splitter(valid="val")).transform(tfms)
    return split.label(labeler, kind).databunch(4)


KINDS = {
    "Category": (parent_labeler, None, 2, "accuracy"),
    "MultiCategory": (lambda path: [path.parent.name], MultiCategory(), 2, "multi_accuracy"),
    "Number": (lambda path: float(path.stem), Number(), 1, "l1_loss"),
}


def arch(num_classes, in_channels):
    return xresnet.xresnet18(num_classes, in_channels, width=0.125)


@pytest.mark.parametrize("name", KINDS)
def test_everything_is_chosen_from_the_labels(photos, name):
    labeler, kind, n_out, metric = KINDS[name]
    data = bunch(photos, labeler, kind)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    learn = vision_learner(data, arch, cbs=[MixedPrecision(torch.bfloat16)])
    torch.set_rng_state(state)
    assert learn.loss_func is data.loss_func
    assert metric in learn.choices["metrics"]
    assert name in learn.choices["outputs"]
    assert learn.choices["lr"].startswith("0.003")
    learn.fit(1)
    assert learn.get_preds()[0].shape == (4, n_out)
    assert learn.predict(torch.rand(2, 3, 20, 20)).shape == (2, n_out)
    assert isinstance(learn.model.body[0], Standardize)
    assert set(learn.choices) >= {"outputs", "loss_func", "metrics", "body", "normalize", "lr"}


def test_it_works_with_mixup_and_a_checkpoint(photos, tmp_path):
    learn = vision_learner(bunch(photos), arch, cbs=[MixUp()])
    learn.fit(1, cbs=[Checkpoint(tmp_path / "run.ckpt")])
    assert tta(learn)[0].shape == (4, 2)


def test_statistics_are_those_of_the_training_images(photos):
    data = bunch(photos)
    learn = vision_learner(data, arch)
    images = torch.stack([x for x, _ in data.train_dl.dataset])
    normalized = learn.model.body[0](images)
    assert normalized.mean((0, 2, 3)).abs().max() < 1e-4
    assert (normalized.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_each_choice_can_be_given(photos):
    data = bunch(photos)
    trained = cut_body(arch(10, 3))
    before = snapshot(trained)
    given = Normalize([0.5] * 3, [0.25] * 3)
    learn = vision_learner(
        data,
        body=trained,
        pool="avg",
        normalize=given,
        loss_func=nn.CrossEntropyLoss(label_smoothing=0.1),
        metrics=[],
        opt_func=sgd,
        lr=0.5,
    )
    assert unchanged(trained, before)
    assert learn.lr == 0.5
    assert learn.opt_func is sgd
    assert not learn.metrics
    assert torch.equal(learn.model.body[0].mean, given.mean)
    assert [*learn.model.body.children()][1:] == [*trained.children()]
    assert class_activation(learn.model, torch.rand(2, 3, 20, 20))[0].shape[:2] == (2, 2)
    slow = vision_learner(data, body=trained)
    slow.fit(1)
    rates = [group["lr"] for group in slow.opt.param_groups]
    assert rates[-1] / rates[0] == pytest.approx(100)


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (torch.ones(1, 3, 2, 2, dtype=torch.uint8), TypeError),
        (torch.ones(2, 1, 2, 2), ValueError),
    ],
    ids=["bytes", "one channel"],
)
def test_images_that_cannot_be_standardized(images, error):
    with pytest.raises(error, match="Normalize expected"):
        Standardize([0.5] * 3, [0.25] * 3)(images)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"body": "resnet"}, "vision_learner expected a torch.nn.Module, got a str"),
        ({"normalize": False}, "vision_learner expected a Normalize, got False"),
    ],
    ids=["body", "statistics"],
)
def test_what_a_learner_refuses_to_be_given(photos, options, says):
    with pytest.raises(TypeError, match=says):
        vision_learner(bunch(photos), arch, **options)


def test_an_architecture_may_be_partial(photos):
    learn = vision_learner(bunch(photos), partial(arch))
    assert learn.choices["body"] == f"new, of {arch.__name__}"


def test_a_look_uses_up_no_random_numbers(photos):
    class Noise:
        def __init__(self):
            self.generator = torch.Generator().manual_seed(0)

        def __call__(self, x):
            return x + torch.rand(x.shape, generator=self.generator) + torch.rand(x.shape)

    noise = Noise()
    data = bunch(photos, tfms=[*TFMS, noise])
    trained = cut_body(arch(2, 3))
    before = noise.generator.get_state()
    torch.manual_seed(0)
    head = create_model(copy.deepcopy(trained), 2).head
    after = torch.get_rng_state()
    torch.manual_seed(0)
    learn = vision_learner(data, body=trained)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(noise.generator.get_state(), before)
    assert same(head, learn.model.head)


def test_images_are_normalized_once(photos):
    norm = Normalize([0.5] * 3, [0.25] * 3)
    listed = bunch(photos, tfms=[*TFMS, norm])
    learn = vision_learner(listed, arch)
    assert not any(isinstance(module, Standardize) for module in learn.model.modules())
    assert learn.choices["normalize"] == "by the transforms"
    own = vision_learner(bunch(photos), arch).model.body
    assert vision_learner(bunch(photos), body=own).choices["normalize"] == "by the body"
    for options in ({"normalize": norm}, {"body": own}):
        with pytest.raises(ValueError, match="normalize twice, by the transforms and by"):
            vision_learner(listed, **options)


def test_learners_refuse(photos):
    with pytest.raises(TypeError, match=r"expected data of databunch\(\), got DataBunch"):
        vision_learner(DataBunch(BATCHES))
    with pytest.raises(ValueError, match="body for 1 channels, and images of 3"):
        vision_learner(bunch(photos), body=cut_body(arch(2, 1)))
    with pytest.raises(TypeError, match="Normalize.of expected floating-point images"):
        vision_learner(bunch(photos, tfms=[to_byte_tensor]))


def test_a_range_test_leaves_the_model_alone(photos):
    torch.manual_seed(0)
    body_ = vision_learner(bunch(photos), arch).model.body
    before = snapshot(body_)
    try:
        vision_learner(bunch(photos), body=body_, lr=None)
    except ValueError as error:
        assert "LRFinder has nothing to suggest" in str(error)
    assert unchanged(body_, before)


def test_gray_images_get_a_body_for_one_channel(photos):
    gray = ImageList(photos.items, photos.path, mode="L")
    learn = vision_learner(bunch(gray), arch)
    assert learn.predict(torch.rand(2, 1, 20, 20)).shape == (2, 2)


def test_what_is_exported():
    assert all(getattr(transfer, name).__doc__ for name in transfer.__all__)
