"""Chapter 05: the Learner against hand-written loops, its events, exceptions and metrics.

A checkpoint survives kill -9.
"""

import copy
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from fromfound import dataloader
from fromfound.learner import (
    EVENTS,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Checkpoint,
    DataBunch,
    EarlyStopping,
    GradientClip,
    Learner,
    Metric,
    Recorder,
    TerminateOnNaN,
)
from fromfound.module import load
from tests.toys import BATCHES, TRAIN, VALID, Log, X, Y, accuracy, learner, net, same


# --- events and exceptions ------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(epochs=st.integers(0, 3), train=st.integers(1, 3), valid=st.integers(0, 2))
def test_events_come_in_their_order(epochs, train, valid):
    log = Log()
    learner(BATCHES[:train], BATCHES[:valid], cbs=[log]).fit(epochs)
    assert log.lines == [
        "before_fit",
        *(["before_epoch"] + TRAIN * train + VALID * valid + ["after_epoch"]) * epochs,
        "after_fit",
    ]


REACH = {
    CancelStepException: ("before_backward", "after_step"),
    CancelBatchException: ("before_batch", "after_batch"),
    CancelEpochException: ("before_epoch", "after_batch"),
    CancelFitException: ("before_fit", "after_epoch"),
}


@pytest.mark.parametrize("kind", REACH)
@pytest.mark.parametrize("event", EVENTS)
def test_what_is_begun_is_ended_and_gradients_are_cleared(kind, event):
    log, order = Log(event, kind), EVENTS.index
    learn = learner(BATCHES[:3], cbs=[log])
    first, last = REACH[kind]
    inside = order(first) <= order(event) <= order(last)
    if inside:
        learn.fit(2)
    else:
        with pytest.raises(
            RuntimeError,
            match=(
                f"{kind.__name__} at {event} has nothing to leave: raise it from {first} to {last}"
            ),
        ):
            learn.fit(2)
    assert log.lines[-1] == "after_fit"
    assert all(p.grad is None for p in learn.model.parameters())
    for part in ("fit", "epoch", "batch", "step"):
        assert log.lines.count(f"before_{part}") == log.lines.count(f"after_{part}")
    if inside:
        epochs = 2 if kind is not CancelFitException else 0 if event == "before_fit" else 1
        assert log.lines.count("before_epoch") == epochs
        if kind in (CancelStepException, CancelBatchException):
            assert log.lines.count("before_batch") == 6


def test_cancelling_the_step_skips_only_the_step():
    class Skip(Callback):
        def before_step(self):
            raise CancelStepException

    learn = learner(cbs=[Skip(), log := Log()])
    before = {k: v.clone() for k, v in learn.model.named_parameters()}
    learn.fit(1)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.named_parameters())
    assert log.lines.count("after_step") == len(BATCHES)
    assert learn.model[1].num_batches_tracked == len(BATCHES)


def test_a_real_error_is_not_swallowed_and_the_fit_is_ended():
    log = Log("after_loss", ZeroDivisionError("mine"))
    learn = learner(cbs=[log])
    with pytest.raises(ZeroDivisionError, match="mine"):
        learn.fit(2)
    assert log.lines[-3:] == ["after_batch", "after_epoch", "after_fit"]
    assert not learn.complete
    learn.fit(1)
    assert learn.complete
    assert learn.cbs == [log]


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("order", [-100, 0, 200])
def test_an_error_before_the_fit_is_not_hidden_by_what_never_began(order, error, capsys):
    bad = Log("before_fit", error)
    bad.order = order
    learn = learner(
        valid=BATCHES, default_cbs=True, cbs=[EarlyStopping(restore_best_weights=True), bad]
    )
    if isinstance(error, KeyboardInterrupt):
        learn.fit(1)
        assert "stopped by Ctrl-C" in capsys.readouterr().out
    else:
        with pytest.raises(ZeroDivisionError, match="mine"):
            learn.fit(1)
    assert bad.lines[-1] == "after_fit"
    learn.fit(1)
    assert learn.complete
    assert len(learn.recorder.history) == 1


def test_a_failing_optimizer_leaves_no_callback_behind():
    learn = learner(opt_func=lambda params, lr: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, cbs=[GradientClip(1.0)])
    assert learn.cbs == []


@pytest.mark.parametrize("ask", ["validate", "get_preds", "fit"])
def test_a_pass_within_a_pass_is_an_error(ask):
    class Ask(Callback):
        def after_batch(self):
            if self.learn.training:
                self.learn.fit(1) if ask == "fit" else getattr(self.learn, ask)()

    learn = learner(valid=BATCHES, cbs=[Ask()])
    with pytest.raises(RuntimeError, match="in the middle of a pass.*Learner of its own"):
        learn.fit(1)
    assert learn.dl is None
    assert learn.validate()["valid_loss"] > 0


def test_predictions_between_two_passes_change_nothing():
    class Ask(Callback):
        def after_epoch(self):
            self.seen = self.learn.get_preds()[0]

    learn = learner(valid=BATCHES, cbs=[Ask()])
    learn.fit(2)
    plain = learner(valid=BATCHES)
    plain.fit(2)
    assert same(learn.model, plain.model)
    assert learn.results == plain.results
    assert learn.cbs[0].seen.shape == (100, 2)


