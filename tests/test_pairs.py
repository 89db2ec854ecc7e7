"""Every exported part of the library through every check that fits its kind.

The parts are found by walking `__all__` of all modules. What a check does not fit stands in UNFIT,
with the reason and the error: the check is tried all the same, and has to fail in that way.

A new layer, loss, callback, schedule, initializer or metric is entered in PARTS, under its name
and, behind a comma, what is special about it.
"""

import copy
import importlib
import itertools
import math
import os
import pickle
import pkgutil
import re
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import fromfound
from fromfound import conv, init, module, norm, optim, schedule, training, xresnet
from fromfound.augment import Augment
from fromfound.callback import Callback, ProgressBar, Recorder
from fromfound.dataloader import DataLoader, TensorDataset
from fromfound.distributed import Distributed, SyncBatchNorm
from fromfound.export import TensorBoard, export_model, load_exported
from fromfound.hooks import ActivationStats, Hooks, model_summary
from fromfound.learner import (
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Checkpoint,
    DataBunch,
    EarlyStopping,
    GradientClip,
    Learner,
    TerminateOnNaN,
)
from fromfound.mixed_precision import MixedPrecision
from fromfound.mixup import CutMix, LabelSmoothingCrossEntropy, MixUp, RandomMix
from fromfound.module import Module, load, save
from fromfound.schedule import SGDR, LRFinder, ParamScheduler, TorchScheduler, sched_lin
from fromfound.transfer import ConcatPool2d, Standardize
from tests.toys import BATCHES, X, Y, seeded

SHAPE = 4, 6, 5  # of the images that layers get
CLASSES = 3


# --- what a part is -------------------------------------------------------------------------------


def images(n: int, seed: int = 0) -> tuple[Tensor]:
    """Random images of SHAPE, as the inputs of a layer."""
    return (torch.randn(n, *SHAPE, generator=seeded(seed)),)


def larger_images(n: int, seed: int = 0) -> tuple[Tensor]:
    """Random images that can be halved five times."""
    return (torch.randn(n, 4, 20, 33, generator=seeded(seed)),)


def labels(n: int, *more: int) -> Tensor:
    """Class indices of `n` samples."""
    return torch.randint(CLASSES, (n, *more), generator=seeded(n))


@dataclass
class Part:
    """Something that checks are run on.

    Args:
        make: makes a layer or loss, a list of callbacks in a folder, a schedule, ...
        inputs: what a layer or a loss is called with, for a batch of n.
    """

    make: Callable
    inputs: Callable[[int], tuple[Tensor, ...]] = images

    def layer(self, seed: int = 0) -> nn.Module | Module:
        """A layer whose parameters are all random, and whose buffers have seen a batch."""
        torch.manual_seed(seed)
        layer = self.make()
        layer(*self.inputs(7))
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(torch.randn(p.shape) / 4)
        return layer

    def learner(self, seed: int = 0, **options: object) -> Learner:
        """A learner in which the part takes part, unless it comes with a fit."""
        torch.manual_seed(seed)
        return toy(net(), **options)

    def callbacks(self, folder: Path) -> list[Callback]:
        """The callbacks for a fit."""
        return []


def loaders(*tensors: Tensor, generator: torch.Generator | None = None) -> DataBunch:
    """Shuffled batches of 8 for training, others for validation, by chapter 04a."""
    data = TensorDataset(*tensors)
    train = DataLoader(data, 8, shuffle=True, generator=generator)
    return DataBunch(train, DataLoader(data, 7))


def toy(model: nn.Module | Module, loss: Callable = training.cross_entropy, **options) -> Learner:
    """A learner for a model of six inputs, unless other data are given."""
    data = options.pop("data", None) or loaders(X[:20], Y[:20])
    return Learner(model, data, loss, **{"lr": 0.05, "default_cbs": False} | options)


def net() -> nn.Sequential:
    """A network of six inputs that draws random numbers and keeps statistics."""
    first, last = nn.Linear(6, 8, bias=False), nn.Linear(8, CLASSES)
    return nn.Sequential(first, norm_of_rows(), nn.ReLU(), nn.Dropout(0.2), last)


def norm_of_rows() -> nn.Module:
    """A normalization with running statistics, of random weights."""
    layer = nn.BatchNorm1d(8)
    nn.init.normal_(layer.weight)
    return layer


class Around(nn.Module):
    """A layer with another before it, so that a gradient has to pass, and a classifier."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.before, self.layer = nn.Conv2d(4, 4, 1, bias=False), layer
        self.head = nn.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.before(x)).flatten(1))


class BookAround(Module):
    """The same, of the layers of chapter 03."""

    def __init__(self, layer: Module, features: int) -> None:
        super().__init__()
        self.before, self.layer = module.Linear(SHAPE[-1], SHAPE[-1], bias=False), layer
        self.head = module.Linear(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.before(x)).flatten(1))


class LayerPart(Part):
    """A layer; its learner has it in the middle of a network."""

    def learner(self, seed: int = 0, **options: object) -> Learner:
        layer = self.layer(seed)
        features = layer(*self.inputs(2)).flatten(1).shape[1]
        whole = BookAround if isinstance(layer, Module) else Around
        data = loaders(*self.inputs(20), labels(20), generator=seeded())
        return toy(whole(layer, features), data=data, **options)


class LossPart(Part):
    """A loss, as a module; its learner trains with it."""

    def learner(self, seed: int = 0, **options: object) -> Learner:
        scores, target = self.inputs(20)
        torch.manual_seed(seed)
        shape = scores.shape[1:]
        model = nn.Sequential(nn.Linear(6, shape.numel()), nn.Unflatten(1, shape))
        return toy(model, self.layer(), data=loaders(X[:20], target, generator=seeded()), **options)


class OptimizerPart(Part):
    """An optimizer function."""

    def learner(self, seed: int = 0, **options: object) -> Learner:
        return super().learner(seed, **{"opt_func": self.make} | options)


class MatricesPart(OptimizerPart):
    """An optimizer that takes matrices alone; its learner has nothing else."""

    def learner(self, seed: int = 0, **options: object) -> Learner:
        torch.manual_seed(seed)
        first, last = nn.Linear(6, 8, bias=False), nn.Linear(8, CLASSES, bias=False)
        model = nn.Sequential(
            first, nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Dropout(0.2), last
        )
        return toy(model, **{"opt_func": self.make} | options)


class CallbackPart(Part):
    """Callbacks that are made with a folder."""

    def callbacks(self, folder: Path) -> list[Callback]:
        return self.make(folder)


class SchedulePart(Part):
    """A schedule; in a fit the learning rate follows it."""

    def callbacks(self, folder: Path) -> list[Callback]:
        return [ParamScheduler("lr", self.make())]


class MetricPart(Part):
    """A metric, of predictions and class indices."""

    def learner(self, seed: int = 0, **options: object) -> Learner:
        return super().learner(seed, **{"metrics": [self.make()]} | options)


# --- the parts ------------------------------------------------------------------------------------


class Applied(nn.Module):
    """A function as a layer, with as many parameters as shapes."""

    def __init__(self, function: Callable, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape) for shape in shapes)

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input, *self.weights)


class Judged(nn.Module):
    """A loss function as a module, with class weights if it has any."""

    def __init__(self, function: Callable, weight: Tensor | None = None) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("weight", None if weight is None else weight.clone())

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        options = {} if self.weight is None else {"weight": self.weight}
        return self.function(input, target, **options)


def derived(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch normalization by the function with the derived gradient."""
    return norm.DerivedBatchNorm.apply(x, weight, bias)


def standardized(x: Tensor) -> Tensor:
    """Standardize each channel by its own moments."""
    return norm.standardize(x, *norm.moments(x, (2, 3))).to(x.dtype)


def mixed(x: Tensor) -> Tensor:
    """Standardize each channel by the moments of a mixture of its two halves."""
    halves = [norm.moments(half, (2, 3)) for half in x.split([3, 2], 3)]
    return norm.standardize(x, *norm.mixture(*halves, 0.4)).to(x.dtype)


