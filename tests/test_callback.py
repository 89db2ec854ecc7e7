"""Chapter 04b: callbacks, what attaches them and makes the optimizer, Recorder and ProgressBar."""

import io
import math
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tqdm
from torch import nn

from fromfound import callback
from fromfound.callback import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    ProgressBar,
    Recorder,
    check_numbers,
    make_optimizer,
    show_training_loop,
)
from fromfound.learner import Checkpoint, GradientClip, Learner, TerminateOnNaN
from tests.toys import BATCHES, Log, accuracy, learner, net, same


# --- how callbacks are attached -------------------------------------------------------------------


def test_callbacks_that_cannot_be_hashed():
    @dataclass
    class Count(Callback):
        n: int = 0

        def after_batch(self):
            self.n += 1

    count = Count()
    learner(cbs=[count, count]).fit(1)
    assert count.n == len(BATCHES)


def test_order_and_callbacks_of_one_fit():
    heard = []

    class Say(Callback):
        def __init__(self, name, order):
            self.name = name
            self.order = order

        def before_fit(self):
            heard.append((self.name, len(self.learn.cbs)))

    learn = learner(cbs=[Say("b", 1), Say("a", -1)])
    learn.fit(1, cbs=[Say("c", 0)])
    learn.fit(0)
    assert heard == [("a", 3), ("c", 3), ("b", 3), ("a", 2), ("b", 2)]


def test_an_event_that_was_switched_off():
    class Quiet(Log):
        after_epoch = None

    learner(cbs=[quiet := Quiet()]).fit(1)
    assert "after_epoch" not in quiet.lines
    assert quiet.lines[-1] == "after_fit"


# --- mistakes -------------------------------------------------------------------------------------


class Misspelled(Callback):
    def after_barch(self):
        pass


class Hidden(Callback):
    loss = None


class Assigned(Callback):
    def after_loss(self):
        self.pred = 2


class Rate(Callback):
    exclusive = "lr"


class Cycle(Callback):
    exclusive = ("lr", "momentum")


@pytest.mark.parametrize(
    "cbs, error, words",
    [
        ([Misspelled()], AttributeError, "after_barch is no event.*after_batch"),
        ([Hidden()], AttributeError, "self.learn.loss"),
        ([Assigned()], AttributeError, "self.learn.pred"),
        ([Rate(), Cycle()], ValueError, "Rate and Cycle both own 'lr'"),
        ([Checkpoint("a"), Checkpoint("b")], ValueError, "own 'checkpoint'"),
        (
            [Recorder],
            TypeError,
            r"cbs expected objects, got the class Recorder: write Recorder\(\)",
        ),
        (
            TerminateOnNaN(),
            TypeError,
            r"cbs expected a list, got .*TerminateOnNaN.*: write cbs=\[...\]",
        ),
        ([print], TypeError, "Callback objects, got <built-in function print>"),
    ],
)
def test_mistakes_with_callbacks(cbs, error, words):
    with pytest.raises(error, match=words):
        learner(cbs=cbs).fit(1)
    with pytest.raises(error, match=words):
        (learn := learner()).fit(1, cbs=cbs)
    assert learn.cbs == []


# --- the optimizer of a fit -----------------------------------------------------------------------


def test_an_optimizer_that_needs_a_closure_is_refused():
    learn = learner(opt_func=torch.optim.LBFGS, cbs=[log := Log()])
    with pytest.raises(
        TypeError,
        match="LBFGS wants a closure in each step.*SGD or Adam, or write the loop by hand",
    ):
        learn.fit(1, cbs=[GradientClip(1.0)])
    assert log.lines == []
    assert learn.cbs == [log]


class Plain:
    """An optimizer of one's own, which knows of no closure."""

    def __init__(self, params, lr):
        self.params, self.lr, self.param_groups = list(params), lr, [{"lr": lr}]

    def step(self):
        with torch.no_grad():
            for p in self.params:
                p.sub_(p.grad, alpha=self.lr)

    def zero_grad(self):
        for p in self.params:
            p.grad = None