@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, lambda learn: pickle.loads(pickle.dumps(learn))]
)
def test_a_copy_is_a_learner_of_its_own(copy_of, capsys):
    learn = learner(valid=BATCHES, default_cbs=True, cbs=[GradientClip(1.0)])
    learn.fit(1)
    other, before = copy_of(learn), {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.loss = torch.tensor(1e6)
    other.fit(1)
    assert all(cb.learn is other for cb in other.cbs)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert other.results["valid_loss"] == pytest.approx(
        F.cross_entropy(*other.get_preds()).item(), abs=1e-5
    )


@pytest.mark.parametrize("valid", [None, []])
def test_predictions_need_a_batch(valid):
    with pytest.raises(ValueError, match="get_preds found no batch.*valid_dl"):
        learner(valid=valid).get_preds()
    with pytest.raises(ValueError, match="get_preds found no batch"):
        learner(valid=BATCHES, cbs=[EveryBatch()]).get_preds()


class EveryBatch(Callback):
    def before_batch(self):
        raise CancelBatchException


def test_what_is_no_mean_of_a_batch_is_refused():
    for loss, metrics, name in [
        (partial(F.cross_entropy, reduction="none"), [], "train_loss"),
        (F.cross_entropy, [Metric(lambda pred, yb: pred.argmax(1) == yb, "hits")], "hits"),
    ]:
        with pytest.raises(ValueError, match=rf"{name} expected one number.*\(16,\).*mean"):
            Learner(net(), DataBunch(BATCHES, BATCHES), loss, metrics=metrics).fit(1)


@pytest.mark.parametrize("wrap", [lambda y: {"a": y}, lambda y: {"a": (y, y)}, lambda y: [y, y]])
def test_targets_in_containers(wrap):
    batches, first = (
        [(x, wrap(y)) for x, y in BATCHES],
        lambda t: (
            t
            if isinstance(t, torch.Tensor)
            else first(next(iter(t.values() if isinstance(t, dict) else t)))
        ),
    )
    learn = Learner(
        net(),
        DataBunch(batches, batches),
        lambda pred, t: F.cross_entropy(pred, first(t)),
        lr=0.1,
        default_cbs=False,
    )
    learn.fit(1)
    plain = learner(valid=BATCHES)
    plain.fit(1)
    assert same(learn.model, plain.model)
    assert learn.results == plain.results


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_dictionary_for_each_image(count):
    metric = Metric(lambda pred, target: torch.ones(()), "boxes")
    for kind in (list, tuple):
        metric.update(
            None, kind({"boxes": torch.zeros(7, 4), "labels": torch.zeros(7)} for _ in range(count))
        )
    assert metric.sizes == [count] * 2


def test_empty_batches_weigh_nothing():
    metric = Metric(accuracy)
    metric.update(torch.zeros(0, 2), Y[:0])
    assert math.isnan(metric.compute())
    assert metric.floats() == []
    metric.update(torch.eye(2), torch.zeros(2, dtype=torch.long))
    metric.update(torch.zeros(0, 2), Y[:0])
    assert metric.compute() == 0.5
    assert metric.floats() == [0.5]
    assert learner(valid=[(X, Y), (X[:0], Y[:0])]).validate() == learner(valid=[(X, Y)]).validate()


@pytest.mark.parametrize("target", [1, torch.tensor(1), ["a"] * 16, []])
def test_targets_that_do_not_tell_how_many(target):
    with pytest.raises(TypeError, match="train_loss is weighted by sample.*entry for each"):
        Learner(net(), DataBunch([(BATCHES[0][0], target)]), lambda pred, t: pred.mean()).fit(1)


def test_a_figure_that_never_was_a_number(capsys):
    learner(valid=[(X * math.nan, Y)], cbs=[EarlyStopping(patience=2)]).fit(9)
    assert "EarlyStopping: no valid_loss was a number" in capsys.readouterr().out


def test_a_checkpoint_before_lazy_layers_are_built(tmp_path, capsys):
    def fit(epochs, build):
        torch.manual_seed(0)
        model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
        if build:
            model(X)
        Learner(model, DataBunch(BATCHES), F.cross_entropy, default_cbs=False).fit(
            epochs, cbs=[Checkpoint(tmp_path / "run.pt")]
        )
        return model

    fit(1, False)
    with pytest.raises(ValueError, match="another model than this fit"):
        fit(2, False)
    resumed = fit(2, True)
    (tmp_path / "run.pt").unlink(), (tmp_path / "run.pt.previous").unlink()
    assert same(resumed, fit(2, True))


def test_ctrl_c_keeps_the_weights(capsys):
    class Press(Callback):
        def after_batch(self):
            if self.learn.step == 2:
                signal.raise_signal(signal.SIGINT)

    learn = learner(BATCHES, cbs=[Press(), log := Log()])
    learn.fit(5)
    expected = learner(BATCHES[:3])
    expected.fit(1)
    assert same(learn.model, expected.model)
    assert log.lines[-1] == "after_fit"
    assert log.lines.count("before_epoch") == 1
    assert "Ctrl-C in epoch 0, batch 2" in capsys.readouterr().out


def test_the_message_of_a_cancel_is_printed(capsys):
    learner(cbs=[Log("after_epoch", CancelFitException("enough"))]).fit(3)
    learner(cbs=[Log("after_epoch", CancelFitException)]).fit(3)
    assert capsys.readouterr().out == "enough\n"


# --- mistakes -------------------------------------------------------------------------------------


def test_mistakes_with_data():
    with pytest.raises(TypeError, match="again in every epoch"):
        DataBunch(iter(BATCHES))
    with pytest.raises(TypeError, match="again in every epoch"):
        DataBunch(BATCHES, (b for b in BATCHES))
    with pytest.raises(ValueError, match="gave no batch.*read only once"):
        learner([]).fit(1)


# --- bitwise identical to a loop written by hand --------------------------------------------------


def by_hand(opt, model, train, valid, epochs):
    for _ in range(epochs):
        model.train()
        for *xb, yb in train:
            F.cross_entropy(model(*xb), yb).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        with torch.no_grad():
            for *xb, _ in valid:
                model(*xb)
    return model


def loaders(kind):
    generator = torch.Generator().manual_seed(5)
    if kind == "list":
        return BATCHES, BATCHES[:2]
    if kind == "torch":
        return DataLoader(TensorDataset(X, Y), 16, shuffle=True, generator=generator), DataLoader(
            TensorDataset(X, Y), 30
        )
    if kind == "sampler":
        return DataLoader(
            TensorDataset(X, Y), 16, sampler=RandomSampler(X, generator=generator)
        ), []
    if kind == "torch, global":
        return DataLoader(TensorDataset(X, Y), 16, shuffle=True), DataLoader(
            TensorDataset(X, Y), 30
        )
    return dataloader.DataLoader(
        dataloader.TensorDataset(X, Y), 16, shuffle=True, generator=generator
    ), []


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "groups": lambda params, lr: torch.optim.SGD(
        [{"params": list(params)[:2], "lr": lr / 10}, {"params": []}], lr=lr
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["list", "torch", "torch, global", "ours"])
@pytest.mark.parametrize("callbacks", [False, True])
def test_bit_equal_to_the_loop_by_hand(name, kind, callbacks):
    opt_func = OPTIMIZERS[name]
    model, (train, valid) = net(), loaders(kind)
    by_hand(opt_func(model.parameters(), lr=0.01), model, train, valid, 3)
    train, valid = loaders(kind)
    options = (
        {
            "default_cbs": True,
            "metrics": [accuracy],
            "cbs": [Log(), EarlyStopping("train_loss", patience=99)],
        }
        if callbacks
        else {}
    )
    learn = Learner(
        net(),
        DataBunch(train, valid),
        F.cross_entropy,
        opt_func,
        **{"lr": 0.01, "default_cbs": False} | options,
    )
    learn.fit(3)
    assert same(model, learn.model)


def test_rates_of_groups_and_of_a_fit():
    learn = learner(opt_func=OPTIMIZERS["groups"], lr=0.2)
    assert learn.opt is None
    learn.fit(1, lr=0.5)
    assert [g["lr"] for g in learn.opt.param_groups] == [0.05, 0.5]
    learn.fit(1)
    assert [g["lr"] for g in learn.opt.param_groups] == [0.02, 0.2]


def test_schedulers_scalers_and_compiled_models_of_torch_fit_in():
    class Scheduled(Callback):
        def before_fit(self):
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.learn.opt, 1, 0.5)

        def after_epoch(self):
            self.scheduler.step()

    learn = learner(cbs=[Scheduled(), recorder := Recorder()])
    learn.fit(3)
    assert sorted(set(recorder.lrs)) == [0.025, 0.05, 0.1]
    assert len(recorder.lrs) == 21
    learn = Learner(
        torch.compile(net(), backend="eager"), BATCHES, F.cross_entropy, default_cbs=False, lr=0.1
    )
    learn.fit(1)
    other = learner()
    other.fit(1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(learn.model.parameters(), other.model.parameters(), strict=True)
    )


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "cbs, expected",
    [
        ([], 0),
        ([GradientClip(1.0)], 0),
        ([EarlyStopping(restore_best_weights=True)], 0),
        ([TerminateOnNaN()], 14),
    ],
)
def test_no_step_waits_for_the_device(cbs, expected):
    with Waits() as mode:
        learner(BATCHES, BATCHES, default_cbs=True, metrics=[accuracy], cbs=cbs).fit(2)
    assert mode.count == expected


# --- metrics, results, predictions ----------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_means_are_weighted_by_sample(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(sum(sizes), 6, generator=generator),
        torch.randint(2, (sum(sizes),), generator=generator),
    )
    learn = learner(
        valid=list(zip(x.split(sizes), y.split(sizes), strict=True)), metrics=[accuracy]
    )
    results = learn.validate()
    pred = learn.predict(x)
    assert math.isclose(results["valid_loss"], F.cross_entropy(pred, y).item(), rel_tol=1e-5)
    assert math.isclose(results["accuracy"], accuracy(pred, y).item(), abs_tol=1e-6)
    assert list(results) == ["valid_loss", "accuracy"]