class Listed(Module):
    """Two layers in the list of chapter 03."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = module.ModuleList([module.Linear(5, 3), module.Linear(3, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def fixup(kind: type) -> nn.Module:
    """A block of two convolutions."""
    return init.FixupBlock(kind(4, 6, 3, padding=1), kind(6, 4, 3, padding=1))


def applied(function: Callable, *shapes: tuple[int, ...], **options: object) -> LayerPart:
    """A function of images, with options, as a part."""
    return LayerPart(partial(Applied, partial(function, **options), *shapes))


LAYERS = {
    "Conv2d": LayerPart(partial(conv.Conv2d, 4, 6, 3, padding=1)),
    "Conv2d, groups": LayerPart(partial(conv.Conv2d, 4, 6, (3, 1), 2, 1, 2, 2, bias=False)),
    "conv2d": applied(conv.conv2d, (6, 4, 3, 2), (6,), stride=2),
    "im2col": applied(conv.im2col, kernel_size=2, padding=1),
    "max_pool2d": applied(conv.max_pool2d, kernel_size=2),
    "max_pool2d, padding": applied(conv.max_pool2d, kernel_size=3, stride=(1, 2), padding=1),
    "adaptive_avg_pool2d": applied(conv.adaptive_avg_pool2d, output_size=1),
    "adaptive_avg_pool2d, two": applied(conv.adaptive_avg_pool2d, output_size=(4, None)),
    "simple_cnn": LayerPart(partial(conv.simple_cnn, (4, 5), in_channels=4)),
    "ResBlock": LayerPart(partial(xresnet.ResBlock, 4, 6, 2)),
    "ResBlock, bottleneck": LayerPart(
        partial(xresnet.ResBlock, 4, 8, bottleneck=True, stride_in_3x3=False, zero_gamma=False)
    ),
    "XResNet": LayerPart(partial(xresnet.xresnet18, 5, 4, width=0.125), larger_images),
    "ShiftedReLU": LayerPart(init.ShiftedReLU),
    "SELU": LayerPart(init.SELU),
    "FixupBlock": LayerPart(partial(fixup, conv.Conv2d)),
    "FixupBlock, torch": LayerPart(partial(fixup, nn.Conv2d)),
    "DerivedBatchNorm": applied(derived, (1, 4, 1, 1), (1, 4, 1, 1)),
    "moments": applied(standardized),
    "standardize": applied(standardized),
    "mixture": applied(mixed),
    "BatchNorm2d": LayerPart(partial(norm.BatchNorm2d, 4)),
    "BatchNorm2d, average": LayerPart(partial(norm.BatchNorm2d, 4, momentum=None)),
    "BatchNorm2d, bare": LayerPart(partial(norm.BatchNorm2d, 4, track_running_stats=False)),
    "SyncBatchNorm": LayerPart(partial(SyncBatchNorm, 4)),
    "ConcatPool2d": LayerPart(ConcatPool2d),
    "Standardize": LayerPart(partial(Standardize, [0.5] * 4, [0.25] * 4)),
    "LayerNorm": LayerPart(partial(norm.LayerNorm, SHAPE)),
    "LayerNorm, bare": LayerPart(partial(norm.LayerNorm, 5, elementwise_affine=False)),
    "InstanceNorm2d": LayerPart(partial(norm.InstanceNorm2d, 4)),
    "InstanceNorm2d, all": LayerPart(
        partial(norm.InstanceNorm2d, 4, affine=True, track_running_stats=True)
    ),
    "GroupNorm": LayerPart(partial(norm.GroupNorm, 2, 4)),
    "RunningBatchNorm2d": LayerPart(partial(norm.RunningBatchNorm2d, 4)),
    "Linear": LayerPart(partial(module.Linear, 5, 3)),
    "LazyLinear": LayerPart(partial(module.LazyLinear, 3)),
    "ModuleList": LayerPart(Listed),
    "Sequential": LayerPart(
        lambda: module.Sequential(module.Linear(5, 4), module.Linear(4, 2, bias=False))
    ),
    "log_softmax": applied(training.log_softmax, dim=1),
}


def scores_and_indices(n: int) -> tuple[Tensor, Tensor]:
    """Scores (n, 3) and class indices."""
    return torch.randn(n, CLASSES, generator=seeded(1)), labels(n)


def maps_and_indices(n: int) -> tuple[Tensor, Tensor]:
    """Scores (n, 3, 4, 5) and class indices for each pixel."""
    return torch.randn(n, CLASSES, 4, 5, generator=seeded(1)), labels(n, 4, 5)


def scores_and_probabilities(n: int) -> tuple[Tensor, Tensor]:
    """Scores and probabilities, both (n, 3)."""
    scores = torch.randn(2, n, CLASSES, generator=seeded(2))
    return scores[0], scores[1].softmax(1)


def loss(
    function: Callable, inputs: Callable, weight: Tensor | None = None, **options: object
) -> LossPart:
    """A loss with options as a part."""
    return LossPart(partial(Judged, partial(function, **options), weight), inputs)


def weighted_smoothing() -> LabelSmoothingCrossEntropy:
    """A sum with class weights and a class that does not count."""
    weight = torch.tensor([1.0, 2, 3])
    return LabelSmoothingCrossEntropy(weight=weight, ignore_index=1, reduction="sum")


LOSSES = {
    "cross_entropy": loss(training.cross_entropy, scores_and_indices),
    "cross_entropy, probabilities": loss(training.cross_entropy, scores_and_probabilities),
    "cross_entropy, images": loss(training.cross_entropy, maps_and_indices, ignore_index=1),
    "cross_entropy, sum": loss(training.cross_entropy, scores_and_indices, reduction="sum"),
    "nll_loss": loss(training.nll_loss, scores_and_indices),
    "nll_loss, images": loss(training.nll_loss, maps_and_indices),
    "nll_loss, weights": loss(training.nll_loss, scores_and_indices, torch.tensor([1.0, 2, 3])),
    "LabelSmoothingCrossEntropy": LossPart(LabelSmoothingCrossEntropy, scores_and_indices),
    "LabelSmoothingCrossEntropy, probabilities": LossPart(
        partial(LabelSmoothingCrossEntropy, 0.3), scores_and_probabilities
    ),
    "LabelSmoothingCrossEntropy, images": LossPart(weighted_smoothing, maps_and_indices),
    "mse_loss": loss(training.mse_loss, scores_and_probabilities),
    "mse_loss, sum": loss(training.mse_loss, scores_and_probabilities, reduction="sum"),
}


class Lion(torch.optim.Optimizer):
    """Steps by the sign of an average of the gradients, as a user would write it."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Take a step."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"]).sub_(group["lr"] * average.sign())