def test_an_optimizer_of_ones_own_will_do():
    learn = learner(opt_func=Plain)
    learn.fit(2)
    plain = learner()
    plain.fit(2)
    assert same(learn.model, plain.model)


def test_classes_and_objects_are_told_apart():
    with pytest.raises(
        TypeError,
        match=(
            "loss_func expected objects, got the class CrossEntropyLoss: "
            r"write CrossEntropyLoss\(\)"
        ),
    ):
        Learner(net(), BATCHES, nn.CrossEntropyLoss)
    with pytest.raises(
        TypeError,
        match=(
            "opt_func expected a function of parameters and lr=, got a SGD object: give its class"
        ),
    ):
        learner(opt_func=torch.optim.SGD(net().parameters(), lr=0.1)).fit(1)


# --- recorder, bar, loop --------------------------------------------------------------------------


def test_recorder_and_table(capsys):
    learn = learner(
        BATCHES,
        BATCHES,
        default_cbs=True,
        metrics=[accuracy],
        opt_func=partial(torch.optim.Adam, betas=(0.8, 0.99)),
    )
    learn.fit(2)
    recorder = learn.recorder
    assert len(recorder.losses) == len(recorder.lrs) == 14
    assert recorder.epoch_ends == [7, 14]
    assert set(recorder.moms) == {0.8}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["epoch", "train_loss", "valid_loss", "accuracy"]
    assert len(lines) == 3
    assert len(set(map(len, lines))) == 1
    sizes = [len(y) for _, y in BATCHES]
    assert recorder.history[1]["train_loss"] == pytest.approx(
        sum(v * n for v, n in zip(recorder.losses[7:], sizes, strict=True)) / 100
    )
    panels = recorder.plot().fig.axes
    assert [ax.get_ylabel() for ax in panels] == ["learning rate", "momentum", "loss"]
    assert list(panels[2].lines[1].get_xdata()) == [7, 14]
    learn.fit(1)
    assert len(recorder.history) == 1


@pytest.mark.parametrize("options, momentum", [({"momentum": 0.9}, 0.9), ({}, 0.0)])
def test_the_recorder_writes_momentum_before_others_look(options, momentum):
    class Reader(Callback):
        def before_backward(self):
            seen.append(len(self.learn.recorder.lrs))

    seen = []
    learn = learner(cbs=[Reader(), Recorder()], opt_func=partial(torch.optim.SGD, **options))
    learn.fit(1)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert learn.recorder.moms == [momentum] * 7


def test_own_recorder_replaces_the_default():
    learn = learner(default_cbs=True, cbs=[recorder := Recorder()])
    assert learn.recorder is recorder
    assert [type(cb) for cb in learn.cbs] == [Recorder, ProgressBar]


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_is_seen_only_where_somebody_watches(watched, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return watched

    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with redirect_stderr(Terminal()) as seen:
        learner(BATCHES, BATCHES, default_cbs=True).fit(2)
    assert ("train_loss" in seen.getvalue()) == watched
    assert bool(seen.getvalue()) == watched
    monkeypatch.setenv("CI", "true")
    with redirect_stderr(Terminal()) as seen:
        learner(default_cbs=True).fit(1)
    assert seen.getvalue() == ""


class Bar:
    """What a ProgressBar asks of tqdm, written down."""

    def __init__(self, leave, disable):
        self.leave, self.disable, self.n, self.total, self.shown, self.closed = (
            leave,
            disable,
            0,
            None,
            [],
            0,
        )

    def set_postfix_str(self, text):
        self.shown.append((self.n, self.total, text.partition(",")[0]))

    def close(self):
        self.closed += 1


@pytest.fixture
def bars(monkeypatch):
    made = []
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: made.append(Bar(**options)) or made[-1])
    monkeypatch.delenv("CI", raising=False)
    return made