def test_metric_takes_tensors_numbers_and_several_targets():
    metric = Metric(lambda pred, target: 0.5, "half")
    assert math.isnan(metric.compute())
    assert metric.floats() == []
    metric.update(torch.zeros(3), torch.zeros(3))
    metric.update(torch.zeros(3), (torch.zeros(2), torch.zeros(2), 0.1))
    assert metric.sizes == [3, 2]
    assert metric.compute() == 0.5
    assert metric.name == "half"
    assert Metric(accuracy).name == "accuracy"
    assert Metric(partial(accuracy)).name == "partial"
    low = Metric(lambda pred, target: pred.mean(), "low")
    low.update(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), torch.zeros(2))
    assert not low.values[0].requires_grad
    assert low.compute() == low.compute() == 1.0


def test_a_metric_that_is_no_mean():
    class Largest:
        name = "largest"

        def reset(self):
            self.value = torch.tensor(-math.inf)

        def update(self, pred, target):
            self.value = torch.maximum(self.value, pred.max())

        def compute(self):
            return self.value

    learn = learner(valid=BATCHES, metrics=[Largest()])
    assert learn.validate()["largest"] == pytest.approx(learn.get_preds()[0].max().item())


@pytest.mark.parametrize("valid", [None, [], DataLoader(TensorDataset(X[:0], Y[:0]), 4)])
def test_no_or_empty_validation(valid, capsys):
    learn = learner(valid=valid, default_cbs=True, metrics=[accuracy])
    learn.fit(2)
    assert list(learn.recorder.history[0]) == ["epoch", "train_loss"]
    assert learn.validate() == {}


def test_streams_and_lengths():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    lengths = []

    class Length(Callback):
        def after_batch(self):
            lengths.append((self.learn.n_batches, self.learn.step, self.learn.epoch))

    expected = Learner(net(dropout=0.0), BATCHES, F.cross_entropy, lr=0.1)
    expected.fit(2)
    learn = Learner(
        net(dropout=0.0), DataLoader(Stream(), 16), F.cross_entropy, lr=0.1, cbs=[Length()]
    )
    learn.fit(2)
    assert lengths == [(None, i, e) for e in range(2) for i in range(7)]
    assert same(learn.model, expected.model)


def test_several_inputs_and_no_target():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, a, b):
            return self.layer(a - b)

    learn = Learner(
        Two(),
        DataBunch([(x, x.flip(0), y) for x, y in BATCHES]),
        F.cross_entropy,
        default_cbs=False,
    )
    learn.fit(1)
    assert learn.predict((X, X.flip(0))).shape == (100, 2)
    preds, targets = learn.get_preds([(x, x, None) for x, _ in BATCHES])
    assert preds.shape == (100, 2)
    assert targets is None
    preds, targets = learn.get_preds([(x, x.flip(0), y) for x, y in BATCHES])
    assert torch.equal(targets, Y)
    assert not preds.requires_grad


def test_predictions_pass_through_callbacks_and_in_evaluation_mode():
    class Double(Callback):
        def after_pred(self):
            self.learn.pred = 2 * self.learn.pred

    learn = learner(cbs=[Double()])
    learn.model.train()
    expected = 2 * net().eval()(X)
    assert torch.equal(learn.predict(X), expected.detach())
    assert torch.equal(learn.get_preds(BATCHES)[1], Y)


def test_batches_follow_the_model():
    learn = Learner(nn.Linear(6, 2).to("meta"), BATCHES, F.cross_entropy, default_cbs=False)
    preds, targets = learn.get_preds(BATCHES)
    assert preds.device.type == targets.device.type == "meta"
    assert preds.shape == (100, 2)


class Shift(nn.Module):
    """A model that has a buffer and no parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("by", torch.ones(6, device="meta"))

    def forward(self, x):
        return x + self.by


def test_batches_follow_a_buffer_and_stay_where_there_is_neither():
    def device_of_predictions(model, batch):
        return Learner(model, BATCHES, F.cross_entropy).get_preds([batch])[0].device.type

    assert device_of_predictions(Shift(), (X, None)) == "meta"
    assert device_of_predictions(nn.Identity(), (X.to("meta"), None)) == "meta"
    assert device_of_predictions(nn.Identity(), (X, None)) == "cpu"


class Flipped(Callback):
    """Changes each batch of the learner that it serves."""

    def before_batch(self):
        self.learn.xb = (self.learn.xb[0].flip(1),)


@pytest.mark.parametrize("ask", [lambda learn: learn.validate(), lambda learn: learn.predict(X)])
def test_a_callback_of_two_learners_serves_the_one_that_is_asked(ask):
    shared = [Flipped()]
    first, second = (learner(valid=BATCHES, seed=seed, cbs=shared) for seed in (0, 1))
    for learn, seed in ((first, 0), (second, 1), (first, 0)):
        expected = ask(learner(valid=BATCHES, seed=seed, cbs=[Flipped()]))
        found = ask(learn)
        same_tensor = isinstance(found, torch.Tensor) and torch.equal(found, expected)
        assert same_tensor or found == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    learn = Learner(
        nn.Linear(6, 2).to(dtype), [(x.to(dtype), y) for x, y in BATCHES], F.cross_entropy
    )
    learn.fit(1)
    assert len(learn.recorder.losses) == 7
    assert all(map(math.isfinite, learn.recorder.losses))


def test_the_import_is_light():
    code = (
        "import sys, safetensors.torch; before = set(sys.modules); import fromfound.learner; "
        "print([m for m in ('matplotlib', 'tqdm', 'PIL') if m in set(sys.modules) - before])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


# --- clipping, nan, early stopping ----------------------------------------------------------------


def test_clipping_is_torchs():
    learn = learner(cbs=[GradientClip(0.1)])
    learn.fit(2)
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for xb, yb in BATCHES * 2:
        F.cross_entropy(model(xb), yb).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        opt.step()
        opt.zero_grad()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), learn.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stop_on_nan_names_the_batch_and_spares_the_weights(value, capsys):
    batches = [*BATCHES[:3], (BATCHES[3][0] * value, BATCHES[3][1]), *BATCHES[4:]]
    learn = Learner(
        nn.Linear(6, 2), batches, F.cross_entropy, lr=0.1, cbs=[TerminateOnNaN()], default_cbs=False
    )
    learn.fit(2)
    assert "loss nan in epoch 0, batch 3" in capsys.readouterr().out
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert not learn.complete


def test_a_gradient_that_is_not_finite_under_a_finite_loss_stops_the_fit(tmp_path, capsys):
    def root(pred, target):
        return (pred - target).square().mean().sqrt()  # at 0 its gradient is 0/0

    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    batches = [(torch.ones(4, 1), torch.zeros(4, 1))] * 3
    cbs = [TerminateOnNaN(), Checkpoint(tmp_path / "run.pt")]
    Learner(model, batches, root, cbs=cbs, default_cbs=False).fit(2)
    assert "norm of the gradients nan in epoch 0, batch 0" in capsys.readouterr().out
    assert not model.weight.any()
    assert not load(tmp_path / "run.pt")["parts"][0]["weight"].any()


def test_gradients_that_the_optimizer_does_not_hold_do_not_pile_up():
    learn = learner(opt_func=lambda params, lr: torch.optim.SGD(list(params)[:1], lr=lr))
    norms = []

    class Look(Callback):
        def after_backward(self):
            norms.append(self.learn.model[4].weight.grad.norm().item())

    learn.fit(2, cbs=[Look()])
    assert all(p.grad is None for p in learn.model.parameters())
    assert max(norms) < 10 * min(norms)


def test_a_loss_that_learns():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pred, target):
            return F.cross_entropy(pred * self.scale, target)

    loss = Scaled()

    def both(params, lr):
        return torch.optim.SGD([*params, *loss.parameters()], lr=lr)

    Learner(net(), BATCHES, loss, both, lr=0.1, default_cbs=False).fit(1)
    assert loss.scale != 1


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan])
def test_a_norm_that_bounds_nothing_is_refused(max_norm):
    with pytest.raises(ValueError, match="GradientClip expected a norm above 0"):
        GradientClip(max_norm)


class Say(Callback):
    """Puts losses of our choice in place of the validation's."""

    order = 10

    def __init__(self, values):
        self.values = values

    def after_epoch(self):
        metric = self.learn.valid_loss
        metric.reset()
        metric.read, metric.sizes = [float(self.values[self.learn.epoch])], [1]