def in_groups(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """AdamW in two groups, the second slower."""
    first, *rest = params
    return torch.optim.AdamW([{"params": rest}, {"params": [first], "lr": lr / 2}], lr=lr)


def with_tensor(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """Adam whose learning rate is a tensor."""
    return torch.optim.Adam(params, lr=torch.tensor(lr))


def own_pieces(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """Steps of one length, in the direction of a moving average, with decay."""
    pieces = [optim.average_momentum, optim.decay, of_one_length, optim.sgd_step]
    options = {"lr": lr, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}
    return optim.StatefulOptimizer(params, pieces, "own_pieces", **options)


def of_one_length(p: Tensor, g: Tensor, state: dict) -> Tensor:
    """A piece that makes the direction as long as a direction of ones."""
    return g * (g.numel() ** 0.5 / g.norm().clamp(min=1e-6))


OPTIMIZERS = {
    "sgd": OptimizerPart(optim.sgd),
    "momentum": OptimizerPart(partial(optim.momentum, weight_decay=0.01)),
    "nesterov": OptimizerPart(optim.nesterov),
    "rmsprop": OptimizerPart(partial(optim.rmsprop, momentum=0.5)),
    "adam": OptimizerPart(optim.adam),
    "adamw": OptimizerPart(optim.adamw),
    "lamb": OptimizerPart(optim.lamb),
    "muon": MatricesPart(optim.muon),
    "StatefulOptimizer": OptimizerPart(own_pieces),
    "SGD": OptimizerPart(torch.optim.SGD),
    "SGD, momentum": OptimizerPart(partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
    "Adam": OptimizerPart(torch.optim.Adam),
    "Adam, tensor": OptimizerPart(with_tensor),
    "AdamW": OptimizerPart(torch.optim.AdamW),
    "AdamW, groups": OptimizerPart(in_groups),
    "RMSprop": OptimizerPart(partial(torch.optim.RMSprop, momentum=0.5)),
    "Lion": OptimizerPart(Lion),
}


def smaller(x: Tensor) -> Tensor:
    """A transform of inputs that draws nothing."""
    return 0.9 * x


class Pixels(MixUp):
    """`CutMix` for the rows of six numbers of the toys: images of one row."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.cut = CutMix(1.0)

    def mix(
        self, inputs: tuple[Tensor, ...], partner: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Mix rows as images."""
        images, lam = self.cut.mix(tuple(x[:, None, None] for x in inputs), partner)
        return tuple(x[:, 0, 0] for x in images), lam


CALLBACKS = {
    "Augment": CallbackPart(lambda folder: [Augment(smaller)]),
    "Callback": CallbackPart(lambda folder: [Callback()]),
    "Recorder": CallbackPart(lambda folder: [Recorder()]),
    "ProgressBar": CallbackPart(lambda folder: [ProgressBar()]),
    "GradientClip": CallbackPart(lambda folder: [GradientClip(0.05)]),
    "TerminateOnNaN": CallbackPart(lambda folder: [TerminateOnNaN()]),
    "EarlyStopping": CallbackPart(lambda folder: [EarlyStopping("train_loss", patience=9)]),
    "EarlyStopping, restores": CallbackPart(
        lambda folder: [EarlyStopping("train_loss", min_delta=9, restore_best_weights=True)]
    ),
    "Checkpoint": CallbackPart(lambda folder: [Checkpoint(folder / "run")]),
    "ParamScheduler": CallbackPart(lambda folder: [ParamScheduler("lr", sched_lin(0.1, 0))]),
    "ParamScheduler, scale": CallbackPart(
        lambda folder: [ParamScheduler("lr", sched_lin(1, 0.1), scale=True)]
    ),
    "TorchScheduler": CallbackPart(
        lambda folder: [
            TorchScheduler(partial(torch.optim.lr_scheduler.StepLR, step_size=2), interval="step")
        ]
    ),
    "TorchScheduler, plateau": CallbackPart(
        lambda folder: [
            TorchScheduler(
                partial(
                    torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=9
                ),
                interval="epoch",
            )
        ]
    ),
    "one_cycle": CallbackPart(lambda folder: schedule.one_cycle(0.1)),
    "LRFinder": CallbackPart(lambda folder: [LRFinder()]),
    "SGDR": CallbackPart(lambda folder: [SGDR(0.1)]),
    "SGDR, folder": CallbackPart(lambda folder: [SGDR(0.1, folder=folder / "cycles")]),
    "ActivationStats": CallbackPart(lambda folder: [ActivationStats(every=1)]),
    "TensorBoard": CallbackPart(lambda folder: [TensorBoard(folder / "logs")]),
    "MixUp": CallbackPart(lambda folder: [MixUp(0.4)]),
    "CutMix": CallbackPart(lambda folder: [Pixels()]),
    "RandomMix": CallbackPart(lambda folder: [RandomMix(MixUp(0.4), Pixels())]),
    "MixedPrecision": CallbackPart(lambda folder: [MixedPrecision()]),
    "MixedPrecision, float16": CallbackPart(
        lambda folder: [MixedPrecision(torch.float16, init_scale=2.0**10, growth_interval=2)]
    ),
    "Distributed": CallbackPart(lambda folder: [Distributed()]),
}

SCHEDULES = {
    "schedule": SchedulePart(lambda: schedule.schedule(lambda pos: 0.1 / (1 + pos))),
    "sched_lin": SchedulePart(lambda: schedule.sched_lin(0.1, 0.01)),
    "sched_cos": SchedulePart(lambda: schedule.sched_cos(0.1, 0.0)),
    "sched_poly": SchedulePart(lambda: schedule.sched_poly(0.1, 0.01, 3)),
    "sched_exp": SchedulePart(lambda: schedule.sched_exp(0.001, 0.1)),
    "combine_scheds": SchedulePart(
        lambda: schedule.combine_scheds(
            [0.3, 0.7], [schedule.sched_lin(0.01, 0.1), schedule.sched_cos(0.1, 0)]
        )
    ),
}


def whole(function: Callable) -> Callable:
    """Make an initializer of a whole model from one of a single weight."""

    def initialize(model: nn.Module, xb: Tensor, generator: torch.Generator) -> None:
        for p in model.parameters():
            if p.ndim > 1:
                function(p, generator=generator)

    return initialize


INITIALIZERS = {
    "xavier_uniform_": Part(whole(init.xavier_uniform_)),
    "xavier_normal_": Part(whole(init.xavier_normal_)),
    "kaiming_uniform_": Part(whole(init.kaiming_uniform_)),
    "kaiming_normal_": Part(whole(init.kaiming_normal_)),
    "lecun_normal_": Part(whole(init.lecun_normal_)),
    "orthogonal_": Part(whole(init.orthogonal_)),
    "lsuv_": Part(lambda model, xb, generator: init.lsuv_(model, xb, generator=generator)),
    "fixup_": Part(lambda model, xb, generator: init.fixup_(model, generator=generator)),
}

METRICS = {
    "accuracy": MetricPart(lambda: training.accuracy),
    "Metric": MetricPart(lambda: training.Metric(training.accuracy, name="right")),
}

PARTS: dict[str, dict[str, Part]] = {
    "layer": LAYERS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "callback": CALLBACKS,
    "schedule": SCHEDULES,
    "initializer": INITIALIZERS,
    "metric": METRICS,
}
WHERE = "LAYERS, LOSSES, OPTIMIZERS, CALLBACKS, SCHEDULES, INITIALIZERS or METRICS"

OTHERS = {  # exported, and no part; "files.*" is a whole module, in which only classes are parts
    "functions of transfer": "transfer.*",
    "what CutMix is made of": "random_boxes",
    "functions of mixed_precision, and what its callback scales with": "mixed_precision.* "
    "FloatFormat LossScaler",
    "functions of xresnet": "xresnet.*",
    "functions of distributed": "distributed.*",
    "what draws random numbers; tests/test_augment.py has one contract for all": "augment.* "
    "RandomStream ImageTransform RandomFlip RandomDihedral RandomCrop RandomResizedCrop "
    "PerspectiveWarp Batch BatchTransform Geometric Rotate Zoom Translate Warp Flip Compose "
    "Lighting RandomErasing",
    "the loop in which the parts meet": "DataBunch Learner CancelException CancelStepException "
    "CancelBatchException CancelEpochException CancelFitException",
    "what the loop is made of": "EVENTS as_list bind_callbacks make_optimizer "
    "check_numbers show_training_loop",
    "what optimizers are made of": "l2 sgd_step kept sum_momentum count_steps steps_done "
    "mean_square rmsprop_step average_moments adam_step decay lamb_step orthogonalize "
    "average_momentum muon_step",
    "what the layers of chapter 03 are made of": "Parameter Buffer Module UninitializedParameter",
    "tools that move or write what others are made of": "save load default_device to_device "
    "load_exported export_model",
    "types": "Size Schedule HookFunction SummaryRow Summary",
    "tools that look at a model; checks use them": "Hook Hooks model_summary",
    "numbers about a weight or a function": "fan_in_and_fan_out calculate_gain gain_for",
    "data": "image_loaders data.* data_block.* dataloader.* official.* registry.* standin.* "
    "standin_media.* standin_text.*",
    "tools around the book": "check.* codehash.* files.* plot.* record.* rng.*",
    "chapters 01 and 02, which come before torch's modules": "matmul.* autograd.*",
}


# --- what the checks share ------------------------------------------------------------------------


@contextmanager
def torch_may_warn() -> Iterator[None]:
    """Torch's compiler and exporter use what torch itself deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def close(got: object, expected: object, tol: float = 1e-5) -> None:
    """Compare tensors, or dictionaries of them."""
    torch.testing.assert_close(got, expected, rtol=tol, atol=tol, equal_nan=True)


def exactly(got: object, expected: object, where: str = "") -> None:
    """Compare bit for bit, at any depth."""
    assert type(got) is type(expected), where
    if isinstance(got, Tensor):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(got, dict):
        assert list(got) == list(expected), where
        for name in got:
            exactly(got[name], expected[name], f"{where}/{name}")
    elif isinstance(got, (list, tuple)):
        assert len(got) == len(expected), where
        for i, (one, other) in enumerate(zip(got, expected, strict=True)):
            exactly(one, other, f"{where}/{i}")
    else:
        assert got == expected or got != got and expected != expected, where


def fit(learn: Learner, n_epochs: int, cbs: Iterable[Callback] = (), **options: object) -> Learner:
    """Fit with random numbers that begin in the same way each time."""
    torch.manual_seed(0)
    learn.fit(n_epochs, cbs=cbs, **options)
    return learn


def weights(learn: Learner) -> dict[str, Tensor]:
    """Copies of the parameters and buffers of a learner's model."""
    return {name: value.clone() for name, value in learn.model.state_dict().items()}


def results(layer: Callable, inputs: tuple[Tensor, ...], call: Callable | None = None) -> dict:
    """What a pass forward and backward leaves: output, gradients and buffers."""
    first = inputs[0].detach().clone().requires_grad_()
    output = (layer if call is None else call)(first, *inputs[1:])
    pull = torch.linspace(-1, 1, output.numel() + 1)[1:].reshape(output.shape)
    output.backward(pull.to(output.dtype))
    found = {"output": output.detach(), "input's gradient": first.grad}
    found |= {f"gradient of {name}": p.grad for name, p in layer.named_parameters()}
    return found | {name: b.clone() for name, b in layer.named_buffers()}


def finite(values: dict[str, Tensor]) -> None:
    """Check that no value is nan or infinite."""
    for name, value in values.items():
        assert value.isfinite().all(), f"{name} is not finite"


def has_moved(learn: Learner, before: dict[str, Tensor]) -> None:
    """Check that training has changed every parameter, and that all values are finite."""
    after = weights(learn)
    finite(after)
    for name, _ in learn.model.named_parameters():
        assert not torch.equal(after[name], before[name]), f"{name} has not moved"


def in_bfloat16(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with 16 bits for each floating-point number."""
    return tuple(x.bfloat16() if x.is_floating_point() else x for x in inputs)


def near(got: Tensor, exact: Tensor) -> None:
    """Check that 16 bits lead to about the same as 32."""
    finite({"the result": got})
    error = (got.float() - exact).abs().max()
    assert error <= 0.04 * (1 + exact.abs().max()), f"off by up to {error:.2g}"


# --- checks of layers and losses ------------------------------------------------------------------


def exported(part: Part, folder: Path, mode: bool = False) -> None:
    """torch.export with a batch of any size, in evaluation mode."""
    layer, inputs = part.layer().train(mode), part.inputs(3)
    batch = torch.export.Dim("batch")
    sizes = tuple({0: batch} for _ in inputs)
    program = torch.export.export(layer, inputs, dynamic_shapes=sizes, strict=False)
    for n in (1, 2, 5):
        own, run = copy.deepcopy(layer), program.module()
        close(run(*part.inputs(n)), own(*part.inputs(n)))


def exported_in_training(part: Part, folder: Path) -> None:
    """The same in training mode."""
    exported(part, folder, mode=True)


def written(part: Part, folder: Path) -> None:
    """`export_model` of chapter 05b, and the file on other batches."""
    layer = part.layer()
    export_model(layer, part.inputs(1), folder / "part.pt2")
    run = load_exported(folder / "part.pt2")
    for n in (1, 6):
        close(run(*part.inputs(n)), layer.eval()(*part.inputs(n)))


def compiled(part: Part, folder: Path, backend: str = "aot_eager", tol: float = 1e-6) -> None:
    """torch.compile in one graph, in training mode: outputs, gradients and buffers."""
    torch._dynamo.reset()
    eager = part.layer()
    layer = copy.deepcopy(eager)
    fast = torch.compile(layer, backend=backend, fullgraph=True)
    expected = results(eager, part.inputs(4))
    close(results(layer, part.inputs(4), fast), expected, tol)


def compiled_for_any_batch(part: Part, folder: Path) -> None:
    """torch.compile with sizes left open, on several batches, in evaluation mode."""
    torch._dynamo.reset()
    eager = part.layer().eval()
    layer = copy.deepcopy(eager)
    fast = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for n in (4, 6):
        for one in (eager, layer):
            for p in one.parameters():
                p.grad = None
        expected = results(eager, part.inputs(n))
        close(results(layer, part.inputs(n), fast), expected)


def called_functionally(part: Part, folder: Path) -> None:
    """torch.func.functional_call with other parameters and buffers."""
    layer, other = part.layer(), part.layer(seed=1)
    before = copy.deepcopy(layer.state_dict())
    state = {name: value.detach().clone() for name, value in other.state_dict().items()}
    got = torch.func.functional_call(layer, state, part.inputs(4))
    close(got, other(*part.inputs(4)))
    exactly(layer.state_dict(), before)


def copied(part: Part, folder: Path) -> None:
    """copy.deepcopy: the same, and independent."""
    layer = part.layer().eval()
    twin = copy.deepcopy(layer)
    before = results(twin, part.inputs(4))
    assert type(twin) is type(layer)
    assert not twin.training
    exactly(before, results(layer, part.inputs(4)))
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            tensor.add_(1)
    layer.zero_grad() if isinstance(layer, nn.Module) else None
    exactly(layer(*part.inputs(4)).detach(), before["output"])


def pickled(part: Part, folder: Path) -> None:
    """Pickle: the same results."""
    layer = part.layer()
    twin = pickle.loads(pickle.dumps(layer))
    exactly(results(twin, part.inputs(4)), results(layer, part.inputs(4)))


def stated(part: Part, folder: Path) -> None:
    """state_dict, written and read by chapter 03, into a layer with other weights."""
    layer, other = part.layer(), part.layer(seed=1)
    state = layer.state_dict()
    save(dict(state), folder / "state")
    keys = other.load_state_dict(load(folder / "state"), strict=True)
    assert not keys.missing_keys
    assert not keys.unexpected_keys
    exactly(other.state_dict(), state)
    exactly(results(other, part.inputs(4)), results(layer, part.inputs(4)))
    other.load_state_dict(state)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            tensor.add_(1)
    exactly(layer.state_dict(), before)


def in_channels_last(part: Part, folder: Path) -> None:
    """The same with channels last in memory, for weights as well."""
    layer = part.layer()
    turned = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    first, *rest = part.inputs(4)
    first = first.to(memory_format=torch.channels_last)
    close(results(turned, (first, *rest)), results(layer, part.inputs(4)))


def of_16_bits(part: Part, folder: Path) -> None:
    """In bfloat16: outputs of that type, everything finite, near float32."""
    layer = part.layer().to(torch.bfloat16)
    first, *rest = part.inputs(4)
    inputs = in_bfloat16((first + 50, *rest))  # far from 0, where 16 bits are few
    wide = copy.deepcopy(layer).to(torch.float32)
    exact = results(wide, tuple(x.float() if x.is_floating_point() else x for x in inputs))
    got = results(layer, inputs)
    assert got["output"].dtype == torch.bfloat16
    assert got["input's gradient"].dtype == torch.bfloat16
    finite(got)
    near(got["output"], exact["output"])


def under_autocast(part: Part, folder: Path) -> None:
    """Under autocast: finite, near float32, gradients of the type of the parameters."""
    layer = part.layer()
    exact = results(copy.deepcopy(layer), part.inputs(4))
    with torch.autocast("cpu", torch.bfloat16):
        got = results(layer, part.inputs(4))
    finite(got)
    near(got["output"], exact["output"])


def with_large_numbers(part: Part, folder: Path) -> None:
    """Inputs of a thousand: outputs and gradients are finite."""
    first, *rest = part.inputs(4)
    finite(results(part.layer(), (1000 * first, *rest)))


def without_samples(part: Part, folder: Path) -> None:
    """An empty batch: an empty output, zeros for gradients, the statistics as before."""
    for mode in (True, False):
        layer = part.layer().train(mode)
        before = copy.deepcopy(layer)
        full = before(*part.inputs(2))
        found = results(layer, part.inputs(0))
        assert found["output"].shape == (0, *full.shape[1:])
        assert found["output"].dtype == full.dtype
        finite(found)
        running = {k: v for k, v in part.layer().named_buffers() if k.startswith("running")}
        exactly({k: found[k] for k in running}, running)


def without_targets(part: Part, folder: Path) -> None:
    """An empty batch: as torch, nan for the mean and 0 for the sum; no gradients, no error."""
    layer = part.layer()
    found = results(layer, part.inputs(0))
    options = layer.function.keywords if isinstance(layer, Judged) else vars(layer)
    wanted = 0.0 if options.get("reduction") == "sum" else math.nan
    close(found["output"], torch.tensor(wanted))
    assert found["input's gradient"].shape == part.inputs(0)[0].shape


def in_both_modes(part: Part, folder: Path) -> None:
    """In evaluation the answer to a sample does not depend on others, and nothing changes."""
    layer, (x,) = part.layer(), part.inputs(6)
    assert layer.training
    assert layer.eval() is layer
    assert not any(m.training for m in layer.modules())
    before = copy.deepcopy(layer.state_dict())
    once = layer(x)
    close(torch.cat([layer(row) for row in x.split(1)]), once)
    exactly(layer(x), once)
    exactly(layer.state_dict(), before)
    assert all(m.training for m in layer.train().modules())


def looked_at(part: Part, folder: Path) -> None:
    """Hooks and `model_summary` of chapter 06 see the layer and leave it as it was."""
    layer, inputs = part.layer(), part.inputs(4)
    before = copy.deepcopy(layer.state_dict())
    found = model_summary(layer, *inputs)
    exactly(layer.state_dict(), before)
    assert found.params == sum(p.numel() for p in layer.parameters())
    with Hooks([layer], lambda layer, inputs, output: output.shape) as hooks:
        assert hooks[0].value is None
        assert layer(*inputs).shape == hooks[0].value


def fitted(part: Part, folder: Path) -> None:
    """An epoch of `Learner.fit`: every weight moves, and all are finite."""
    learn = part.learner()
    before = weights(learn)
    learn.fit(2, cbs=part.callbacks(folder))
    has_moved(learn, before)


def range_tested(part: Part, folder: Path) -> None:
    """`LRFinder` runs, and leaves model and random numbers bit for bit as they were."""
    learn = part.learner()
    learn.fit(1)
    before, state = weights(learn), torch.get_rng_state()
    order = learn.data.train_dl.sampler.generator
    drawn = order and order.get_state()
    finder = LRFinder(1e-3, 1e-1, steps=4, early_stop_threshold=1e9).run(learn)
    assert len(finder.losses) == 4
    exactly(weights(learn), before)
    exactly(torch.get_rng_state(), state)
    exactly(order and order.get_state(), drawn)


def watched(part: Part, folder: Path) -> None:
    """`ActivationStats` on the layer: a row each step, the training run bitwise the same."""
    alone, learn = fit(part.learner(), 1), part.learner()
    fit(learn, 1, [stats := ActivationStats(learn.model.layer, every=1)])
    exactly(weights(learn), weights(alone))
    assert stats.history.shape[:2] == (3, 1)
    finite({"history": stats.history})


def with_each_optimizer(part: Part, folder: Path) -> None:
    """A fit with each of the optimizers that take parameters of all shapes."""
    for name, opt in OPTIMIZERS.items():
        if isinstance(opt, MatricesPart):
            continue
        learn = part.learner(opt_func=opt.make, lr=0.01)
        before = weights(learn)
        learn.fit(1, cbs=part.callbacks(folder / name))
        has_moved(learn, before)


# --- killed and resumed ---------------------------------------------------------------------------


class PowerCutError(Exception):
    """What ends a fit that is killed."""


class Cut(Callback):
    """Raises an error in a step of an epoch, in training."""

    def __init__(
        self, error: type[Exception] = PowerCutError, epoch: int = 1, step: int = 1
    ) -> None:
        self.error, self.at = error, (epoch, step)

    def after_backward(self) -> None:
        """Raise it when its time has come."""
        if (self.learn.epoch, self.learn.step) == self.at:
            raise self.error


PLAIN = (str, float, int, type(None), Path)  # a bool is an int


def memory(thing: object) -> object:
    """What a callback or a structure remembers: what is made of tensors and plain values.

    Of paths, the names; of a callback, what is its own.
    """
    if isinstance(thing, Callback):
        own = {name: value for name, value in vars(thing).items() if name not in ("learn", "due")}
        return memory(own)
    if isinstance(thing, dict):
        return {k: memory(v) for k, v in thing.items() if isinstance(k, PLAIN) and is_plain(v)}
    if isinstance(thing, (list, tuple)):
        return [memory(v) for v in thing if is_plain(v)]
    return Path(thing).name if isinstance(thing, (str, Path)) else thing


def is_plain(thing: object) -> bool:
    """Whether it is something that can be remembered, not a function or another object."""
    return isinstance(thing, (Tensor, dict, list, tuple, *PLAIN))


def resumed(part: Part, folder: Path) -> None:
    """Killed in the second of three epochs and resumed: bit for bit as if never stopped."""

    def run(place: str, seed: int, *more: Callback) -> tuple[Learner, list[Callback]]:
        learn, cbs = part.learner(seed), part.callbacks(folder / place)
        own = any(isinstance(cb, Checkpoint) for cb in cbs)
        saving = [] if own else [Checkpoint(folder / place / "run")]
        learn.fit(3, cbs=[*cbs, *saving, *more])
        return learn, cbs

    straight, cbs = run("straight", 0)
    with pytest.raises(PowerCutError):
        run("broken", 0, Cut())
    again, others = run("broken", 5)
    exactly(weights(again), weights(straight))
    exactly(list(map(memory, others)), list(map(memory, cbs)))
    exactly(
        list(again.opt.state_dict()["state"].values()),
        list(straight.opt.state_dict()["state"].values()),
    )


# --- checks of callbacks --------------------------------------------------------------------------


def leaves_alone(part: Part, folder: Path) -> None:
    """A training run with it is bitwise the one without."""
    alone, learn = fit(part.learner(), 2), fit(part.learner(), 2, part.callbacks(folder))
    exactly(weights(learn), weights(alone))


def same_again(part: Part, folder: Path, cbs: list[Callback]) -> None:
    """Check that callbacks that have a fit behind them do in the next what new ones do."""
    fits = []
    for given in (cbs, part.callbacks(folder / "new")):
        learn = fit(part.learner(), 2, given)
        fits.append((weights(learn), memory([cb.state_dict() for cb in given])))
    exactly(*fits)


def used_again(part: Part, folder: Path) -> None:
    """A second fit with the same objects is as one with new ones."""
    cbs = part.callbacks(folder)
    part.learner(seed=3).fit(2, cbs=cbs)
    same_again(part, folder, cbs)


def used_after_an_error(part: Part, folder: Path) -> None:
    """After a fit that failed the objects are as good as new ones."""
    cbs = part.callbacks(folder)
    with pytest.raises(PowerCutError):
        part.learner(seed=3).fit(2, cbs=[*cbs, Cut()])
    same_again(part, folder, cbs)


def canceled(part: Part, folder: Path) -> None:
    """Each of the four cancel exceptions in mid-run; the next fit is as with new objects."""
    for error in (
        CancelStepException,
        CancelBatchException,
        CancelEpochException,
        CancelFitException,
    ):
        place = folder / error.__name__
        cbs, learn = part.callbacks(place), part.learner()
        learn.fit(3, cbs=[*cbs, Cut(error)])
        finite(weights(learn))
        assert learn.epoch == (1 if error is CancelFitException else 3)
        same_again(part, place, cbs)


def callbacks_copied(part: Part, folder: Path) -> None:
    """Deepcopy of the callbacks, and of a learner that has them and has trained."""
    used = copy.deepcopy(part.callbacks(folder))
    same_again(part, folder, used)
    learn = part.learner(cbs=part.callbacks(folder / "first"))
    learn.fit(1)
    twin = copy.deepcopy(learn)
    assert all(cb.learn is twin for cb in twin.cbs)
    exactly(weights(fit(twin, 1)), weights(fit(learn, 1)))


def callbacks_pickled(part: Part, folder: Path) -> None:
    """Pickle of the callbacks, before and after a fit."""
    cbs = part.callbacks(folder)
    same_again(part, folder, pickle.loads(pickle.dumps(cbs)))
    part.learner().fit(1, cbs=cbs)
    for cb in cbs:
        cb.learn = None
    same_again(part, folder / "after", pickle.loads(pickle.dumps(cbs)))


def states_saved(part: Part, folder: Path) -> None:
    """What state_dict returns is written, read and taken back whole by new callbacks."""

    class Takes(Callback):
        order = 1000

        def before_fit(self) -> None:
            for cb, state in zip(new, states, strict=True):
                cb.load_state_dict(state)
            taken.append([cb.state_dict() for cb in new])
            raise CancelFitException

    taken, cbs = [], part.callbacks(folder)
    part.learner().fit(2, cbs=cbs)
    save([cb.state_dict() for cb in cbs], folder / "states")
    states, new = load(folder / "states"), part.callbacks(folder / "new")
    part.learner().fit(2, cbs=[*new, Takes()])
    exactly(taken, [states])


def with_16_bits(part: Part, folder: Path) -> None:
    """A fit of a model in bfloat16."""
    learn = part.learner(data=loaders(X[:20].bfloat16(), Y[:20]))
    learn.model.bfloat16()
    before = weights(learn)
    learn.fit(2, lr=0.2, cbs=part.callbacks(folder))
    finite(weights(learn))
    assert any(not torch.equal(v, before[k]) for k, v in weights(learn).items())
    assert learn.pred.dtype == torch.bfloat16


def with_a_compiled_model(part: Part, folder: Path) -> None:
    """A fit of a compiled model: the weights are those of the model as it is."""
    torch._dynamo.reset()
    plain, learn = part.learner(), part.learner()
    learn.model.compile(backend="aot_eager", dynamic=True)
    fit(plain, 2, part.callbacks(folder / "plain"))
    fit(learn, 2, part.callbacks(folder / "compiled"))
    close(weights(learn), weights(plain))


def in_a_range_test(part: Part, folder: Path) -> None:
    """`LRFinder` with copies of the callbacks: model and callbacks stay as they are."""
    learn, cbs = part.learner(), part.callbacks(folder)
    before, remembered = weights(learn), copy.deepcopy(list(map(memory, cbs)))
    LRFinder(1e-3, 1e-1, steps=4, early_stop_threshold=1e9).run(learn, cbs)
    exactly(weights(learn), before)
    exactly(list(map(memory, cbs)), remembered)
    same_again(part, folder, cbs)


def without_validation(part: Part, folder: Path) -> None:
    """A fit with a training loader alone."""
    learn = part.learner(data=DataBunch(BATCHES[:3]))
    before = weights(learn)
    learn.fit(2, cbs=part.callbacks(folder))
    has_moved(learn, before)


def with_an_empty_batch(part: Part, folder: Path) -> None:
    """An empty batch in validation changes nothing."""
    train, empty = BATCHES[:3], (X[:0], Y[:0])
    fits = []
    for place, valid in (("full", train), ("empty", [empty, *train, empty])):
        learn = part.learner(data=DataBunch(train, valid))
        fit(learn, 2, part.callbacks(folder / place))
        fits.append({**weights(learn), **learn.results})
    exactly(*fits)


def in_two_learners(part: Part, folder: Path) -> None:
    """One object for two learners, which train in turns; validation between them."""
    cbs = part.callbacks(folder)
    one, two = part.learner(cbs=cbs), part.learner(seed=1, cbs=cbs)
    alone = fit(part.learner(cbs=part.callbacks(folder / "alone")), 2)
    fit(two, 2)
    one.validate()
    assert all(cb.learn is one for cb in one.cbs)
    fit(one, 2)
    two.validate()
    exactly(weights(one), weights(alone))


def beside_each_other(part: Part, folder: Path) -> None:
    """A fit with each callback further down in the table, in both orders.

    Two that claim the same setting are refused.
    """
    names = list(CALLBACKS)
    start = next((i for i, name in enumerate(names) if CALLBACKS[name] is part), 0)
    for name in names[start:]:
        other = CALLBACKS[name]
        mine, others = part.callbacks(folder / name), other.callbacks(folder / name / "other")
        if name == "LRFinder":
            continue
        claims = [claimed(mine), claimed(others)]
        learn = part.learner()
        before = weights(learn)
        if claims[0] & claims[1]:
            with pytest.raises(ValueError, match="both own"):
                learn.fit(2, cbs=[*mine, *others])
            continue
        fit(learn, 2, [*mine, *others])
        has_moved(learn, before)
        mine, others = (p.callbacks(folder / name / "turned") for p in (part, other))
        turned = fit(part.learner(), 2, [*others, *mine])
        close(weights(turned), weights(learn))


def claimed(cbs: list[Callback]) -> set[str]:
    """The settings that callbacks claim for themselves."""
    kinds = [cb.exclusive for cb in cbs]
    return {s for kind in kinds for s in ([kind] if isinstance(kind, str) else kind) if s}


# --- checks of optimizers, schedules, initializers and metrics ------------------------------------


def optimizer_copied(part: Part, folder: Path) -> None:
    """Deepcopy and pickle of a learner's model and optimizer together: training goes on alike."""
    learn = part.learner()
    learn.fit(1)
    for way in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        model, opt = way((learn.model, learn.opt))
        exactly(opt.state_dict(), learn.opt.state_dict())
        held = {id(p) for group in opt.param_groups for p in group["params"]}
        assert held == {id(p) for p in model.parameters()}


def with_frozen_layers(part: Part, folder: Path) -> None:
    """What is frozen stays."""
    learn = part.learner()
    learn.model[0].requires_grad_(False)
    before = weights(learn)
    learn.fit(2)
    after = weights(learn)
    exactly(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["4.weight"], before["4.weight"])


def with_each_schedule(part: Part, folder: Path) -> None:
    """A fit with each schedule of the learning rate, which the optimizer gets."""
    for other in SCHEDULES.values():
        learn, curve = part.learner(), other.make()
        before = weights(learn)
        learn.fit(2, cbs=[ParamScheduler("lr", curve)])
        has_moved(learn, before)
        assert all(float(g["lr"]) == pytest.approx(curve(5 / 6)) for g in learn.opt.param_groups)


def positions(part: Part, folder: Path) -> None:
    """Tensors of positions of any shape and dtype, no jumps; what is no position is refused."""
    curve = part.make()
    at = [0, 0.1, 0.3, 0.5, 0.75, 1]
    values = [curve(pos) for pos in at]
    assert all(math.isfinite(value) for value in values)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        got = curve(torch.tensor(at, dtype=dtype).view(2, 3))
        assert got.dtype == dtype
        near(got.flatten(), torch.tensor(values))
    assert curve(torch.empty(0, 2)).shape == (0, 2)
    fine = curve(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert fine.diff().abs().max() < 0.02 * (fine.max() - fine.min()), "it jumps"
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a position"):
            curve(wrong)


def nested(part: Part, folder: Path) -> None:
    """As a phase of `combine_scheds`, twice."""
    curve = part.make()
    both = schedule.combine_scheds([0.5, 0.5], [curve, curve])
    assert both(0.2) == pytest.approx(curve(0.4))
    assert both(0.7) == pytest.approx(curve(0.4))
    assert both(1) == curve(1)


def schedule_copied(part: Part, folder: Path) -> None:
    """Deepcopy of a schedule, and of a list of them."""
    curve = part.make()
    assert copy.deepcopy([curve])[0](0.3) == curve(0.3)


def schedule_pickled(part: Part, folder: Path) -> None:
    """Pickle of a schedule."""
    curve = part.make()
    assert pickle.loads(pickle.dumps(curve))(0.3) == curve(0.3)


def as_a_factor(part: Part, folder: Path) -> None:
    """With scale=True each group has its own learning rate, times the schedule."""
    learn, curve = part.learner(opt_func=in_groups), part.make()
    learn.fit(2, lr=0.3, cbs=[ParamScheduler("lr", curve, scale=True)])
    expected = [0.3 * curve(5 / 6), 0.15 * curve(5 / 6)]
    assert [g["lr"] for g in learn.opt.param_groups] == pytest.approx(expected)


def convolutions(kind: type) -> nn.Module:
    """A small residual network of our convolutions or of torch's."""
    block = init.FixupBlock(kind(6, 6, 3, padding=1), kind(6, 6, 3, padding=1))
    stem = kind(4, 6, 3, padding=1)
    return nn.Sequential(stem, nn.ReLU(), block, nn.Flatten(), nn.Linear(180, CLASSES))


def initialized(part: Part, kind: type = conv.Conv2d, dtype: torch.dtype = torch.float32):
    """A network that the part has initialized."""
    torch.manual_seed(0)
    model = convolutions(kind).to(dtype)
    part.make(model, images(16)[0].to(dtype), generator=seeded())
    return model


def same_for_our_layers(part: Part, folder: Path) -> None:
    """The book's convolution is initialized as torch's is."""
    close(*(dict(initialized(part, kind).state_dict()) for kind in (conv.Conv2d, nn.Conv2d)))


def from_its_generator(part: Part, folder: Path) -> None:
    """All random numbers come from the generator that was given."""
    torch.manual_seed(0)
    model = convolutions(conv.Conv2d)
    before = torch.get_rng_state()
    part.make(model, images(16)[0], generator=seeded(1))
    exactly(torch.get_rng_state(), before)
    other = initialized(part)
    assert not torch.equal(other[0].weight, model[0].weight)


def initialized_in_16_bits(part: Part, folder: Path) -> None:
    """Weights in bfloat16 keep their type and have about the same standard deviation."""
    exact, got = (initialized(part, dtype=t) for t in (torch.float32, torch.bfloat16))
    finite(got.state_dict())
    assert {p.dtype for p in got.parameters()} == {torch.bfloat16}
    for one, other in zip(exact.parameters(), got.parameters(), strict=True):
        if one.ndim > 1:
            assert other.float().std().item() == pytest.approx(one.std().item(), rel=0.25)


def initialized_with_channels_last(part: Part, folder: Path) -> None:
    """Weights with channels last in memory stay so, and get finite numbers of the same size."""
    exact = initialized(part)
    torch.manual_seed(0)
    model = convolutions(conv.Conv2d).to(memory_format=torch.channels_last)
    part.make(model, images(16)[0], generator=seeded())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    finite(model.state_dict())
    assert model[0].weight.std().item() == pytest.approx(exact[0].weight.std().item(), rel=0.25)


def fitted_from_there(part: Part, folder: Path) -> None:
    """A network that was initialized learns; a deep copy of it alike."""
    model = initialized(part)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    for one in (copy.deepcopy(model), model):
        learn = toy(one, data=loaders(*images(20), labels(20)))
        before = weights(learn)
        has_moved(fit(learn, 3), before)
    exactly(model.state_dict(), one.state_dict())


def measured(part: Part, folder: Path) -> None:
    """In a fit it has a value for each epoch, that of all samples at once in evaluation."""
    learn = part.learner(cbs=[recorder := Recorder()])
    learn.fit(2)
    name = learn.metrics[0].name
    pred, target = learn.get_preds()
    right = (pred.argmax(1) == target).float().mean().item()
    assert [row[name] for row in recorder.history][-1] == pytest.approx(right)
    assert learn.validate()[name] == pytest.approx(right)


def metric_on(part: Part, pred: Tensor, target: Tensor) -> float:
    """The value of a metric for a batch and half of it."""
    metric = part.learner().metrics[0]
    for rows in (slice(None), slice(len(pred) // 2)):
        metric.update(pred[rows], target[rows])
    return metric.compute()


def measured_in_16_bits(part: Part, folder: Path) -> None:
    """Scores in bfloat16, class indices for each pixel, channels last: the same value."""
    pred, target = torch.randn(6, CLASSES, 4, 5).bfloat16(), labels(6, 4, 5)
    turned = pred.to(memory_format=torch.channels_last)
    assert metric_on(part, pred, target) == metric_on(part, pred.float(), target)
    assert metric_on(part, turned, target) == metric_on(part, pred, target)


def measured_without_samples(part: Part, folder: Path) -> None:
    """An empty batch weighs nothing; nothing else is nan."""
    assert math.isnan(metric_on(part, torch.empty(0, CLASSES), labels(0)))
    metric = part.learner().metrics[0]
    metric.update(torch.empty(0, CLASSES), labels(0))
    metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert metric.compute() == pytest.approx(2 / 3)


def metric_copied(part: Part, folder: Path) -> None:
    """Deepcopy and pickle of a metric that has seen a batch."""
    metric = part.learner().metrics[0]
    metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        twin.update(torch.eye(3), torch.arange(3))
        assert twin.compute() == pytest.approx(5 / 6)
    assert metric.compute() == pytest.approx(2 / 3)


BOTH = (
    exported,
    exported_in_training,
    written,
    compiled,
    compiled_for_any_batch,
    called_functionally,
    copied,
    pickled,
    stated,
    in_channels_last,
    of_16_bits,
    under_autocast,
    with_large_numbers,
    fitted,
    resumed,
    range_tested,
    with_each_optimizer,
)
CHECKS: dict[str, tuple[Callable[[Part, Path], None], ...]] = {
    "layer": (*BOTH, without_samples, in_both_modes, looked_at, watched),
    "loss": (*BOTH, without_targets),
    "optimizer": (
        fitted,
        resumed,
        range_tested,
        optimizer_copied,
        with_16_bits,
        with_frozen_layers,
        with_each_schedule,
    ),
    "callback": (
        fitted,
        resumed,
        leaves_alone,
        used_again,
        used_after_an_error,
        canceled,
        callbacks_copied,
        callbacks_pickled,
        states_saved,
        with_16_bits,
        with_a_compiled_model,
        in_a_range_test,
        without_validation,
        with_an_empty_batch,
        in_two_learners,
        with_each_optimizer,
        beside_each_other,
    ),
    "schedule": (
        fitted,
        resumed,
        with_each_optimizer,
        positions,
        nested,
        schedule_copied,
        schedule_pickled,
        as_a_factor,
    ),
    "initializer": (
        same_for_our_layers,
        from_its_generator,
        initialized_in_16_bits,
        initialized_with_channels_last,
        fitted_from_there,
    ),
    "metric": (
        fitted,
        resumed,
        measured,
        measured_in_16_bits,
        measured_without_samples,
        metric_copied,
    ),
}
SLOW = {exported_in_training, compiled_for_any_batch}
TRACED = {exported, exported_in_training, compiled, compiled_for_any_batch, with_a_compiled_model}
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


# --- what does not fit ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unfit:
    """Parts and checks that do not fit each other; patterns, with a bar between several.

    Args:
        kind: of the parts.
        parts: their names.
        checks: names of the checks.
        error: what they raise.
        match: what its message says.
        reason: why that is right, or whose fault it is.
    """

    kind: str
    parts: str
    checks: str
    error: type[Exception] | tuple[type[Exception], ...]
    match: str
    reason: str

    def covers(self, kind: str, part: str, check: str) -> bool:
        """Whether the line is about a part and a check."""
        return (
            kind == self.kind
            and any(fnmatch(part, pattern) for pattern in self.parts.split("|"))
            and any(fnmatch(check, pattern) for pattern in self.checks.split("|"))
        )


BOOK = "Linear|LazyLinear|ModuleList|Sequential"
NO_PICKLE = (AttributeError, pickle.PicklingError)
UNFIT = [
    Unfit(
        "callback",
        "Augment|MixUp|CutMix|RandomMix",
        "leaves_alone",
        AssertionError,
        "not equal",
        "it changes the inputs of training, which is what it is for",
    ),
    Unfit(
        "callback",
        "MixedPrecision*",
        "leaves_alone",
        AssertionError,
        "not equal",
        "it computes in 16 bits, which is what it is for",
    ),
    Unfit(
        "callback",
        "MixedPrecision*",
        "with_16_bits",
        TypeError,
        "expected weights in float32",
        "without master weights small updates are lost, and it says so",
    ),
    Unfit(
        "layer",
        BOOK,
        "exported*|written|called_functionally|range_tested|looked_at|watched",
        (TypeError, ValueError),
        "torch.nn.Module|expected layers or types",
        "the modules of chapter 03 are not torch's, and these tools say so",
    ),
    Unfit(
        "layer",
        "ResBlock*|XResNet",
        "of_16_bits",
        AssertionError,
        "off by",
        "a convolution's large outputs are rounded before a normalization brings them down",
    ),
    Unfit(
        "layer",
        "RunningBatchNorm2d",
        "exported_in_training",
        torch._dynamo.exc.UserError,
        "Constraints violated",
        "the weight of a batch is computed from its size by the math module",
    ),
    Unfit(
        "layer",
        "DerivedBatchNorm",
        "of_16_bits",
        AssertionError,
        "off by",
        "it takes 32 or 64 bits, as its docstring says",
    ),
    Unfit(
        "layer",
        "DerivedBatchNorm",
        "without_samples",
        ZeroDivisionError,
        "division by zero",
        "it takes one image at least, as its docstring says",
    ),
    Unfit(
        "layer",
        "DerivedBatchNorm|BatchNorm2d, bare",
        "in_both_modes",
        AssertionError,
        "not close",
        "without running statistics each sample depends on its batch",
    ),
    Unfit(
        "loss",
        "cross_entropy|LabelSmoothingCrossEntropy|*, probabilities|*, sum|nll_loss|*, weights|"
        "mse_loss",
        "in_channels_last",
        RuntimeError,
        "required rank 4",
        "their scores are no images",
    ),
    Unfit(
        "schedule",
        "*",
        "schedule_pickled",
        NO_PICKLE,
        "[Cc]an't pickle local object",
        "a schedule is a function within a function",
    ),
    Unfit(
        "callback",
        "ParamScheduler*|one_cycle|SGDR*|LRFinder",
        "callbacks_pickled",
        NO_PICKLE,
        "[Cc]an't pickle local object",
        "they hold a schedule",
    ),
    Unfit(
        "callback",
        "ParamScheduler*|TorchScheduler*|one_cycle|SGDR*|LRFinder",
        "in_a_range_test",
        ValueError,
        "both own 'lr'",
        "the test moves the learning rate itself",
    ),
    Unfit(
        "callback",
        "Checkpoint",
        "in_a_range_test",
        ValueError,
        "the file of a Checkpoint would stay",
        "the test undoes what it does",
    ),
    Unfit(
        "callback",
        "GradientClip|EarlyStopping, restores|*Scheduler*|one_cycle|SGDR*",
        "leaves_alone",
        AssertionError,
        "not equal",
        "changing the training run is what they are for",
    ),
    Unfit(
        "initializer",
        "orthogonal_",
        "initialized_in_16_bits",
        NotImplementedError,
        "geqrf",
        "as in torch, whose QR has no 16 bits; lsuv_ goes by 32",
    ),
    Unfit(
        "callback",
        "LRFinder",
        "*",
        ValueError,
        "started by run",
        "it is no callback for fit: run() puts the weights back; range_tested does that",
    ),
    Unfit(
        "callback",
        "TorchScheduler, plateau",
        "without_validation",
        ValueError,
        "needs interval='epoch' and a validation loss",
        "it looks at the validation loss",
    ),
    Unfit(
        "callback",
        "ActivationStats",
        "with_a_compiled_model",
        ValueError,
        "cannot listen to a compiled model",
        "a compiled model does not call its layers one by one",
    ),
]

ALL = [
    (kind, name, check) for kind, parts in PARTS.items() for name in parts for check in CHECKS[kind]
]


def judge(run: Callable[[], None], unfit: Unfit | None) -> None:
    """Run a check, which has to pass, or to fail as its line in UNFIT says."""
    if unfit is None:
        run()
        return
    try:
        run()
    except unfit.error as error:
        if not re.search(unfit.match, str(error)):
            raise
        return
    pytest.fail(
        f"it passes now, though UNFIT says of {unfit.parts} and {unfit.checks}: {unfit.reason}; "
        "take that out of its line"
    )


class Writer:
    """Takes the place of TensorBoard's, so that the extra is not needed."""

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.scalars = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Keep a number."""
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        """Do nothing."""

    close = flush


@pytest.fixture(autouse=True)
def without_extras(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TensorBoard with another writer; torch's own warnings do not count."""
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    with torch_may_warn():
        yield


def marks(check: Callable) -> list[pytest.MarkDecorator]:
    """What keeps a check from being run always."""
    old = TORCH < (2, 6)
    reason = "torch exports and compiles less before 2.6"
    skip = [pytest.mark.skipif(old, reason=reason)] if check in TRACED else []
    return [pytest.mark.slow, *skip] if check in SLOW else skip


@pytest.mark.parametrize(
    "kind, name, check",
    [
        pytest.param(kind, name, check, id=f"{kind}-{name}-{check.__name__}", marks=marks(check))
        for kind, name, check in ALL
    ],
)
def test_pair(kind: str, name: str, check: Callable, tmp_path: Path) -> None:
    lines = [line for line in UNFIT if line.covers(kind, name, check.__name__)]
    judge(lambda: check(PARTS[kind][name], tmp_path), lines[0] if lines else None)


INDUCTOR = {"Conv2d": 1e-4, "BatchNorm2d": 1e-4, "GroupNorm": 1e-4, "FixupBlock": 1e-3}


@pytest.mark.slow
@pytest.mark.skipif("INDUCTOR" not in os.environ, reason="weekly, or with INDUCTOR=1")
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="there is no C++ compiler"
)
@pytest.mark.parametrize("name", [*INDUCTOR, "cross_entropy"])
def test_with_the_compiler_of_torch(name: str, tmp_path: Path) -> None:
    part = {**LAYERS, **LOSSES}[name]
    compiled(part, tmp_path, backend="inductor", tol=INDUCTOR.get(name, 1e-4))


# --- nothing is left out --------------------------------------------------------------------------


def exports() -> dict[str, tuple[str, object]]:
    """What the modules of the library export: its module and itself, by name."""
    found = {}
    for info in pkgutil.iter_modules(fromfound.__path__):
        if not info.ispkg and not info.name.startswith("_"):
            place = importlib.import_module(f"fromfound.{info.name}")
            found |= {name: (info.name, getattr(place, name)) for name in place.__all__}
    return found


def is_a_part(thing: object) -> bool:
    """Whether it is a class of layers, callbacks, functions with a gradient or optimizers."""
    kinds = (nn.Module, Module, Callback, torch.autograd.Function, torch.optim.Optimizer)
    return isinstance(thing, type) and issubclass(thing, kinds)


def unlisted(found: dict[str, tuple[str, object]]) -> list[str]:
    """Say of each export that is in no table where to enter it."""
    listed = {name.partition(",")[0] for parts in PARTS.values() for name in parts}
    others = {name for names in OTHERS.values() for name in names.split()}
    return [
        f"{place}.{name} is exported and no check meets it: enter it in {WHERE} of "
        "tests/test_pairs.py, or with a reason in OTHERS"
        for name, (place, thing) in found.items()
        if name not in listed | others and (is_a_part(thing) or f"{place}.*" not in others)
    ]


def test_every_exported_part_is_met() -> None:
    assert not unlisted(exports())


def test_the_tables_name_what_there_is() -> None:
    found = exports()
    places = {f"{place}.*" for place, _ in found.values()}
    listed = [
        name.partition(",")[0] for kind in PARTS if kind != "optimizer" for name in PARTS[kind]
    ]
    others = [name for names in OTHERS.values() for name in names.split()]
    assert not {*listed, *others} - {*found, *places}, "in a table and not exported"
    assert not {*listed} & {*others}, "in two tables"
    assert not [name for name, count in Counter(others).items() if count > 1]


def test_a_new_export_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class wherever it is, a function where there are parts."""
    from fromfound import files

    for place, thing in (
        (norm, type("WeightNorm", (nn.Module,), {})),
        (files, type("Clean", (Callback,), {})),
        (schedule, lambda: None),
        (files, lambda: None),
    ):
        name = thing.__name__.replace("<lambda>", "sched_new")
        with monkeypatch.context() as patched:
            patched.setattr(place, name, thing, raising=False)
            patched.setattr(place, "__all__", [*place.__all__, name])
            messages = unlisted(exports())
        wanted = 0 if place is files and name == "sched_new" else 1
        assert len(messages) == wanted
        assert all(f".{name} is exported" in m and "LAYERS" in m for m in messages)


def test_every_line_of_unfit_is_about_something() -> None:
    used = Counter()
    for kind, name, check in ALL:
        used[
            next((i for i, u in enumerate(UNFIT) if u.covers(kind, name, check.__name__)), -1)
        ] += 1
    idle = [f"{u.parts}: {u.checks}" for i, u in enumerate(UNFIT) if not used[i]]
    assert not idle, "these lines of UNFIT cover no part and check"


# --- planted faults -------------------------------------------------------------------------------


class KeepsCopy(nn.Module):
    """Computes with a copy of its weight that it makes once."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.kept = nn.Parameter(torch.rand(4, 1, 1)), None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.scale.detach().clone()
        return x * self.scale + self.kept.to(x.dtype)


class Remembers(nn.Module):
    """Counts batches where no state_dict looks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 0.5 * self.training
        return (1 + self.seen) * x


class SharesWeight(nn.Module):
    """Has one weight with its deep copies."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def __deepcopy__(self, memo: dict) -> nn.Module:
        return copy.copy(self)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class CountsInEval(nn.BatchNorm2d):
    """Counts batches in evaluation as well."""

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked += 1
        return super().forward(x)


def faulty(*attrs: str, **methods: Callable) -> CallbackPart:
    """A callback with these methods, whose state_attrs are the names."""
    members = {"state_attrs": attrs, "__init__": lambda self: None, **methods}
    kind = type("Faulty", (Callback,), members)
    return CallbackPart(lambda folder: [kind()])


def count(self: Callback) -> None:
    """Count, and let the inputs depend on it."""
    self.seen = getattr(self, "seen", 0) + self.learn.training
    self.learn.xb = (self.learn.xb[0] * (1 + 0.1 * self.seen),)


def zero(self: Callback) -> None:
    """Begin to count."""
    self.seen = 0


def open_once(self: Callback) -> None:
    """Refuse to open what is open."""
    assert not getattr(self, "open", False), "it is still open"
    self.open = True


def close_it(self: Callback) -> None:
    """Close what was opened."""
    self.open = False


def first_model(self: Callback) -> None:
    """Disturb the first model that it has met."""
    self.first = getattr(self, "first", None) or self.learn.model
    with torch.no_grad():
        self.first[0].weight.mul_(1.1)


def hold(self: Callback) -> None:
    """Hold something of which no copy can be made, and a list."""
    self.held, self.seen = (x for x in ()), []


def needs_python(self: Callback) -> None:
    """Refuse what runs without Python."""
    assert self.learn.model._compiled_call_impl is None, "the model is compiled"


def set_lr(self: Callback) -> None:
    """Set the learning rate without a claim to it."""
    self.learn.opt.param_groups[0]["lr"] = 0.5


class Drifts(torch.optim.SGD):
    """Moves parameters that are frozen."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        self.all = list(params)
        super().__init__(self.all, lr)

    @torch.no_grad()
    def step(self) -> None:
        super().step()
        for p in self.all:
            p.mul_(0.99)


class Forgets(torch.optim.SGD):
    """Keeps its averages where no state_dict looks."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr)
        self.averages = {}

    @torch.no_grad()
    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            self.averages[p] = 0.9 * self.averages.get(p, 0) + p.grad
            p.sub_(self.param_groups[0]["lr"] * self.averages[p])


class Halves(torch.optim.SGD):
    """Counts on 32 bits."""

    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.data.copy_(torch.from_numpy(p.detach().numpy() - 0.1 * p.grad.numpy()))


def own_lr(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """Has no learning rate of that name."""
    optimizer = torch.optim.SGD(params, lr)
    optimizer.step = lambda: None
    return optimizer


def initializer(function: Callable) -> Part:
    """A faulty initializer of the convolutions' weights."""

    def initialize(model: nn.Module, xb: Tensor, generator: torch.Generator) -> None:
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, conv.Conv2d)):
                function(layer, generator)

    return Part(initialize)


def only_of_torch(layer: nn.Module, generator: torch.Generator) -> None:
    """Pass over the book's convolutions."""
    if isinstance(layer, nn.Conv2d):
        nn.init.zeros_(layer.weight)


def of_another(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw from the global generator."""
    nn.init.normal_(layer.weight)


def too_wide(layer: nn.Module, generator: torch.Generator) -> None:
    """Put 32 bits in the place of 16."""
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator)


def no_leaf(layer: nn.Module, generator: torch.Generator) -> None:
    """Put a weight in its place that nothing can learn."""
    layer.weight.requires_grad_(False)
    layer.weight.normal_(generator=generator)


def halved(curve: Callable) -> Callable:
    """A schedule that remembers how often it was called."""
    calls = itertools.count(1)
    return schedule.schedule(lambda pos: curve(pos) / next(calls))


LINE = schedule.sched_lin(0.1, 0.01)

FAULTS = [  # check, a part that it has to refuse, and what it says
    (exported, applied(lambda x: x if x.sum() > 0 else -x), "data-dependent|guard"),
    (exported, applied(lambda x: x.reshape(len(x), -1)), "batch"),
    (exported_in_training, applied(lambda x: x if x.sum() > 0 else -x), "data-dependent|guard"),
    (written, applied(lambda x: x.reshape(len(x), -1)), "cannot trace"),
    (compiled, applied(lambda x: x if x.sum() > 0 else -x), "[Dd]ata-dependent"),
    (compiled_for_any_batch, applied(lambda x: x if x.sum() > 0 else -x), "[Dd]ata-dependent"),
    (called_functionally, LayerPart(KeepsCopy), "not close"),
    (copied, LayerPart(SharesWeight), "not equal|not training"),
    (pickled, applied(lambda x: x), "pickle"),
    (stated, LayerPart(KeepsCopy), "not equal"),
    (in_channels_last, applied(lambda x: x.view(x.shape[0], -1)), "view size is not compatible"),
    (of_16_bits, applied(torch.Tensor.float), "bfloat16"),
    (of_16_bits, applied(lambda x: (x + 10000) - 10000), "off by"),
    (with_large_numbers, applied(lambda x: torch.where(x < 0, x.exp(), x)), "gradient is not fin"),
    (under_autocast, applied(lambda x: 1000 * (x @ torch.eye(5) - x)), "off by"),
    (without_samples, applied(lambda x: x - sum(x) / x.shape[0]), "by zero"),
    (without_samples, applied(lambda x: x[:1].expand(4, -1, -1, -1)), "expand"),
    (without_targets, loss(lambda x, y: x.max(), scores_and_indices), "numel|max"),
    (in_both_modes, applied(lambda x: x - x.mean(0)), "not close"),
    (in_both_modes, LayerPart(partial(CountsInEval, 4)), "not equal"),
    (fitted, applied(lambda x, w: 2 * x, (4, 1, 1)), "weights.0 has not moved"),
    (fitted, applied(Tensor.detach), "before.weight has not moved"),
    (fitted, faulty(before_step=lambda self: self.learn.opt.zero_grad()), "has not moved"),
    (fitted, loss(lambda x, y: (x - 1e38) ** 2 @ torch.ones(3, 1), scores_and_indices), "loss|one"),
    (fitted, SchedulePart(lambda: schedule.sched_lin(0, 0)), "has not moved"),
    (resumed, LayerPart(Remembers), "not equal"),
    (resumed, faulty(before_fit=zero, before_batch=count), "not equal"),
    (resumed, OptimizerPart(Forgets), "not equal"),
    (resumed, SchedulePart(lambda: halved(LINE)), "not equal"),
    (with_each_optimizer, applied(lambda x, w: 2 * x, (4, 1, 1)), "weights.0 has not moved"),
    (
        with_each_optimizer,
        faulty(before_step=lambda self: self.learn.opt.param_groups[0]["momentum"]),
        "momentum",
    ),
    (leaves_alone, faulty(before_batch=lambda self: torch.rand(1)), "not equal"),
    (used_again, faulty(before_batch=count), "not equal"),
    (used_after_an_error, faulty(before_batch=open_once, after_step=close_it), "still open"),
    (canceled, faulty(before_batch=open_once, after_step=close_it), "still open"),
    (callbacks_copied, faulty(__init__=hold), "generator"),
    (callbacks_pickled, faulty(), "pickle"),
    (states_saved, faulty("seen", before_fit=lambda self: vars(self).update(seen={1})), "is a set"),
    (with_16_bits, faulty(after_pred=lambda self: self.learn.pred.detach().numpy()), "BFloat16"),
    (with_a_compiled_model, faulty(before_fit=needs_python), "is compiled"),
    (in_a_range_test, faulty(__init__=hold, before_batch=lambda self: self.seen.append(1)), ""),
    (without_validation, faulty(before_fit=lambda self: len(self.learn.data.valid_dl)), "len"),
    (with_an_empty_batch, faulty(after_pred=lambda self: self.learn.pred.max()), "numel"),
    (in_two_learners, faulty(before_fit=first_model), "not equal"),
    (beside_each_other, faulty(before_batch=set_lr), "not close"),
    (optimizer_copied, OptimizerPart(type("Local", (torch.optim.SGD,), {})), "pickle"),
    (with_16_bits, OptimizerPart(Halves), "BFloat16"),
    (with_frozen_layers, OptimizerPart(Drifts), "not equal"),
    (with_each_schedule, OptimizerPart(own_lr), "has not moved"),
    (positions, SchedulePart(lambda: lambda pos: 0.1 * pos), ""),
    (nested, SchedulePart(lambda: halved(LINE)), "=="),
    (schedule_copied, SchedulePart(lambda: halved(LINE)), "=="),
    (schedule_pickled, SchedulePart(lambda: LINE), "pickle"),
    (as_a_factor, SchedulePart(lambda: halved(LINE)), "=="),
    (same_for_our_layers, initializer(only_of_torch), "not close"),
    (from_its_generator, initializer(of_another), "not equal"),
    (initialized_in_16_bits, initializer(too_wide), "bfloat16"),
    (initialized_with_channels_last, initializer(too_wide), "channels_last"),
    (fitted_from_there, initializer(no_leaf), "False"),
    (measured, MetricPart(lambda: lambda pred, target: pred.mean()), ""),
    (measured_in_16_bits, MetricPart(lambda: lambda pred, target: pred.numpy().mean()), "BFloat16"),
    (measured_without_samples, MetricPart(lambda: lambda pred, target: pred.max()), "numel"),
    (metric_copied, MetricPart(lambda: lambda pred, target: pred.mean()), ""),
]


@contextmanager
def no_care(*args: object) -> Iterator[None]:
    """Keep nothing, in the place of `preserve_state`."""
    yield


def in_place(x: Tensor) -> list[Tensor]:
    """Change what is only to be looked at."""
    return [x.mul_(1.1).mean(), x.std()]


BROKEN = {  # checks of the library's own tools, which are broken here, on a BatchNorm2d
    "looked_at": ("fromfound.hooks.preserve_state", no_care),
    "range_tested": ("fromfound.schedule.preserve_state", no_care),
    "watched": ("fromfound.hooks._mean_and_std", in_place),
}


@pytest.mark.parametrize("check", BROKEN)
def test_faults_of_tools_are_found(check: str, tmp_path: Path) -> None:
    with patch(*BROKEN[check]), pytest.raises(AssertionError, match="not equal"):
        globals()[check](LAYERS["BatchNorm2d"], tmp_path)


@pytest.mark.parametrize(
    "check, part, says",
    [pytest.param(*f, id=f"{i}-{f[0].__name__}", marks=marks(f[0])) for i, f in enumerate(FAULTS)],
)
def test_faults_are_found(check: Callable, part: Part, says: str, tmp_path: Path) -> None:
    with pytest.raises(BaseException, match=says):
        check(part, tmp_path)


def test_each_check_has_a_fault_that_it_finds() -> None:
    checks = {check for kind in CHECKS.values() for check in kind}
    names = {check.__name__ for check in checks - {check for check, *_ in FAULTS}}
    assert names == set(BROKEN), "plant a fault for these in FAULTS"