@pytest.mark.parametrize(
    "ci, terminal, notebook, watched",
    [
        (False, False, False, False),
        (False, True, False, True),
        (False, False, True, True),
        (True, True, True, False),
    ],
)
def test_a_bar_is_for_a_terminal_or_a_notebook(ci, terminal, notebook, watched, bars, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", None) if notebook else monkeypatch.delitem(
        sys.modules, "ipykernel", raising=False
    )
    if ci:
        monkeypatch.setenv("CI", "true")
    learner(cbs=[ProgressBar()]).fit(1)
    assert [(bar.disable, bar.leave, bar.closed, bool(bar.shown)) for bar in bars] == [
        (not watched, False, 1, watched)
    ]


@pytest.mark.parametrize(
    "valid, shown",
    [
        (
            None,
            [
                (1, 14, "epoch 0"),
                (4, 14, "epoch 0"),
                (7, 14, "epoch 0"),
                (10, 14, "epoch 1"),
                (13, 14, "epoch 1"),
            ],
        ),
        (
            BATCHES[:4],
            [
                (1, 14, "epoch 0"),
                (4, 14, "epoch 0"),
                (7, 14, "epoch 0"),
                (7, 14, "epoch 0"),
                (9, 14, "epoch 1"),
                (12, 14, "epoch 1"),
                (12, 14, "epoch 1"),
                (12, 14, "epoch 1"),
            ],
        ),
    ],
)
def test_the_bar_counts_steps_three_times_a_second(valid, shown, bars, monkeypatch):
    class Eighth(Callback):
        def after_batch(self):
            clock[0] += 0.125

    clock = [100.0]
    monkeypatch.setattr(callback, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    learner(BATCHES, valid, cbs=[ProgressBar(), Eighth()]).fit(2)
    assert bars[0].shown == shown


def test_the_bar_of_a_stream_has_no_end(bars, monkeypatch):
    class Stream:
        def __iter__(self):
            return iter(BATCHES[:1])

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    learner(Stream(), cbs=[ProgressBar()]).fit(1)
    assert bars[0].shown == [(0, None, "epoch 0")]


class AtTheEnd:
    """A metric that cannot be computed before all batches were seen."""

    name = "at the end"

    def reset(self):
        self.seen = 0

    def update(self, pred, target):
        self.seen += 1

    def compute(self):
        assert self.seen == len(BATCHES), "it was asked half-way"
        return 1.0


def test_a_bar_that_is_watched_computes_no_metric_half_way(bars, monkeypatch):
    monkeypatch.setattr(ProgressBar, "due", 0.0)
    monkeypatch.setattr(callback.time, "monotonic", lambda: math.inf)  # at each batch
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    learn = learner(BATCHES, BATCHES, metrics=[AtTheEnd()], cbs=[Recorder(), ProgressBar()])
    learn.fit(2)
    assert len(bars[0].shown) == 4 * len(BATCHES)
    assert [row["at the end"] for row in learn.recorder.history] == [1.0, 1.0]


@pytest.mark.parametrize("stream", [None, object(), io.StringIO()])
def test_without_a_console_a_fit_is_quiet(stream, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    learn = learner(BATCHES, BATCHES, default_cbs=True)
    learn.fit(1)
    assert len(learn.recorder.history) == 1


def test_an_optimizer_of_another_model_is_refused():
    other = net()

    def foreign(params, lr):
        return torch.optim.SGD([*params, *other.parameters()], lr=lr)

    count = len(list(other.parameters()))
    with pytest.raises(ValueError, match=f"SGD holds {count} parameters that are not the model's"):
        learner(opt_func=foreign).fit(1)
    loss = nn.Parameter(torch.ones(()))
    opt = make_optimizer(
        lambda params, lr: torch.optim.SGD([*params, loss], lr=lr), other.parameters(), 0.1, [loss]
    )
    assert len(opt.param_groups[0]["params"]) == count + 1


@pytest.mark.parametrize("lr", ["0.1", None, [0.1], {}])
def test_a_learning_rate_that_is_no_number_is_refused(lr):
    with pytest.raises(TypeError, match="fit expected a learning rate as its second argument"):
        make_optimizer(torch.optim.SGD, net().parameters(), lr)


@pytest.mark.parametrize("lr", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_learning_rate_that_is_not_finite_is_refused(lr):
    with pytest.raises(ValueError, match="fit expected a finite learning rate, got"):
        make_optimizer(torch.optim.SGD, net().parameters(), lr)


@pytest.mark.parametrize("value", ["1", None, [1], 1j, math.nan, 0, -1.0, torch.tensor(-1)])
def test_numbers_are_checked(value):
    for good in (1, 0.5, math.inf, np.float32(2), np.int64(3), torch.tensor(0.1)):
        check_numbers("f", "a number above 0", lambda x: x > 0, good, 1)
        with pytest.raises(ValueError, match="^f expected a number above 0, got "):
            check_numbers("f", "a number above 0", lambda x: x > 0, good, value)


def test_one_name_needs_no_comma(tmp_path):
    class Seen(Callback):
        state_attrs = "seen"

        def before_fit(self):
            self.seen = 0

        def after_batch(self):
            self.seen += 1

    for n_epochs in (1, 2):
        seen = Seen()
        learner(cbs=[seen, Checkpoint(tmp_path / "run")]).fit(n_epochs)
        assert seen.state_dict() == {"seen": n_epochs * len(BATCHES)}


def test_there_is_nothing_to_draw_before_a_fit():
    with pytest.raises(ValueError, match="Recorder has nothing to draw yet: call fit first"):
        Recorder().plot()


def test_the_loop_is_shown_with_its_callbacks(capsys):
    learn = learner(default_cbs=True, cbs=[GradientClip(1.0)])
    show_training_loop(learn)
    shown = capsys.readouterr().out
    learn.show_training_loop()
    assert shown == capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].split() == ["part", "called", "before", "called", "after"]
    assert [line.split()[0] for line in lines[1:4]] == ["fit", "epoch", "batch"]
    assert lines[1].split()[1:] == ["Recorder,", "ProgressBar", "ProgressBar"]
    assert lines[7].split() == ["step", "GradientClip", "-"]
    assert len(lines) == 8


@pytest.mark.parametrize(
    "kind", [CancelStepException, CancelBatchException, CancelEpochException, CancelFitException]
)
@pytest.mark.parametrize("event", ["before_batch", "after_loss", "before_backward", "before_step"])
@pytest.mark.parametrize("order", [-100, 100])
def test_a_rate_for_each_loss(kind, event, order):
    leave = Log(event, kind)
    leave.order = order
    learn = learner(valid=BATCHES, cbs=[leave, recorder := Recorder()])
    try:
        learn.fit(2)
    except RuntimeError:
        assert kind is CancelStepException
        assert event in ("before_batch", "after_loss")
    assert len(recorder.losses) == len(recorder.lrs) == len(recorder.moms)


# --- a learning rate that is a tensor -------------------------------------------------------------


class Halve(Callback):
    """Changes the learning rate in place, as torch's schedulers do with a tensor."""

    order = 20

    def after_batch(self):
        self.learn.opt.param_groups[0]["lr"].mul_(0.5)


def test_a_tensor_as_learning_rate_is_recorded_step_by_step_and_stays_the_users():
    lr = torch.tensor(0.25)
    learn = learner(BATCHES[:3], lr=lr, cbs=[recorder := Recorder(), Halve()])
    learn.fit(1)
    assert recorder.lrs == [0.25, 0.125, 0.0625]
    assert lr.item() == 0.25
    learn.fit(1, lr)
    assert recorder.lrs[0] == 0.25
    assert all(type(value) is float for value in recorder.lrs + recorder.moms)