@pytest.mark.parametrize(
    "values, options, epochs, best",
    [
        ([3, 2, 2, 5, 1], {"patience": 2}, 4, 1),
        ([3, 2, 1, 0], {"patience": 1}, 4, 3),
        ([1, 1, 1, 1], {"patience": 3}, 4, 0),
        ([1, 2, 3, 4, 5], {"patience": 2, "mode": "max"}, 5, 4),
        ([2, 1.9, 1.8, 1.7], {"patience": 2, "min_delta": 0.5}, 3, 0),
        ([2, math.nan, math.nan, 1], {"patience": 2}, 3, 0),
        ([-1, -2, -1, -3], {"patience": 2}, 4, 3),
    ],
)
def test_early_stopping(values, options, epochs, best, capsys):
    learn = learner(
        BATCHES[:2],
        BATCHES[:1],
        cbs=[Say(values), stopper := EarlyStopping(**options), recorder := Recorder()],
    )
    recorder.order = 60
    learn.fit(len(values))
    assert len(recorder.history) == epochs
    assert stopper.best_epoch == best
    learn.fit(1)
    assert stopper.best_epoch == 0


def test_early_stopping_restores_and_names_what_there_is():
    states = []

    class Keep(Callback):
        order = 20

        def after_epoch(self):
            states.append({k: v.clone() for k, v in self.learn.model.state_dict().items()})

    learn = learner(
        BATCHES[:2],
        BATCHES[:1],
        cbs=[Say([3, 1, 2, 4]), Keep(), EarlyStopping(patience=2, restore_best_weights=True)],
    )
    learn.fit(4)
    assert all(torch.equal(v, states[1][k]) for k, v in learn.model.state_dict().items())
    for valid, monitor in (
        (None, "acuracy"),
        (BATCHES, "acuracy"),
        (None, "valid_loss"),
        ([], "valid_loss"),
    ):
        with pytest.raises(LookupError, match=f"watches '{monitor}'; this training has train_loss"):
            learner(valid=valid, cbs=[EarlyStopping(monitor)]).fit(1)


# --- checkpoints ----------------------------------------------------------------------------------


class Wobble(Callback):
    """Depends on everything that a checkpoint has to carry.

    That is random numbers of three kinds, and a count of its own.
    """

    state_attrs = ("seen",)

    def before_fit(self):
        self.seen = 0

    def before_batch(self):
        if self.learn.training:
            self.seen += 1
            self.learn.xb = (
                self.learn.xb[0] * (1 + 0.01 * random.random() + 0.01 * np.random.randn())
                + 0.001 * self.seen,
            )


class Break(Callback):
    def __init__(self, epoch):
        self.when = epoch

    def after_batch(self):
        if (self.learn.epoch, self.learn.step) == (self.when, 3):
            raise RuntimeError("power cut")


def run(epochs, *cbs, kind="torch", seed=0, opt="momentum"):
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    train, valid = loaders(kind)
    learn = Learner(
        net(),
        DataBunch(train, valid),
        F.cross_entropy,
        OPTIMIZERS[opt],
        lr=0.05,
        metrics=[accuracy],
        cbs=[
            Wobble(),
            EarlyStopping("train_loss", patience=99, restore_best_weights=True),
            Recorder(),
        ],
        default_cbs=False,
    )
    learn.fit(epochs, cbs=cbs)
    return learn


@pytest.mark.parametrize("kind", ["list", "torch", "torch, global", "sampler", "ours"])
@pytest.mark.parametrize("opt", ["momentum", "adam"])
def test_a_resumed_training_is_bit_equal(kind, opt, tmp_path):
    whole = run(4, kind=kind, opt=opt)
    with pytest.raises(RuntimeError, match="power cut"):
        run(4, Checkpoint(tmp_path / "new" / "run.pt"), Break(2), kind=kind, opt=opt)
    again = run(4, Checkpoint(tmp_path / "new" / "run.pt"), kind=kind, seed=9, opt=opt)
    assert same(whole.model, again.model)
    assert whole.recorder.losses == again.recorder.losses
    assert whole.recorder.history == again.recorder.history
    # Nothing left to do.
    assert same(
        whole.model, run(4, Checkpoint(tmp_path / "new" / "run.pt"), kind=kind, opt=opt).model
    )
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["run.pt", "run.pt.previous"]


@pytest.mark.parametrize("left_out", ["random", "optimizer", "callbacks"])
def test_the_bits_differ_where_something_is_left_out(left_out, tmp_path):
    whole, put = (
        run(4),
        {
            "random": "fromfound.learner.set_rng_states",
            "optimizer": "torch.optim.SGD.load_state_dict",
            "callbacks": "fromfound.learner.Callback.load_state_dict",
        },
    )
    run(2, Checkpoint(tmp_path / "run.pt"))
    with patch(put[left_out], lambda *args: []):
        assert not same(whole.model, run(4, Checkpoint(tmp_path / "run.pt"), seed=9).model)


def test_a_second_fit_has_a_file_of_its_own(tmp_path):
    def two_fits(path):
        torch.manual_seed(0)
        learn = learner(cbs=[Checkpoint(path)])
        learn.fit(2)
        learn.fit(3, lr=0.01)
        return learn.model

    first = two_fits(tmp_path / "run.pt")
    assert {"run.pt", "run-2.pt"} < {p.name for p in tmp_path.iterdir()}
    assert same(first, two_fits(tmp_path / "run.pt"))
    assert same(first, two_fits(tmp_path / "other.pt"))


def test_an_epoch_that_was_stopped_is_not_saved(tmp_path):
    path = tmp_path / "run.pt"
    learner(cbs=[Checkpoint(path), Log("after_loss", CancelFitException)]).fit(1)
    assert load(path)["epoch"] == 0
    learner(cbs=[Checkpoint(path), Log("after_loss", CancelEpochException)]).fit(1)
    assert load(path)["epoch"] == 1


def test_the_state_before_the_first_epoch_is_saved_and_resumed(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(RuntimeError, match="power cut"):
        run(3, Checkpoint(path), Break(0))
    assert load(path)["epoch"] == 0
    whole = run(3)
    again = run(3, Checkpoint(path), seed=9)
    assert same(whole.model, again.model)
    assert whole.recorder.losses == again.recorder.losses


class Strange(Callback):
    state_attrs = ("kept",)

    def before_fit(self):
        self.kept = {1, 2}


def test_a_state_that_cannot_be_saved_is_found_before_the_first_batch(tmp_path):
    log = Log()
    path = tmp_path / "run.pt"
    with pytest.raises(ValueError, match=r"run.pt is not written: parts.2.kept is a set"):
        learner(cbs=[Strange(), Checkpoint(path), log]).fit(1)
    assert "before_batch" not in log.lines
    assert not list(tmp_path.iterdir())


def test_a_file_of_more_epochs_than_asked_is_refused(tmp_path):
    learner(cbs=[Checkpoint(tmp_path / "run.pt")]).fit(3)
    with pytest.raises(ValueError, match="it has done 2 epochs, this fit has 1"):
        learner(cbs=[Checkpoint(tmp_path / "run.pt")]).fit(1)


class Picky(Callback):
    """Cannot take its state back."""

    def state_dict(self):
        return {"a": 1}

    def load_state_dict(self, state):
        if not hasattr(self, "taken"):
            self.taken = state
            raise KeyError("another version")


def test_a_state_is_loaded_whole_or_not_at_all(tmp_path):
    learner(cbs=[Picky(), Checkpoint(tmp_path / "run.pt")]).fit(2)
    for file in tmp_path.iterdir():
        shutil.copy(file, tmp_path / f"{file.name}-")
    learn = learner(seed=1, cbs=[Picky()])
    before = copy.deepcopy(learn.model.state_dict())
    (tmp_path / "run.pt.previous").unlink()
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    with pytest.raises(ValueError, match="it does not fit: 'another version'"):
        learn.fit(4, cbs=[Checkpoint(tmp_path / "run.pt")])
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_no_file_with_a_changed_bit_is_resumed(tmp_path, capsys):
    """`make stress` tries a thousand bits."""
    path = tmp_path / "run.pt"
    learner(cbs=[Checkpoint(path), Recorder()]).fit(1)
    (tmp_path / "run.pt.previous").unlink()
    content = path.read_bytes()
    numbers = random.Random(0)
    for _ in range(1000 if "STRESS" in os.environ else 200):
        bit = numbers.randrange(8 * len(content))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        learn = learner(seed=1, cbs=[Recorder()])
        before = copy.deepcopy(learn.model.state_dict())
        with pytest.raises(ValueError, match="run.pt is refused: load cannot read run.pt"):
            learn.fit(1, cbs=[Checkpoint(path)])
        assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_two_processes_with_one_path(tmp_path):
    class Neighbor(Callback):
        def after_epoch(self):  # moves the file before we do
            (tmp_path / "run.pt").unlink()

    learner(cbs=[Neighbor(), Checkpoint(tmp_path / "run.pt")]).fit(2)
    assert load(tmp_path / "run.pt")["epoch"] == 2


def test_a_link_leads_to_the_file(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run.pt").symlink_to(tmp_path / "disk" / "run.pt")
    learner(cbs=[Checkpoint(tmp_path / "run.pt")]).fit(2)
    assert (tmp_path / "run.pt").is_symlink()
    assert sorted(os.listdir(tmp_path / "disk")) == ["run.pt", "run.pt.previous"]


def test_a_training_that_was_stopped_early_stays_stopped(tmp_path):
    def fit():
        learn = learner(
            BATCHES[:2],
            BATCHES[:1],
            cbs=[
                Say([3, 1, 2, 4, 0, 0]),
                EarlyStopping(patience=2),
                Checkpoint(tmp_path / "run.pt"),
            ],
        )
        learn.fit(6)
        return learn

    first = fit()
    assert same(first.model, fit().model)


@pytest.mark.parametrize(
    "damage",
    ["cut", "empty", "pickle", "weights", "other model", "other optimizer", "other callbacks"],
)
def test_a_file_that_does_not_fit_is_refused_and_the_previous_one_used(damage, tmp_path, capsys):
    def fit(epochs, **options):
        learn = learner(**options)
        learn.fit(epochs, cbs=[Checkpoint(tmp_path / "run.pt")])
        return learn

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    fit(2)
    file = tmp_path / "run.pt"
    if damage in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[: 2000 if damage == "cut" else 0])
    elif damage == "pickle":
        torch.save({"format": "fromfound checkpoint 1", "model": Trap()}, file)
    elif damage == "weights":
        torch.save(net().state_dict(), file)
    else:
        other = {
            "other model": {},
            "other optimizer": {"opt_func": torch.optim.Adam},
            "other callbacks": {"cbs": [Recorder()]},
        }[damage]
        learn = (
            Learner(nn.Linear(6, 2), BATCHES, F.cross_entropy, default_cbs=False)
            if damage == "other model"
            else learner(**other)
        )
        learn.fit(1, cbs=[Checkpoint(tmp_path / "other.pt")])
        os.replace(tmp_path / "other.pt", file)
    foreign = file.read_bytes()
    capsys.readouterr()
    again = fit(4)
    whole = learner()
    whole.fit(4)
    said = capsys.readouterr().out
    assert same(again.model, whole.model)
    assert "run.pt is refused" in said
    assert "1 of 4 epochs" in said
    assert not (tmp_path / "ran").exists()
    for name in ("run.pt", "run.pt.previous"):
        (tmp_path / name).write_bytes(foreign)
    learn = learner()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match="is refused.*Move it away"):
        learn.fit(4, cbs=[Checkpoint(file)])
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert file.read_bytes() == foreign


def test_a_refused_file_never_becomes_the_previous_one(tmp_path):
    file = tmp_path / "run.pt"
    learner().fit(2, cbs=[Checkpoint(file)])
    file.write_bytes(b"broken")
    # Killed when writing the next one.
    with patch("fromfound.learner.save", side_effect=KeyboardInterrupt):
        learner().fit(4, cbs=[Checkpoint(file)])
    assert file.read_bytes() == b"broken"
    again = learner()
    again.fit(4, cbs=[Checkpoint(file)])
    whole = learner()
    whole.fit(4)
    assert same(again.model, whole.model)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import numpy, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from fromfound.learner import Callback, Checkpoint, DataBunch, EarlyStopping, Learner

torch.set_num_threads(1)
folder, pause = Path(sys.argv[1]), 0.004

class Noise(Callback):
    def before_batch(self):
        time.sleep(pause)
        self.learn.xb = (self.learn.xb[0] + 0.1 * numpy.random.randn() + 0.1 * random.random(),)

def training(name):
    torch.manual_seed(0), numpy.random.seed(0), random.seed(0)
    x = torch.randn(320, 10)
    y = (x[:, :3].sum(1) > 0).long()
    generator = torch.Generator().manual_seed(1)
    data = DataLoader(TensorDataset(x, y), 32, shuffle=True, generator=generator)
    model = nn.Sequential(
        nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2)
    )
    learn = Learner(
        model,
        DataBunch(data, [(x, y)]),
        nn.functional.cross_entropy,
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
        lr=0.05,
    )
    sys.stdout = open(os.devnull, "w")
    learn.fit(6, cbs=[Checkpoint(folder / f"{name}.pt"), Noise(), EarlyStopping(patience=9)])
    end = [learn.model.state_dict(), learn.recorder.losses, learn.recorder.history]
    torch.save(end, folder / f"{name}.end")

def child(name):
    pid = os.fork()
    if pid == 0:
        try:
            training(name)
        finally:
            os._exit(0)
    return pid

os.waitpid(child("whole"), 0)
whole = torch.load(folder / "whole.end")
wanted = 100 if "STRESS" in os.environ else 20
moments, kills, runs = random.Random(int(sys.argv[2])), 0, 0
while kills < wanted:
    pid = child(f"run{runs}")
    end = time.monotonic() + moments.uniform(0.02, 0.35)
    while (done := os.waitpid(pid, os.WNOHANG)[0]) == 0 and time.monotonic() < end:
        time.sleep(0.001)
    if done == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
    else:
        runs += 1
    if done or kills == wanted:
        if not done:
            os.waitpid(child(f"run{runs}"), 0)
            runs += 1
        again = torch.load(folder / f"run{runs - 1}.end")
        same = all(torch.equal(v, again[0][k]) for k, v in whole[0].items())
        assert same, f"the model of run {runs - 1} differs after {kills} kills"
        assert whole[1:] == again[1:], f"the record of run {runs - 1} differs after {kills} kills"
names = {f"{kind}.{end}" for kind in ["whole", *(f"run{i}" for i in range(runs))]
         for end in ("pt", "pt.previous", "end")}
assert set(os.listdir(folder)) == names, "something is left behind"
print(kills, "kills,", runs, "runs equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_at_twenty_random_moments_it_ends_in_the_same_bits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path, str(random.randrange(10**6))],
        capture_output=True,
        text=True,
        timeout=1200 if "STRESS" in os.environ else 240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("100 kills" if "STRESS" in os.environ else "20 kills")


# --- what a Learner refuses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "metrics",
    [
        [accuracy, accuracy],
        [Metric(accuracy, "train_loss")],
        [Metric(accuracy, "valid_loss")],
        [partial(accuracy), partial(accuracy)],
    ],
)
def test_two_metrics_of_one_name_are_refused(metrics):
    with pytest.raises(
        ValueError, match=r"a name for each metric, got train_loss, valid_loss, .*Metric\(fn, name="
    ):
        learner(valid=BATCHES, metrics=metrics)
    assert list(
        learner(valid=BATCHES, metrics=[accuracy, Metric(accuracy, "again")]).validate()
    ) == ["valid_loss", "accuracy", "again"]


@pytest.mark.parametrize("event", ["before_fit", "before_epoch", "after_epoch", "after_fit"])
def test_a_fit_within_a_fit_is_refused_and_the_outer_one_goes_on_whole(event):
    refused = []

    def ask(self):
        with pytest.raises(RuntimeError, match="fit within a fit.*CancelFitException"):
            self.learn.fit(1, lr=99.0, cbs=[Recorder()])
        refused.append(event)

    learn = learner(
        valid=BATCHES, cbs=[type("Ask", (Callback,), {event: ask})(), recorder := Recorder()]
    )
    learn.fit(3)
    plain = learner(valid=BATCHES, cbs=[expected := Recorder()])
    plain.fit(3)
    assert len(refused) == (3 if "epoch" in event else 1)
    assert same(learn.model, plain.model)
    assert recorder.history == expected.history
    assert recorder.losses == expected.losses
    assert learn.opt.param_groups[0]["lr"] == 0.1
    learn.fit(1)  # and afterwards there is nothing in the way
    assert len(recorder.history) == 1


def test_a_fit_that_failed_is_over():
    learn = learner(cbs=[Log("after_loss", ZeroDivisionError("mine"))])
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    learn.fit(1)
    assert learn.complete


@pytest.mark.parametrize("mode", ["auto", "maximum", True])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(ValueError, match="EarlyStopping got mode=.*expected 'min' or 'max'"):
        EarlyStopping(mode=mode)


@pytest.mark.parametrize("patience", [0, -1, 1.5, math.nan, math.inf, "3"])
def test_a_patience_of_nothing_is_refused(patience):
    with pytest.raises(ValueError, match=f"patience={patience!r}; expected 1 or more"):
        EarlyStopping(patience=patience)


@pytest.mark.parametrize(
    "batch, words",
    [
        ({"x": X[:4], "y": Y[:4]}, "got a dict: let the loader's collate_fn.*"),
        (X[:4], "got a Tensor: .*None for y"),
        ((X[:4],), "got a tuple"),
        ("xy", "got a str"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "validate", "get_preds"])
def test_batches_that_are_no_tuples_are_refused(batch, words, call):
    log = Log()
    learn = learner([batch], [batch], cbs=[log])
    with pytest.raises(
        TypeError,
        match=r"(?s)expected batches \(x, ..., y\), a tuple or list with the target last, " + words,
    ):
        learn.fit(1) if call == "fit" else getattr(learn, call)()
    assert learn.dl is None
    assert "after_pred" not in log.lines
    assert log.lines[-1] == ("after_fit" if call == "fit" else "after_batch")


def test_a_batch_may_be_a_list():
    learn = learner([list(batch) for batch in BATCHES])
    learn.fit(1)
    plain = learner()
    plain.fit(1)
    assert same(learn.model, plain.model)


# --- a look from within a fit, and what else was found by use -------------------------------------


class Tally:
    """A metric that is no `Metric`, and forgets in place."""

    name = "tally"

    def __init__(self):
        self.seen = torch.zeros(())

    def reset(self):
        self.seen.zero_()

    def update(self, pred, target):
        self.seen += len(pred)

    def compute(self):
        return self.seen


@pytest.mark.parametrize("event", ["before_epoch", "after_epoch"])
@pytest.mark.parametrize("order", [-100, 0, 100])
def test_validation_by_a_callback_leaves_the_figures_of_the_epoch_alone(event, order):
    seen = []

    def ask(self):
        seen.append(self.learn.validate(BATCHES[:1]))

    def fit(*more):
        learn = learner(
            valid=BATCHES,
            metrics=[accuracy, Tally()],
            cbs=[Recorder(), stopper := EarlyStopping("tally", mode="max"), *more],
        )
        learn.fit(2)
        return learn, stopper.best

    asking, best = fit(type("Ask", (Callback,), {event: ask, "order": order})())
    plain, expected = fit()
    assert same(asking.model, plain.model)
    assert asking.recorder.history == plain.recorder.history
    assert asking.recorder.losses == plain.recorder.losses
    assert asking.results == plain.results
    assert best == expected == 100
    assert [row["tally"] for row in seen] == [16, 16]
    assert list(seen[0]) == ["valid_loss", "accuracy", "tally"]
    # Outside of a fit the values are those of the last validation.
    assert asking.validate()["tally"] == asking.results["tally"] == 100


class Partly(nn.Module):
    """A model with a layer that is not trained, although it could be."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.body = nn.Linear(6, 2), nn.Linear(6, 6)

    def forward(self, x):
        return self.head(self.body(x))


def test_clipping_counts_what_the_optimizer_moves():
    model, other = Partly(), Partly()
    Learner(
        model,
        BATCHES,
        F.cross_entropy,
        lambda params, lr: torch.optim.SGD(list(params)[:2], lr=lr),
        lr=0.1,
        cbs=[GradientClip(0.05)],
        default_cbs=False,
    ).fit(3)
    other.body.requires_grad_(False)
    Learner(
        other, BATCHES, F.cross_entropy, lr=0.1, cbs=[GradientClip(0.05)], default_cbs=False
    ).fit(3)
    assert torch.equal(model.body.weight, other.body.weight)
    assert torch.equal(model.head.weight, other.head.weight)


@pytest.mark.parametrize("event", ["before_epoch", "before_batch", "after_loss"])
@pytest.mark.parametrize("monitor", ["valid_loss", "accuracy", "train_loss"])
def test_an_epoch_left_before_its_validation_is_not_judged(event, monitor, tmp_path):
    log, stopper = Log(event, CancelEpochException), EarlyStopping(monitor, patience=1)
    learn = learner(
        valid=DataLoader(TensorDataset(X, Y), 50),
        metrics=[accuracy],
        cbs=[log, stopper, Recorder(), Checkpoint(tmp_path / "run.pt")],
    )
    learn.fit(2)
    assert len(learn.recorder.history) == 2
    assert "valid_loss" not in learn.recorder.history[0]
    assert stopper.best_epoch == 1


class Schedule(Callback):
    """A scheduler of torch, with its memory in the checkpoint."""

    def before_fit(self):
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.learn.opt, 2, 0.1)

    def after_epoch(self):
        self.scheduler.step()


class Remembering(Schedule):
    def state_dict(self):
        return self.scheduler.state_dict()

    def load_state_dict(self, state):
        self.scheduler.load_state_dict(state)


@pytest.mark.parametrize("kind", [Schedule, Remembering])
def test_a_scheduler_of_torch_resumes_where_its_memory_is_kept(kind, tmp_path):
    whole = learner(cbs=[kind()])
    whole.fit(5)
    learner(cbs=[kind(), Checkpoint(tmp_path / "run.pt")]).fit(3)
    again = learner(cbs=[kind(), Checkpoint(tmp_path / "run.pt")])
    again.fit(5)
    assert same(whole.model, again.model) == (kind is Remembering)


def test_a_checkpoint_with_other_loaders_is_refused_before_anything_is_changed(tmp_path):
    loader = DataLoader(
        TensorDataset(X, Y), 16, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    learner(loader).fit(1, cbs=[Checkpoint(tmp_path / "run.pt")])
    learn = learner(BATCHES)
    before = copy.deepcopy(learn.model)
    with pytest.raises(ValueError, match="another number of generators"):
        learn.fit(2, cbs=[Checkpoint(tmp_path / "run.pt")])
    assert same(before, learn.model)


@pytest.mark.parametrize("restore", [False, True])
def test_ctrl_c_says_nothing_that_is_not_so(restore, capsys):
    learn = learner(
        valid=BATCHES,
        cbs=[Log("after_loss", KeyboardInterrupt()), EarlyStopping(restore_best_weights=restore)],
    )
    learn.fit(1)
    assert "the fit ends early" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, error, words",
    [
        ((1.5,), ValueError, "number of epochs, 0 or more, got 1.5"),
        ((-1,), ValueError, "0 or more, got -1"),
        (("3",), ValueError, "got '3'"),
        (
            (1, [Recorder()]),
            TypeError,
            r"learning rate as its second argument, got a list: write fit\(n_epochs, cbs=\[...\]\)",
        ),
        ((1, Recorder()), TypeError, "write fit"),
        ((1, ()), TypeError, "write fit"),
        ((1, None, Recorder()), TypeError, r"cbs expected a list.*write cbs=\[...\]"),
    ],
)
def test_what_fit_refuses(args, error, words):
    log = Log()
    learn = learner(cbs=[log])
    with pytest.raises(error, match=words):
        learn.fit(*args)
    assert log.lines == []
    assert learn.cbs == [log]
    learn.fit(0)


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"cbs": TerminateOnNaN()},
            r"cbs expected a list, got .*TerminateOnNaN.*write cbs=\[...\]",
        ),
        (
            {"metrics": accuracy},
            r"metrics expected a list, got <function accuracy.*write metrics=\[...\]",
        ),
        (
            {"metrics": [Metric]},
            r"metrics expected objects, got the class Metric: write Metric\(\)",
        ),
    ],
)
def test_what_a_learner_refuses(options, words):
    with pytest.raises(TypeError, match=words):
        learner(**options)


@pytest.mark.parametrize(
    "args, words",
    [
        ((nn.Linear, BATCHES, F.cross_entropy), "expected a model with parameters, got <class"),
        ((None, BATCHES, F.cross_entropy), "expected a model with parameters, got None"),
        (("net", BATCHES, F.cross_entropy), "expected a model with parameters, got 'net'"),
        ((net(), 3, F.cross_entropy), "expected a DataBunch or a loader, got 3"),
        ((net(), BATCHES, "cross_entropy"), "functions as loss_func.*got 'cross_entropy'"),
        ((net(), BATCHES, None), "functions as loss_func.*got None"),
        ((net(), BATCHES, F.cross_entropy, torch.optim.SGD, 0.1, ["accuracy"]), "got 'accuracy'"),
        ((net(), BATCHES, F.cross_entropy, torch.optim.SGD, 0.1, [None]), "got None"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused_at_once(args, words):
    with pytest.raises(TypeError, match=f"Learner expected .*{words}|Learner {words}"):
        Learner(*args)


def frozen():
    model = net()
    return model.requires_grad_(False)


@pytest.mark.parametrize(
    "model, loss, words",
    [
        (frozen, F.cross_entropy, r"the loss is \(\) torch.float32, from which no gradient"),
        (net, lambda p, y: F.cross_entropy(p, y).detach(), "is the model frozen, or the loss"),
        (net, lambda p, y: F.cross_entropy(p, y).item(), "the loss is float"),
        (net, lambda p, y: None, "the loss is NoneType"),
    ],
)
def test_a_loss_without_a_gradient_is_named(model, loss, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Learner(model(), BATCHES, loss, default_cbs=False).fit(1)


def test_an_error_in_a_batch_says_where_and_with_what():
    bad = [*BATCHES[:2], (BATCHES[2][0].numpy(), BATCHES[2][1])]
    with pytest.raises(TypeError) as raised:
        learner(bad).fit(1)
    (note,) = raised.value.__notes__
    assert note == (
        "Learner: this happened in epoch 0, batch 2; inputs ndarray; "
        "target (16,) torch.int64; prediction NoneType"
    )
    with pytest.raises(AttributeError) as raised:
        Learner(Pair(lambda t: (t, t)), BATCHES, lambda p, y: p.mean()).fit(1)
    assert raised.value.__notes__[0].endswith("prediction tuple")


@pytest.mark.parametrize("min_delta", [-0.1, math.nan])
def test_an_improvement_below_nothing_is_refused(min_delta):
    with pytest.raises(ValueError, match="got min_delta=.*expected 0 or more"):
        EarlyStopping(min_delta=min_delta)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("mine")])
def test_early_stopping_asks_nothing_of_an_epoch_that_broke_off(error):
    asked = []

    class Whole:
        name = "whole"

        def reset(self):
            self.seen = 0

        def update(self, pred, target):
            self.seen += 1
            if self.seen == 3:
                raise error

        def compute(self):
            asked.append(self.seen)
            return 1.0

    learn = learner(valid=BATCHES, metrics=[Whole()], cbs=[EarlyStopping("whole")])
    if isinstance(error, KeyboardInterrupt):
        learn.fit(1)
        assert learn.interrupted
    else:
        with pytest.raises(KeyError, match="mine"):
            learn.fit(1)
    assert not asked


def test_a_fit_tells_whether_it_was_interrupted():
    learn = learner()
    assert not learn.interrupted
    learn.fit(1, cbs=[Log("after_loss", KeyboardInterrupt())])
    assert learn.interrupted
    learn.fit(1)
    assert not learn.interrupted


@pytest.mark.parametrize("call", ["fit", "validate"])
def test_batches_without_a_target_are_for_predictions(call):
    blind = [(x, None) for x, _ in BATCHES]
    learn = learner(blind, blind)
    with pytest.raises(TypeError, match="_loss is weighted by sample and expected a target.*None"):
        learn.fit(1) if call == "fit" else learn.validate()
    assert learn.get_preds()[0].shape == (100, 2)


class Pair(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(6, 2)

    def forward(self, x):
        return self.kind(self.layer(x))


@pytest.mark.parametrize(
    "kind, words", [(lambda t: {"a": t}, "got dict"), (lambda t: (t, t), "got tuple")]
)
def test_predictions_that_cannot_be_joined_are_refused(kind, words):
    with pytest.raises(TypeError, match=f"get_preds joins.*as predictions it {words}"):
        Learner(
            Pair(kind), BATCHES, lambda pred, target: torch.zeros(()), default_cbs=False
        ).get_preds(BATCHES)
    with pytest.raises(TypeError, match="get_preds joins.*as targets it got dict"):
        Learner(net(), BATCHES, lambda pred, target: torch.zeros(())).get_preds(
            [(x, {"y": y}) for x, y in BATCHES]
        )


def test_a_loader_that_is_empty_the_second_time_is_named():
    class Once:
        def __init__(self):
            self.batches = iter(BATCHES)

        def __iter__(self):
            return self.batches

    with pytest.raises(ValueError, match="gave no batch.*read only once"):
        learner(Once()).fit(2)


class Scaled(nn.Module):
    """A loss that learns how to scale the scores."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.ones(()))

    def forward(self, pred, target):
        return F.cross_entropy(pred * self.by, target)


def with_a_loss_that_learns(*cbs, epochs=4):
    torch.manual_seed(0)
    loss = Scaled()

    def both(params, lr):
        return torch.optim.SGD([*params, *loss.parameters()], lr, momentum=0.9)

    data = DataBunch(BATCHES, BATCHES[:1])
    learn = Learner(net(), data, loss, both, lr=0.1, cbs=cbs, default_cbs=False)
    learn.fit(epochs)
    return learn, loss.by.item()


def test_a_loss_that_learns_is_resumed_as_well(tmp_path):
    whole, by = with_a_loss_that_learns()
    with_a_loss_that_learns(Checkpoint(tmp_path / "c"), epochs=2)
    again, resumed = with_a_loss_that_learns(Checkpoint(tmp_path / "c"))
    assert resumed == by != 1
    assert same(again.model, whole.model)


def test_early_stopping_restores_a_loss_that_learns():
    kept = []

    class Keep(Callback):
        def after_epoch(self):
            kept.append(self.learn.loss_func.by.item())

    stop = EarlyStopping(patience=2, restore_best_weights=True)
    _, by = with_a_loss_that_learns(Say([3, 1, 2, 4]), Keep(), stop)
    assert by == kept[1] != kept[3]


def test_a_fit_that_another_callback_refuses_restores_nothing():
    class Refuse(Callback):
        refuses = False
        order = -1

        def before_fit(self):
            if self.refuses:
                raise ValueError

    refuse = Refuse()
    stop = EarlyStopping(restore_best_weights=True)
    learn = learner(valid=BATCHES[:1], cbs=[refuse, stop])
    learn.fit(1)
    with torch.no_grad():
        for parameter in learn.model.parameters():
            parameter.add_(1)
    before = copy.deepcopy(learn.model)
    refuse.refuses = True
    with pytest.raises(ValueError):
        learn.fit(1)
    assert same(before, learn.model)


class Late(Callback):
    """Counts, and comes after everything else."""

    order = 200
    state_attrs = "count"

    def before_fit(self):
        self.count = 0

    def after_step(self):
        self.count += 1


def test_a_callback_of_any_order_is_resumed(tmp_path):
    learner(cbs=[Late(), Checkpoint(tmp_path / "c")]).fit(1)
    late = Late()
    learner(cbs=[late, Checkpoint(tmp_path / "c")]).fit(2)
    assert late.count == 2 * len(BATCHES)


class Extra(nn.Linear):
    """A layer whose state holds more than tensors."""

    def get_extra_state(self):
        return 7

    def set_extra_state(self, state):
        assert state == 7


def test_a_state_with_more_than_tensors(tmp_path):
    model = nn.Sequential(Extra(X.shape[1], 5))
    stop = EarlyStopping(restore_best_weights=True)
    for epochs in (1, 2):
        cbs = [Checkpoint(tmp_path / "c"), stop]
        Learner(model, DataBunch(BATCHES, BATCHES[:1]), F.cross_entropy, cbs=cbs).fit(epochs)
    assert stop.best_epoch is not None


def test_a_checkpoint_of_another_dtype_is_refused(tmp_path):
    learner(cbs=[Checkpoint(tmp_path / "c")]).fit(1)
    wide = [(x.double(), y) for x, y in BATCHES]
    with pytest.raises(ValueError, match="another model than this fit"):
        Learner(net().double(), wide, F.cross_entropy, cbs=[Checkpoint(tmp_path / "c")]).fit(2)


def test_a_refused_fit_does_not_count(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"something else")
    checkpoint = Checkpoint(path)
    learn = learner(cbs=[checkpoint])
    with pytest.raises(ValueError, match="Move it away"):
        learn.fit(1)
    path.unlink()
    learn.fit(1)
    assert [file.name for file in tmp_path.iterdir() if "previous" not in file.name] == ["c"]


def test_a_path_may_begin_with_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    learner(cbs=[Checkpoint("~/c")]).fit(1)
    assert (tmp_path / "c").is_file()


def test_large_gradients_of_16_bits_are_finite():
    class Look(Callback):
        norms = []

        def before_step(self):
            self.norms.append(self.learn.model.weight.grad.norm().item())

    look, batch = Look(), (torch.full((1, 1000), 80.0).half(), torch.zeros(1).long())
    model = nn.Linear(1000, 1000, bias=False).half()
    learn = Learner(model, [batch], lambda pred, target: pred.sum(), lr=0.0)
    learn.fit(1, cbs=[look, TerminateOnNaN()])
    assert look.norms == [math.inf]  # in 16 bits
    assert len(learn.recorder.history) == 1


# --- parts that change after the constructor ------------------------------------------------------


class Teach(Callback):
    """Lets another learner go through its data in the middle of an epoch or of a batch."""

    def __init__(self, event, teacher):
        self.teacher = teacher
        setattr(self, event, self.ask)

    def ask(self):
        self.teacher.validate()


@pytest.mark.parametrize("entry", ["fit", "validate", "get_preds", "predict"])
def test_a_callback_that_was_appended_hears_the_next_pass(entry):
    learn = learner(BATCHES[:2], BATCHES[:1])
    learn.cbs.append(log := Log())
    arguments = {"fit": [1], "predict": [X]}.get(entry, [])
    getattr(learn, entry)(*arguments)
    assert log.learn is learn
    assert log.lines.count("after_pred") == (3 if entry == "fit" else 1)


@pytest.mark.parametrize("entry", ["fit", "validate"])
def test_a_metric_that_was_appended_counts(entry):
    learn = learner(BATCHES[:2], BATCHES[:1])
    learn.metrics.append(accuracy)
    learn.fit(1) if entry == "fit" else learn.validate()
    assert "accuracy" in (learn.results if entry == "fit" else learn.validate())
    learn.metrics.append(accuracy)
    with pytest.raises(ValueError, match="a name for each metric"):
        learn.validate()
    learn.metrics = "accuracy"
    with pytest.raises(TypeError, match="expected functions as loss_func and metrics"):
        learn.fit(1)


def test_data_that_was_exchanged_is_taken():
    learn = learner(BATCHES[:2])
    learn.data = BATCHES[:3]
    learn.fit(1)
    assert learn.step == 3
    learn.data = 3
    with pytest.raises(TypeError, match="Learner expected a DataBunch or a loader"):
        learn.validate()


@pytest.mark.parametrize("event", ["before_epoch", "before_batch", "after_pred", "after_loss"])
def test_a_teacher_that_shares_a_callback_leaves_it_to_the_student(event):
    shared = Recorder()
    teacher = learner(valid=BATCHES[:2], seed=1, cbs=[shared])
    student = learner(cbs=[Teach(event, teacher), shared])
    student.fit(2)
    assert shared.learn is student
    assert len(shared.losses) == len(shared.lrs) == 2 * len(BATCHES)
    assert [row["train_loss"] for row in shared.history][-1] == student.results["train_loss"]


class Once:
    """Gives its batches to the first who asks."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


@pytest.mark.parametrize("which", ["training", "validation"])
def test_a_loader_that_can_be_read_once_serves_one_epoch(which):
    def fit(epochs):
        once = which == "validation"
        train, valid = [[*BATCHES[:2]], Once(BATCHES[:2])][:: 1 if once else -1]
        learn = learner(train, valid)
        learn.fit(epochs)
        return learn

    assert fit(1).results["valid_loss"] > 0
    with pytest.raises(ValueError, match=f"the {which} loader gave no batch"):
        fit(2)


@pytest.mark.parametrize("kind", [tuple, list])
def test_two_loaders_are_no_data(kind):
    loader = DataLoader(TensorDataset(X, Y), 16)
    with pytest.raises(TypeError, match=r"of 2 objects: write DataBunch\(train_dl, valid_dl\)"):
        Learner(net(), kind([loader, loader]), F.cross_entropy)


def test_of_a_batch_that_cannot_be_split_the_note_shows_the_batch():
    learn = learner([*BATCHES[:2], {"x": X}])
    with pytest.raises(TypeError, match="expected batches") as caught:
        learn.fit(1)
    assert caught.value.__notes__ == [
        "Learner: this happened in epoch 0, batch 2; a batch of type dict"
    ]


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy(whole, tmp_path):
    learn = learner(valid=BATCHES, cbs=[EarlyStopping(patience=whole(2))])
    learn.fit(whole(1), cbs=[Checkpoint(tmp_path / "c")])
    assert type(learn.n_epochs) is int
    for wrong in (True, np.float64(1), np.int64(-1)):
        with pytest.raises(ValueError, match="fit expected a number of epochs"):
            learn.fit(wrong)
    with pytest.raises(ValueError, match="EarlyStopping got patience=True"):
        EarlyStopping(patience=True)
