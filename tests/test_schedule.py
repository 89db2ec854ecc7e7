"""Chapter 05a: every schedule through the same checks, curves against torch's.

It covers phases by hypothesis, the range test bitwise, resuming, and errors.
"""

import contextlib
import math
import random
from bisect import bisect_right
from functools import partial
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from fromfound.exercises import schedule as exercises
from fromfound.learner import (
    Callback,
    CancelEpochException,
    CancelFitException,
    Checkpoint,
    DataBunch,
    GradientClip,
    Learner,
    Recorder,
)
from fromfound.module import load
from fromfound.rng import preserve_state
from fromfound.schedule import (
    SGDR,
    LRFinder,
    ParamScheduler,
    TorchScheduler,
    combine_scheds,
    one_cycle,
    sched_cos,
    sched_exp,
    sched_lin,
    sched_poly,
    schedule,
)

MOMENTUM = partial(SGD, momentum=0.9)


# --- a sweep over all schedules -------------------------------------------------------------------

MAKERS = {
    "lin": sched_lin,
    "cos": sched_cos,
    "exp": sched_exp,
    "poly 2": sched_poly,
    "poly 1": partial(sched_poly, power=1),
    "poly 0.5": partial(sched_poly, power=0.5),
    "one phase": lambda a, b: combine_scheds([1.0], [sched_cos(a, b)]),
    "two phases": lambda a, b: combine_scheds([0.3, 0.7], [sched_cos(a, 0.7), sched_lin(0.7, b)]),
    "five phases": lambda a, b: combine_scheds(
        [0.1, 0.2, 0.3, 0.15, 0.25],
        [sched_lin(a, 2), sched_lin(2, 2), sched_exp(2, 0.1), sched_poly(0.1, 1), sched_cos(1, b)],
    ),
    "nested": lambda a, b: combine_scheds(
        [0.5, 0.5],
        [combine_scheds([0.5, 0.5], [sched_lin(a, 1), sched_lin(1, 2)]), sched_cos(2, b)],
    ),
}
ENDS = [(1.0, 0.1), (0.1, 0.3), (0.3, 0.3), (1e-7, 10.0), (3.0, 1e-6)]
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
every_end = pytest.mark.parametrize("start, end", ENDS)


@every_maker
@every_end
def test_ends_are_exact(make, start, end):
    sched = make(start, end)
    assert sched(0) == sched(0.0) == start
    assert sched(1) == sched(1.0) == end


@every_maker
def test_continuous(make):
    sched = make(1.0, 0.1)
    values = [sched(k / 20_000) for k in range(20_001)]
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) < 0.02


@every_maker
@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_tensors_of_positions(make, shape, dtype):
    sched, pos = (
        make(1.0, 0.1),
        torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
            dtype
        ),
    )
    values = sched(pos)
    assert values.shape == pos.shape
    assert values.dtype == dtype
    assert values.device == pos.device
    expected = torch.tensor([sched(p) for p in pos.flatten().tolist()], dtype=dtype).reshape(shape)
    assert torch.equal(values, expected)


@every_maker
@pytest.mark.parametrize(
    "kind", [torch.tensor, np.float32, np.float64, int], ids=lambda kind: kind.__name__
)
def test_other_numbers_as_positions(make, kind):
    sched = make(1.0, 0.1)
    assert float(sched(kind(0))) == 1.0
    assert float(sched(kind(1))) == pytest.approx(0.1)


@every_maker
@pytest.mark.parametrize(
    "pos", [-1e-9, 1 + 1e-9, 17, -1, math.nan, math.inf, torch.tensor([0.5, 1.5])], ids=str
)
def test_positions_outside_are_refused(make, pos):
    with pytest.raises(ValueError, match="from 0 to 1"):
        make(1.0, 0.1)(pos)


@pytest.mark.parametrize("make", [sched_lin, sched_cos, sched_exp, sched_poly])
@given(a=st.floats(1e-6, 1e3), b=st.floats(1e-6, 1e3), pos=st.floats(0, 1))
def test_between_the_ends(make, a, b, pos):
    value, slack = make(a, b)(pos), 1e-12 * max(a, b)
    assert min(a, b) - slack <= value <= max(a, b) + slack


@pytest.mark.parametrize("make", [sched_lin, sched_cos, sched_poly])
@given(a=st.floats(-1e3, 1e3), pos=st.floats(0, 1))
def test_constant_in_every_bit(make, a, pos):
    assert make(a, a)(pos) == a


@given(a=st.floats(1e-6, 1e3), pos=st.floats(0, 1))
def test_constant_by_factors(a, pos):
    assert sched_exp(a, a)(pos) == a


FORMULAS = {
    "lin": (sched_lin, lambda a, b, p: a + (b - a) * p),
    "cos": (sched_cos, lambda a, b, p: b + (a - b) * (1 + math.cos(math.pi * p)) / 2),
    "exp": (sched_exp, lambda a, b, p: math.exp(math.log(a) * (1 - p) + math.log(b) * p)),
    "poly": (partial(sched_poly, power=3), lambda a, b, p: b + (a - b) * (1 - p) ** 3),
}


@pytest.mark.parametrize("make, formula", FORMULAS.values(), ids=FORMULAS)
@given(a=st.floats(1e-3, 10), b=st.floats(1e-3, 10), pos=st.floats(0, 1))
def test_formulas(make, formula, a, b, pos):
    assert make(a, b)(pos) == pytest.approx(formula(a, b, pos), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: sched_exp(0, 1), "above 0"),
        (lambda: sched_exp(1, -1), "above 0"),
        (lambda: sched_poly(1, 0, 0), "above 0"),
        (lambda: sched_poly(1, 0, -2), "above 0"),
        (lambda: sched_poly(1, 0, math.nan), "above 0"),
    ],
)
def test_annealers_refuse(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


WRONG = ["0.1", None, math.nan, [0.1], 1j]  # for whatever expects a number


@pytest.mark.parametrize("make", [sched_lin, sched_cos, sched_exp, sched_poly])
@pytest.mark.parametrize("wrong", [*WRONG, math.inf], ids=str)
def test_ends_that_are_no_numbers_are_refused_at_once(make, wrong):
    for pair in ((wrong, 1.0), (1.0, wrong)):
        with pytest.raises(ValueError, match=f"^{make.__name__} expected finite numbers"):
            make(*pair)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: sched_poly(1, 0, x), "sched_poly expected a power above 0, got"),
        (lambda x: combine_scheds([x, 0.5], [sched_lin(1, 0)] * 2), "combine_scheds expected frac"),
        (lambda x: one_cycle(0.1, pct_start=x), "one_cycle expected pct_start above 0"),
        (lambda x: one_cycle(0.1, div_factor=x), "one_cycle expected factors above 0"),
        (lambda x: one_cycle(0.1, final_div_factor=x), "one_cycle expected factors above 0"),
        (lambda x: one_cycle(0.1, base_momentum=x), "one_cycle expected momenta 0 to 1"),
        (lambda x: one_cycle(0.1, max_momentum=x), "one_cycle expected momenta 0 to 1"),
        (lambda x: one_cycle([0.1, x]), "one_cycle expected max_lr of 0 or more"),
        (lambda x: SGDR(0.1, cycle_len=x), "SGDR expected whole numbers above 0"),
        (lambda x: LRFinder(max_lr=x), "sched_exp expected finite numbers above 0"),
        (lambda x: LRFinder(steps=x), "LRFinder expected whole steps above 1"),
        (lambda x: LRFinder(early_stop_threshold=x), "LRFinder expected a threshold above 1"),
    ],
)
def test_what_is_no_number_is_refused_at_once(make, message, wrong):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(wrong)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: one_cycle("0.1"), "one_cycle expected max_lr of 0 or more, got '0.1'"),
        (lambda: one_cycle(None), "one_cycle expected max_lr of 0 or more, got None"),
        (lambda: one_cycle(0.1, div_factor=0), "factors above 0, got 0"),
        (lambda: one_cycle(0.1, final_div_factor=0), "factors above 0, got 0"),
        (lambda: one_cycle(0.1, final_div_factor=-1), "factors above 0, got -1"),
        (lambda: one_cycle(0.1, max_momentum=1.5), "momenta 0 to 1, got 1.5"),
        (lambda: one_cycle(0.1, base_momentum=-0.1), "momenta 0 to 1, got -0.1"),
        (lambda: SGDR("0.1"), "sched_cos expected finite numbers, got '0.1'"),
        (lambda: SGDR(0.1, min_lr=None), "sched_cos expected finite numbers, got None"),
        (lambda: LRFinder(1, 1e-4), "LRFinder expected max_lr above 1, got 0.0001"),
        (lambda: LRFinder(1e-4, 1e-4), "LRFinder expected max_lr above 0.0001"),
        (lambda: LRFinder(max_lr=math.inf), "finite numbers above 0, got inf"),
        (lambda: LRFinder(steps=2.5), "whole steps above 1, got 2.5"),
        (lambda: LRFinder(steps=1), "whole steps above 1, got 1"),
        (lambda: LRFinder(early_stop_threshold=1), "a threshold above 1, got 1"),
        (lambda: LRFinder(early_stop_threshold=-3), "a threshold above 1, got -3"),
        (lambda: LRFinder(early_stop_threshold=0.5), "a threshold above 1, got 0.5"),
        (lambda: LRFinder().plot(), "LRFinder has nothing to draw yet: call run"),
        (lambda: LRFinder().suggestion, "0 of 100 steps were done: call run"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_factors_may_be_infinite():
    (lr,) = one_cycle(0.1, final_div_factor=math.inf, cycle_momentum=False)
    assert lr.sched(1.0) == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: combine_scheds([0.5, 0.5], [1, 2]),
            "combine_scheds expected schedules as sched_lin makes, got",
        ),
        (lambda: ParamScheduler(None, sched_lin(1, 0)), "a list of them, after a name"),
        (lambda: ParamScheduler(sched_lin(1, 0), "lr"), "a list of them, after a name"),
        (
            lambda: TorchScheduler(None, interval="step"),
            "TorchScheduler expected a function that makes one, got None",
        ),
        (
            lambda: TorchScheduler(
                lr_scheduler.StepLR(SGD([nn.Parameter(torch.ones(1))], lr=1), 3), interval="step"
            ),
            "TorchScheduler expected a function that makes one, got <torch.optim.lr_scheduler.Step",
        ),
    ],
)
def test_what_is_no_function_is_refused_at_once(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_schedule_decorates():
    @schedule
    def half(pos):
        """Half of it."""
        return pos / 2

    assert half(1) == 0.5
    assert half.__name__ == "half"
    assert half.__doc__ == "Half of it."


# --- phases ---------------------------------------------------------------------------------------


def traced(n):
    return [lambda p, i=i: 10.0 * i + p for i in range(n)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_any_number_of_phases_in_whole_steps(lengths):
    total, begins = sum(lengths), [0, *accumulate(lengths)]
    sched = combine_scheds([n / total for n in lengths], traced(len(lengths)))
    for k in range(total):
        i = bisect_right(begins, k) - 1
        assert sched(k / total) == pytest.approx(10 * i + (k - begins[i]) / lengths[i], abs=1e-6)
    assert sched(1.0) == 10.0 * (len(lengths) - 1) + 1


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=10), st.floats(0, 1))
def test_phases_see_positions_of_their_own(weights, pos):
    fractions = [w / sum(weights) for w in weights]
    # Refuses what is outside.
    value = combine_scheds(fractions, [schedule(lambda p: p) for _ in fractions])(pos)
    assert 0 <= value <= 1


def test_any_fractions_reach_the_end():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        weights = torch.rand(4, generator=generator, dtype=torch.float64) + 0.01
        assert combine_scheds((weights / weights.sum()).tolist(), [sched_lin(0, 1)] * 4)(1.0) == 1


@pytest.mark.parametrize(
    "fractions",
    [[0.1, 0.2, 0.7], [0.1] * 10, [0.01, 0.05, 0.94], [1 / 3] * 3, [1 / 7, 2 / 7, 4 / 7]],
)
def test_boundaries_belong_to_the_phase_that_begins(fractions):
    steps = {10: 100, 3: 300, 7: 700}[
        10
        if fractions[0] in (0.1, 0.01)
        else 3
        if len(fractions) == 3 and fractions[0] == 1 / 3
        else 7
    ]
    begins = [round(b * steps) for b in [0, *accumulate(fractions)]]
    sched = combine_scheds(fractions, traced(len(fractions)))
    for i, begin in enumerate(begins[:-1]):
        assert sched(begin / steps) == 10.0 * i
        # The step before is still in the phase before.
        assert begin == 0 or sched((begin - 1) / steps) < 10.0 * i - 8


def test_the_famous_patch_fails_here():
    """Three phases: the third is reached, and 1.0 is its end."""
    sched = combine_scheds([0.3, 0.4, 0.3], traced(3))
    assert 20 <= sched(0.7) < 20.01
    assert sched(0.999) > 20.9
    assert sched(1.0) == 21


@pytest.mark.parametrize(
    "fractions, count, message",
    [
        ([0.5, 0.5], 3, "2 fractions for 3"),
        ([0.5, 0.3, 0.2], 2, "3 fractions for 2"),
        ([], 0, "at least one"),
        ([0.3, 0.3], 2, "sum to 0.6"),
        ([0.6, 0.6], 2, "sum to 1.2"),
        ([1.2, -0.2], 2, "above 0"),
        ([0.5, 0.5, 1e-10], 3, "too short"),
        ([0.5, 0.5000005, 1e-7], 3, "too short"),
        ([1e-10, 0.5, 0.5], 3, "too short"),
        ([1.0, 0.0], 2, "above 0"),
        ([math.nan, 0.5], 2, "above 0"),
        ([0.333, 0.333, 0.333], 3, "sum to 0.999"),
    ],
)
def test_combine_refuses(fractions, count, message):
    with pytest.raises(ValueError, match=message):
        combine_scheds(fractions, [sched_lin(1, 0)] * count)


# --- a tiny training run, and what the optimizer has in each of its steps -------------------------


class Listen(Callback):
    order = 50

    def __init__(self):
        self.heard = []

    def before_step(self):
        self.heard.append(
            [
                {
                    k: g["betas"][0] if k == "momentum" and "betas" in g else g.get(k)
                    for k in ("lr", "momentum", "weight_decay", "alpha")
                }
                for g in self.learn.opt.param_groups
            ]
        )

    def of(self, name, group=0):
        return torch.tensor([float(step[group][name]) for step in self.heard], dtype=torch.float64)


def learner(opt_func=MOMENTUM, lr=0.1, batches=6, valid=True, seed=0, **options):
    torch.manual_seed(seed)
    x = torch.randn(batches * 4, 3, generator=torch.Generator().manual_seed(1))
    data = DataBunch(
        DataLoader(
            TensorDataset(x, x[:, :1].tanh()),
            4,
            shuffle=True,
            generator=torch.Generator().manual_seed(2),
        ),
        [(x, x[:, :1].tanh())] if valid else None,
    )
    net = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 1)
    )
    net[1].weight.data.uniform_(0.5, 1.5)
    return Learner(net, data, nn.functional.mse_loss, opt_func, lr=lr, default_cbs=False, **options)


def heard(*cbs, n_epochs=5, **options):
    learn, listen = learner(**options), Listen()
    learn.fit(n_epochs, cbs=[*cbs, listen])
    return listen


def theirs(make, steps, name="lr", kind=MOMENTUM, lr=0.1):
    opt = kind([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, values = make(opt), []
    for _ in range(steps):
        group = opt.param_groups[0]
        values.append(group["betas"][0] if name == "momentum" and "betas" in group else group[name])
        opt.step()
        scheduler.step()
    return torch.tensor(values, dtype=torch.float64)


COUNTERPARTS = {
    "LinearLR": (
        lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.25, n),
        lambda n: sched_lin(0.1, 0.025),
    ),
    "LinearLR up": (
        lambda o, n: lr_scheduler.LinearLR(o, 0.25, 1.0, n),
        lambda n: sched_lin(0.025, 0.1),
    ),
    "CosineAnnealingLR": (
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
        lambda n: sched_cos(0.1, 0),
    ),
    "CosineAnnealingLR to 0.02": (
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n, 0.02),
        lambda n: sched_cos(0.1, 0.02),
    ),
    "PolynomialLR 1": (
        lambda o, n: lr_scheduler.PolynomialLR(o, n),
        lambda n: sched_poly(0.1, 0, 1),
    ),
    "PolynomialLR 3": (
        lambda o, n: lr_scheduler.PolynomialLR(o, n, 3),
        lambda n: sched_poly(0.1, 0, 3),
    ),
    "ExponentialLR": (
        lambda o, n: lr_scheduler.ExponentialLR(o, 0.9),
        lambda n: sched_exp(0.1, 0.1 * 0.9**n),
    ),
    "MultiStepLR": (
        lambda o, n: lr_scheduler.MultiStepLR(o, [n // 2]),
        lambda n: combine_scheds([0.5, 0.5], [sched_lin(0.1, 0.1), sched_lin(0.01, 0.01)]),
    ),
}


@pytest.mark.parametrize("make, sched", COUNTERPARTS.values(), ids=COUNTERPARTS)
@pytest.mark.parametrize("batches, n_epochs", [(6, 5), (1, 8), (10, 1)])
def test_equal_to_torch_step_by_step(make, sched, batches, n_epochs):
    n = batches * n_epochs
    ours = heard(ParamScheduler("lr", sched(n)), batches=batches, n_epochs=n_epochs).of("lr")
    assert len(ours) == n
    assert torch.allclose(ours, theirs(partial(make, n=n), n), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "kind", [partial(SGD, momentum=0.9), Adam, AdamW, partial(RMSprop, momentum=0.5)]
)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.1])
@pytest.mark.parametrize("name", ["lr", "momentum"])
def test_one_cycle_is_torch(kind, share, name):
    n = 30
    ours = heard(
        *one_cycle(
            0.4,
            pct_start=share,
            div_factor=10,
            final_div_factor=100,
            base_momentum=0.7,
            max_momentum=0.99,
        ),
        opt_func=kind,
    ).of(name)
    make = partial(
        lr_scheduler.OneCycleLR,
        max_lr=0.4,
        total_steps=n + 1,
        pct_start=(share * n + 1) / (n + 1),
        div_factor=10,
        final_div_factor=100,
        base_momentum=0.7,
        max_momentum=0.99,
    )
    assert torch.allclose(ours, theirs(make, n, name, kind), rtol=1e-9, atol=1e-12)


def test_one_cycle_without_momentum_and_for_groups():
    assert len(one_cycle(0.1, cycle_momentum=False)) == 1
    listen = heard(*one_cycle([0.1, 0.01]), opt_func=groups)
    assert torch.allclose(listen.of("lr") / 10, listen.of("lr", 1))
    assert listen.of("lr").max() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="Adagrad does not have"):
        heard(*one_cycle(0.1), opt_func=Adagrad)


@pytest.mark.parametrize("share", [0, 1, 1.0, -0.3, 30, math.nan])
def test_one_cycle_names_what_is_wrong(share):
    with pytest.raises(ValueError, match="one_cycle expected pct_start above 0 and below 1"):
        one_cycle(0.1, pct_start=share)


@pytest.mark.parametrize(
    "length, mult, n_epochs", [(1, 1, 4), (2, 1, 4), (1, 2, 7), (1, 3, 4), (2, 2, 6), (3, 1, 3)]
)
def test_restarts_are_torch(length, mult, n_epochs):
    ours = heard(SGDR(0.3, min_lr=0.01, cycle_len=length, cycle_mult=mult), n_epochs=n_epochs).of(
        "lr"
    )
    reference = theirs(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6 * length, mult, 0.01),
        6 * n_epochs,
        lr=0.3,
    )
    assert torch.allclose(ours, reference, rtol=1e-9, atol=1e-12)


# --- ParamScheduler -------------------------------------------------------------------------------


def groups(params, lr):
    params = list(params)
    return SGD(
        [{"params": params[:2], "lr": lr}, {"params": params[2:], "lr": lr / 10}],
        lr=lr,
        momentum=0.9,
    )


def test_groups():
    listen = heard(ParamScheduler("lr", [sched_cos(1, 0), sched_lin(2, 1)]), opt_func=groups)
    assert listen.of("lr")[0] == 1
    assert listen.of("lr", 1)[0] == 2
    assert listen.of("lr", 1)[15] == 1.5
    listen = heard(ParamScheduler("lr", [None, sched_lin(2, 1)]), opt_func=groups)
    assert (listen.of("lr") == 0.1).all()
    assert listen.of("lr", 1)[15] == 1.5
    listen = heard(ParamScheduler("lr", sched_lin(1, 0), scale=True), opt_func=groups)
    assert torch.allclose(listen.of("lr"), 10 * listen.of("lr", 1))
    assert listen.of("lr")[15] == pytest.approx(0.05)
    listen = heard(ParamScheduler("lr", sched_lin(1, 0)), opt_func=groups)
    assert torch.equal(listen.of("lr"), listen.of("lr", 1))


def test_other_settings_and_tensors():
    assert heard(ParamScheduler("weight_decay", sched_lin(0, 0.3))).of("weight_decay")[15] == 0.15
    assert heard(ParamScheduler("alpha", sched_lin(0.9, 0.5)), opt_func=RMSprop).of("alpha")[
        15
    ] == pytest.approx(0.7)
    learn = learner(opt_func=lambda params, lr: Adam(params, lr=torch.tensor(lr)))
    kept = []

    class Look(Callback):
        def before_step(self):
            kept.append(self.learn.opt.param_groups[0]["lr"])

    learn.fit(1, cbs=[ParamScheduler("lr", sched_lin(0.4, 0.1)), Look()])
    assert all(t is kept[0] for t in kept)
    assert kept[0].item() == pytest.approx(0.15)


def test_groups_that_share_one_tensor():
    def shared(params, lr):
        params, lr = list(params), torch.tensor(lr)
        return Adam([{"params": params[:2], "lr": lr}, {"params": params[2:], "lr": lr}], lr=lr)

    listen = heard(ParamScheduler("lr", [sched_lin(1, 0), sched_lin(2, 1)]), opt_func=shared)
    # The tensor itself, which was changed in place.
    assert listen.heard[15][0]["lr"].item() == listen.heard[-1][0]["lr"].item()
    kept = []

    class Look(Callback):
        def before_step(self):
            kept.append([float(g["lr"]) for g in self.learn.opt.param_groups])

    learner(opt_func=shared).fit(
        1, cbs=[ParamScheduler("lr", [sched_lin(1, 0), sched_lin(2, 1)]), Look()]
    )
    assert kept[0] == [1, 2]
    assert kept[3] == [0.5, 1.5]


@pytest.mark.parametrize(
    "sched",
    [0.1, "cos", [0.1, 0.2], [sched_lin(1, 0), 3]],
    ids=["a number", "a word", "numbers", "not all schedules"],
)
def test_a_number_is_no_schedule(sched):
    with pytest.raises(TypeError, match="expected a function of the position"):
        ParamScheduler("lr", sched)


def test_beta_two_stays():
    learn = learner(opt_func=partial(Adam, betas=(0.8, 0.77)))
    learn.fit(1, cbs=[ParamScheduler("momentum", sched_lin(0.9, 0.5))])
    assert learn.opt.param_groups[0]["betas"][1] == 0.77
    assert 0.5 < learn.opt.param_groups[0]["betas"][0] < 0.6


def test_validation_does_not_move_it():
    assert torch.equal(
        heard(ParamScheduler("lr", sched_cos(1, 0))).of("lr"),
        heard(ParamScheduler("lr", sched_cos(1, 0)), valid=False).of("lr"),
    )


def test_a_second_fit_begins_anew():
    learn, cb = learner(), ParamScheduler("lr", sched_cos(1, 0))
    for n_epochs in (2, 3):
        learn.fit(n_epochs, cbs=[cb, listen := Listen()])
        assert listen.of("lr")[0] == 1
        assert len(listen.of("lr")) == 6 * n_epochs
        assert listen.of("lr")[-1] < 0.05
    learn.fit(1, cbs=[listen := Listen()])
    assert (listen.of("lr") == 0.1).all()


@pytest.mark.parametrize(
    "opt, name, known",
    [
        (partial(SGD, momentum=0.9), "momentun", "lr, momentum, dampening, weight_decay"),
        (Adam, "beta", "lr, eps, weight_decay, momentum"),
        (Adam, "betas", "momentum"),
        (SGD, "nesterov", "momentum"),
        (SGD, "params", "lr"),
        (Adagrad, "momentum", "lr_decay"),
    ],
)
@pytest.mark.parametrize("default_cbs", [False, True])
def test_unknown_settings(opt, name, known, default_cbs):
    learn = learner(opt)
    learn = Learner(learn.model, learn.data, learn.loss_func, opt, lr=0.1, default_cbs=default_cbs)
    with pytest.raises(ValueError, match=f"{name!r}.*does not have; it has .*{known}"):
        learn.fit(1, cbs=[ParamScheduler(name, sched_lin(1, 0))])


@pytest.mark.parametrize(
    "pair",
    [
        lambda: [ParamScheduler("lr", sched_lin(1, 0)), ParamScheduler("lr", sched_cos(1, 0))],
        lambda: [*one_cycle(0.1), *one_cycle(0.2)],
        lambda: [SGDR(0.1), ParamScheduler("lr", sched_lin(1, 0))],
        lambda: [
            TorchScheduler(partial(lr_scheduler.StepLR, step_size=2), interval="epoch"),
            *one_cycle(0.1),
        ],
        lambda: [*one_cycle(0.1), ParamScheduler("momentum", sched_lin(0.9, 0.8))],
    ],
)
def test_two_masters(pair):
    learn = learner()
    with pytest.raises(ValueError, match="both own '(lr|momentum)'"):
        learn.fit(1, cbs=pair())
    # Different settings agree.
    learn.fit(
        1,
        cbs=[
            ParamScheduler("lr", sched_lin(1, 0)),
            ParamScheduler("momentum", sched_lin(0.9, 0.8)),
        ],
    )


@pytest.mark.parametrize("count", [0, 1, 3])
def test_not_as_many_schedules_as_groups(count):
    with pytest.raises(ValueError, match=f"{count} schedules for 2 parameter groups"):
        heard(ParamScheduler("lr", [sched_lin(1, 0)] * count), opt_func=groups)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [ParamScheduler("lr", sched_lin(0.1, -0.1))],
        lambda: [ParamScheduler("weight_decay", lambda pos: math.nan)],
        lambda: one_cycle(-0.1),
        lambda: one_cycle(math.nan),
        lambda: [SGDR(-0.1)],
        lambda: [ParamScheduler("momentum", sched_lin(1.5, 1))],
        lambda: [ParamScheduler("lr", lambda pos: "0.1")],
    ],
)
def test_values_that_no_optimizer_takes(make):
    with pytest.raises(ValueError, match="of 0 or more"):
        learner().fit(1, cbs=make())


def test_a_loader_without_length():
    class Stream:
        def __iter__(self):
            return iter([(torch.ones(2, 3), torch.ones(2, 1))] * 3)

    learn = Learner(nn.Linear(3, 1), DataBunch(Stream()), nn.functional.mse_loss, default_cbs=False)
    with pytest.raises(ValueError, match="length of an epoch"):
        learn.fit(1, cbs=[ParamScheduler("lr", sched_lin(1, 0))])


def test_a_loader_that_gives_more_than_it_said():
    class Long(list):
        def __len__(self):
            return 2

    learn = Learner(
        nn.Linear(3, 1),
        DataBunch(Long([(torch.ones(2, 3), torch.ones(2, 1))] * 3)),
        nn.functional.mse_loss,
        default_cbs=False,
    )
    with pytest.raises(ValueError, match="yielded more than 2 batches: fix its __len__"):
        learn.fit(1, cbs=[ParamScheduler("lr", sched_lin(1, 0))])


# --- TorchScheduler -------------------------------------------------------------------------------

EVERY = {
    "step": partial(lr_scheduler.StepLR, step_size=3),
    "multi": partial(lr_scheduler.MultiStepLR, milestones=[3, 8]),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=9),
    "constant": partial(lr_scheduler.ConstantLR, total_iters=4),
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda k: 1 / (1 + k)),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=50),
    "two in a row": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 3), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}
every_scheduler = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@every_scheduler
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_any_torch_scheduler(make, interval):
    ours = heard(TorchScheduler(make, interval=interval)).of("lr")
    reference = theirs(make, 30 if interval == "step" else 5)
    assert torch.equal(ours if interval == "step" else ours[::6], reference)
    assert interval == "step" or torch.equal(ours, reference.repeat_interleave(6))


def test_plateau_follows_the_validation_loss():
    # Nothing is ever an improvement on that scale.
    make = partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=1e9)
    listen = heard(TorchScheduler(make, interval="epoch"), n_epochs=4)
    assert listen.of("lr")[::6].tolist() == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    for wrong, options in (
        (dict(interval="step"), {}),
        (dict(interval="epoch"), dict(valid=False)),
    ):
        with pytest.raises(ValueError, match="validation loss"):
            heard(TorchScheduler(make, **wrong), **options)


@pytest.mark.parametrize("name", ["one cycle", "cyclic"])
@pytest.mark.parametrize("swap", [False, True])
def test_two_masters_of_momentum(name, swap):
    pair = [
        TorchScheduler(EVERY[name], interval="step"),
        ParamScheduler("momentum", sched_lin(0.9, 0.8)),
    ]
    with pytest.raises(ValueError, match="both own 'momentum'.*cycle_momentum=False"):
        learner().fit(1, cbs=pair[::-1] if swap else pair)
    heard(TorchScheduler(partial(EVERY[name], cycle_momentum=False), interval="step"), pair[1])


def test_a_validation_loader_without_length():
    class Stream:
        def __iter__(self):
            return iter([(torch.ones(2, 3), torch.ones(2, 1))])

        def __bool__(self):
            raise TypeError("how should I know")

    learn = learner()
    learn.data.valid_dl = Stream()
    learn.fit(
        2,
        cbs=[TorchScheduler(partial(lr_scheduler.ReduceLROnPlateau, patience=0), interval="epoch")],
    )


class SkipEpoch(Callback):
    def after_step(self):
        raise CancelEpochException


class StopFit(Callback):
    def after_step(self):
        raise CancelFitException


@pytest.mark.parametrize("stop, steps", [(SkipEpoch, 2), (StopFit, 0)])
def test_stepped_after_whole_epochs(stop, steps):
    for make, expected in (
        (EVERY["exponential"], steps),
        (partial(lr_scheduler.ReduceLROnPlateau, patience=0), 0),
    ):
        cb, learn = TorchScheduler(make, interval="epoch"), learner()
        learn.fit(2, cbs=[cb, stop()])
        # What was not measured has no plateau.
        assert cb.scheduler.last_epoch == expected


def test_the_interval_must_be_said():
    with pytest.raises(ValueError, match="'step' or 'epoch'"):
        TorchScheduler(EVERY["step"], interval="batch")
    with pytest.raises(TypeError):
        TorchScheduler(EVERY["step"])


# --- stopped and resumed --------------------------------------------------------------------------


class PowerCut(Callback):
    def __init__(self, epoch, step):
        self.at = epoch, step

    def before_step(self):
        if (self.learn.epoch, self.learn.step) == self.at:
            raise ZeroDivisionError("the power is cut")


KINDS = {
    "param": lambda: [
        ParamScheduler("lr", sched_cos(0.2, 0)),
        ParamScheduler("momentum", sched_lin(0.95, 0.5)),
    ],
    "one cycle": lambda: one_cycle(0.2),
    "scaled": lambda: [ParamScheduler("lr", sched_cos(1, 0.1), scale=True)],
    "SGDR": lambda: [SGDR(0.2, cycle_mult=2)],
    "plateau": lambda: [
        TorchScheduler(
            partial(lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.5, threshold=1e9),
            interval="epoch",
        )
    ],
    **{
        f"torch {name}, {interval}": partial(
            lambda make, interval: [TorchScheduler(make, interval=interval)], make, interval
        )
        for name, make in EVERY.items()
        for interval in ("step", "epoch")
    },
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("cut", [(1, 0), (3, 4)])
def test_resumed_in_every_bit(kind, cut, tmp_path):
    runs = []
    for cbs, seed in (
        ((), 0),
        ((Checkpoint(tmp_path / "run"), PowerCut(*cut)), 0),
        ((Checkpoint(tmp_path / "run"),), 5),
    ):
        learn, mine = learner(seed=seed), kind()
        try:
            learn.fit(7, cbs=[*mine, *cbs, listen := Listen()])
        except ZeroDivisionError:
            continue
        runs.append((learn, listen, mine))
    (whole, every, one), (resumed, rest, other) = runs
    assert len(rest.heard) == 6 * (7 - cut[0])
    assert rest.heard == every.heard[6 * cut[0] :]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
        )
    )
    if isinstance(one[0], SGDR):
        assert len(one[0].snapshots) == len(other[0].snapshots) == 3
        assert all(
            torch.equal(a[k], b[k])
            for a, b in zip(one[0].snapshots, other[0].snapshots, strict=True)
            for k in a
        )


def test_resumed_with_another_length(tmp_path):
    for n_epochs in (3, 5, 3):
        learn = learner()
        try:
            learn.fit(
                n_epochs,
                cbs=[ParamScheduler("lr", sched_cos(0.2, 0)), Checkpoint(tmp_path / "run")]
                + [PowerCut(1, 2)] * (not (tmp_path / "run").exists()),
            )
        except ZeroDivisionError:
            pass
        except ValueError as error:
            assert n_epochs == 5
            assert "over 3 epochs" in str(error)
            assert "fit(3)" in str(error)
        else:
            assert n_epochs == 3
    for n_epochs in (1, 3):  # restarts are the same in a longer training
        learn = learner()
        learn.fit(
            n_epochs,
            cbs=[
                cb := SGDR(0.2, cycle_mult=2),
                Checkpoint(tmp_path / "cycles"),
                listen := Listen(),
            ],
        )
    assert len(cb.snapshots) == 2
    assert len(listen.heard) == 12
    assert listen.of("lr")[0] == 0.2


# --- SGDR -----------------------------------------------------------------------------------------


class Keep(Callback):
    order = -5

    def before_fit(self):
        self.states = []

    def after_epoch(self):
        self.states.append({k: v.clone() for k, v in self.learn.model.state_dict().items()})


@pytest.mark.parametrize("to_files", [False, True])
def test_snapshots(to_files, tmp_path):
    learn, cb, keep = (
        learner(),
        SGDR(0.2, cycle_mult=2, folder=tmp_path / "new" / "folder" if to_files else None),
        Keep(),
    )
    learn.fit(7, cbs=[cb, keep])
    snapshots = [load(path) for path in cb.snapshots] if to_files else cb.snapshots
    assert cb.ends == [1, 3, 7]
    assert len(snapshots) == 3
    for state, epoch in zip(snapshots, cb.ends, strict=True):
        assert all(torch.equal(state[k], v) for k, v in keep.states[epoch - 1].items())
        learn.model.load_state_dict(state)  # usable
    if to_files:
        assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
            "cycle-1.safetensors",
            "cycle-2.safetensors",
            "cycle-3.safetensors",
        ]
    learn.fit(3, cbs=[cb])
    assert len(cb.snapshots) == 2


def test_snapshots_in_a_folder_are_resumed(tmp_path):
    for cut in (True, False):
        learn, cb = learner(), SGDR(2.0, cycle_mult=2, folder=tmp_path / "cycles", scale=True)
        try:
            learn.fit(
                3,
                cbs=[cb, Checkpoint(tmp_path / "run"), listen := Listen()] + [PowerCut(1, 2)] * cut,
            )
        except ZeroDivisionError:
            assert listen.of("lr")[0] == listen.of("lr")[6] == 0.2
    assert cb.snapshots == [str(tmp_path / "cycles" / f"cycle-{k}.safetensors") for k in (1, 2)]
    assert all(
        torch.equal(load(cb.snapshots[1])[k], v) for k, v in learn.model.state_dict().items()
    )


def test_no_epochs_no_cycles():
    learn, cb = learner(), SGDR(0.1)
    learn.fit(0, cbs=[cb])
    assert cb.snapshots == []


def test_snapshots_are_copies():
    learn, cb = learner(), SGDR(0.2)
    learn.fit(2, cbs=[cb])
    first, second = ({k: v.clone() for k, v in state.items()} for state in cb.snapshots)
    assert any(not torch.equal(first[k], second[k]) for k in first)
    with torch.no_grad():
        learn.model[0].weight.zero_()
    assert torch.equal(cb.snapshots[1]["0.weight"], second["0.weight"])
    assert not torch.equal(second["0.weight"], learn.model[0].weight)


@pytest.mark.parametrize(
    "error, count", [(CancelFitException, 1), (ZeroDivisionError, 1), (CancelEpochException, 2)]
)
def test_no_snapshot_of_a_broken_cycle(error, count):
    class Stop(Callback):
        def before_step(self):
            if (self.learn.epoch, self.learn.step) == (1, 3):
                raise error

    learn, cb = learner(), SGDR(0.2)
    try:
        learn.fit(2, cbs=[cb, Stop()])
    except ZeroDivisionError:
        pass
    assert len(cb.snapshots) == count


@pytest.mark.parametrize(
    "options, n_epochs, message",
    [
        (dict(cycle_mult=2), 5, "1, 3, 7 epochs"),
        (dict(cycle_len=3), 4, "3, 6 epochs"),
        (dict(cycle_len=3), 2, "after 3 epochs"),
        (dict(cycle_len=2, cycle_mult=3), 3, "2, 8"),
    ],
)
def test_a_cut_cycle_is_refused(options, n_epochs, message):
    learn = learner()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        learn.fit(n_epochs, cbs=[SGDR(0.1, **options)])
    assert all(torch.equal(before[k], v) for k, v in learn.model.state_dict().items())


@pytest.mark.parametrize(
    "options", [dict(cycle_len=0), dict(cycle_mult=0), dict(cycle_mult=1.5), dict(cycle_len=-1)]
)
def test_cycles_are_whole(options):
    with pytest.raises(ValueError, match="whole numbers above 0"):
        SGDR(0.1, **options)


# --- the range test -------------------------------------------------------------------------------


def as_loader(kind):
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    data, generator = TensorDataset(x, x[:, :1]), torch.Generator().manual_seed(4)
    return {
        "shuffle": lambda: DataLoader(data, 4, shuffle=True, generator=generator),
        "global": lambda: DataLoader(data, 4, shuffle=True),
        "sampler": lambda: DataLoader(data, 4, sampler=RandomSampler(data, generator=generator)),
        "whole batches": lambda: DataLoader(
            data,
            batch_size=None,
            sampler=BatchSampler(RandomSampler(data, generator=generator), 4, False),
        ),
        "batch sampler": lambda: DataLoader(
            data, batch_sampler=BatchSampler(RandomSampler(data, generator=generator), 4, False)
        ),
        "list": lambda: list(zip(x.split(4), x[:, :1].split(4), strict=True)),
    }[kind]()


class Noise(nn.Module):
    """Draws from everything, and exchanges a buffer instead of changing it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("transient", torch.zeros(3), persistent=False)
        self.register_buffer("empty", None)

    def forward(self, x):
        self.seen, self.transient, self.empty = (
            self.seen + x.detach().sum(0),
            self.transient + 1,
            torch.ones(1),
        )
        return x + 0.01 * (torch.rand(()) + np.random.rand() + random.random())


def everything(learn):
    model, loader = learn.model, learn.data.train_dl
    sampler, batch_sampler = (
        getattr(loader, "sampler", None),
        getattr(loader, "batch_sampler", None),
    )
    generators = [
        g
        for part in (
            loader,
            sampler,
            batch_sampler,
            getattr(sampler, "sampler", None),
            getattr(batch_sampler, "sampler", None),
        )
        if isinstance(g := getattr(part, "generator", None), torch.Generator)
    ]
    tensors = [
        *model.parameters(),
        *model.buffers(),
        *(p.grad for p in model.parameters() if p.grad is not None),
        torch.get_rng_state(),
        *(g.get_state() for g in generators),
    ]
    optimizer = (
        []
        if learn.opt is None
        else [t for state in learn.opt.state_dict()["state"].values() for t in state.values()]
    )
    return [t.detach().clone() for t in tensors + optimizer], [
        str(np.random.get_state()),
        str(random.getstate()),
        [m.training for m in model.modules()],
        [id(p) for p in model.parameters()],
        list(model.state_dict()),
    ]


def same(before, after):
    return (
        len(before[0]) == len(after[0])
        and all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
        and before[1] == after[1]
    )


def noisy(kind="shuffle", opt=Adam):
    torch.manual_seed(0)
    net = nn.Sequential(
        Noise(), nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )
    net[2].weight.data.uniform_(0.5, 1.5)
    return Learner(
        net, DataBunch(as_loader(kind)), nn.functional.mse_loss, opt, lr=0.01, default_cbs=False
    )


class Raises(Callback):
    def __init__(self, error, event, at=3):
        self.error, self.at, self.calls = error, at, 0
        setattr(self, event, self.count)

    def count(self):
        self.calls += 1
        if self.calls == self.at:
            raise self.error


def test_the_range_test_takes_no_checkpoint(tmp_path):
    learn = Learner(
        nn.Linear(3, 2), [(torch.randn(4, 3), torch.zeros(4).long())], nn.CrossEntropyLoss()
    )
    with pytest.raises(ValueError, match="the file of a Checkpoint would stay"):
        LRFinder(steps=3).run(learn, cbs=[Checkpoint(tmp_path / "run.pt")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kind", ["shuffle", "global", "sampler", "whole batches", "batch sampler", "list"]
)
@pytest.mark.parametrize("trained, gradients", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_the_range_test_leaves_no_trace(kind, trained, gradients, error):
    learn = noisy(kind)
    if trained:
        learn.fit(2)
    if gradients:
        for p in learn.model.parameters():
            p.grad = torch.randn(p.shape)
    learn.model[3].eval()
    before, opt, cbs = everything(learn), learn.opt, learn.cbs
    finder = LRFinder(max_lr=0.1, steps=20, early_stop_threshold=math.inf)
    if error is ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            finder.run(learn, cbs=[Raises(error, "before_step")])
    else:
        finder.run(learn, cbs=[Raises(error, "before_step")] if error else ())
    assert same(before, everything(learn))
    assert learn.opt is opt
    assert learn.cbs == cbs
    assert len(finder.lrs) == (3 if error else 20)


def test_the_comparison_can_fail():
    learn = noisy()
    for change in (
        lambda: torch.rand(1),
        lambda: np.random.rand(),
        lambda: random.random(),
        lambda: next(iter(learn.data.train_dl)),
        lambda: learn.model[1].weight.data.mul_(2),
        lambda: learn.model[0].seen.add_(1),
        lambda: learn.model.eval(),
        lambda: learn.model(torch.ones(2, 3)),
    ):
        before = everything(learn)
        change()
        assert not same(before, everything(learn))


def test_training_goes_on_as_if_nothing_had_happened():
    ends = []
    for look in (False, True):
        learn = noisy()
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        for _ in range(2):
            if look:
                LRFinder(steps=15).run(learn)
            learn.fit(1)
        ends.append(everything(learn))
        ends[-1][1][3] = None  # two models: other objects
    assert same(*ends)


def test_untouched_by_itself():
    learn = noisy()
    learn.fit(1)
    before = everything(learn)
    with pytest.raises(KeyError), preserve_state(learn.model, learn.data):
        with torch.no_grad():
            learn.model[1].weight.fill_(math.nan)
        learn.model.eval()
        random.random()
        raise KeyError
    assert same(before, everything(learn))


def test_the_sweep():
    learn = noisy(opt=partial(SGD, momentum=0.9))
    finder = LRFinder(1e-3, 1.0, steps=13, early_stop_threshold=math.inf).run(learn)
    assert finder.lrs == pytest.approx([10 ** (-3 + k / 4) for k in range(13)])
    assert finder.lrs[-1] == 1.0
    average, expected = 0.0, []
    for k, loss in enumerate(finder.losses, 1):
        average = 0.9 * average + 0.1 * loss
        expected.append(average / (1 - 0.9**k))
    assert finder.averages == pytest.approx(expected)
    assert finder.lrs == finder.run(learn).lrs  # again, from the beginning


def falls(loss=nn.functional.mse_loss):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return Learner(
        nn.Linear(3, 1), DataBunch([(x, x[:, :1] + 5)]), loss, SGD, lr=0.1, default_cbs=False
    )


@pytest.mark.parametrize("shift", [0.0, -50.0])
def test_the_suggestion(shift):
    finder = LRFinder(steps=60).run(falls(lambda pred, y: nn.functional.mse_loss(pred, y) + shift))
    low = finder.averages.index(min(finder.averages))
    assert 0 < low < len(finder.lrs) - 1
    assert finder.suggestion == finder.lrs[low] / 2
    assert len(finder.lrs) < 60
    assert finder.averages[-1] - min(finder.averages) > 3 * abs(min(finder.averages))


@pytest.mark.parametrize(
    "finder, loss, message",
    [
        (LRFinder(1e-6, 1e-3), nn.functional.mse_loss, "raise max_lr"),
        (LRFinder(5.0, 50.0), nn.functional.mse_loss, "lower min_lr"),
        (LRFinder(), lambda pred, y: (pred - y).square().mean() * math.nan, "first loss is nan"),
        (LRFinder(), lambda pred, y: (pred - y).square().mean() * math.inf, "first loss is inf"),
    ],
)
def test_nothing_to_suggest(finder, loss, message):
    finder.run(falls(loss))
    with pytest.raises(ValueError, match=message):
        _ = finder.suggestion
    assert len(finder.plot().fig.axes[0].lines) == 1  # the curve without a suggestion


def test_it_is_no_callback_of_fit():
    learn = falls()
    before = learn.model.weight.clone()
    finder = LRFinder()
    for _ in range(2):
        with pytest.raises(ValueError, match="started by run"):
            learn.fit(1, cbs=[finder])
        finder.run(learn)
    assert torch.equal(learn.model.weight, before)


def test_nothing_is_left_behind():
    learn, clip = falls(), GradientClip(1.0)
    learn.fit(0, cbs=[clip])
    finder = LRFinder().run(learn, cbs=[clip])
    assert finder.learn is None
    assert clip.learn is learn
    with pytest.raises(ZeroDivisionError):
        finder.run(learn, cbs=[clip, Raises(ZeroDivisionError, "before_step")])
    assert finder.learn is None
    assert clip.learn is learn
    with pytest.raises(ValueError, match="started by run"):
        learn.fit(1, cbs=[finder])
    plain = LRFinder(steps=5).run(learn).losses
    for p in learn.model.parameters():
        p.grad = torch.full_like(p, 1e6)
    assert LRFinder(steps=5).run(learn).losses == plain


def test_an_interrupted_test_puts_everything_back(capsys):
    learn = falls()
    before = learn.model.weight.clone()
    LRFinder().run(learn, cbs=[Raises(KeyboardInterrupt, "before_step")])
    assert "stopped by Ctrl-C" in capsys.readouterr().out
    assert torch.equal(learn.model.weight, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, CancelFitException, ZeroDivisionError])
def test_a_test_that_was_cut_off_suggests_nothing(error):
    finder = LRFinder(steps=60)
    with contextlib.suppress(ZeroDivisionError):
        finder.run(falls(), cbs=[Raises(error, "before_step", at=56)])
    low = finder.averages.index(min(finder.averages))
    assert 0 < low < 55  # without the check there would be a suggestion
    with pytest.raises(ValueError, match="56 of 60 steps were done: call run"):
        _ = finder.suggestion
    assert len(finder.plot().fig.axes[0].lines) == 1  # the curve without a suggestion
    assert finder.run(falls()).suggestion > 0


class Late(nn.Module):
    """Makes a buffer in its first forward."""

    def forward(self, x):
        if not hasattr(self, "first"):
            self.register_buffer("first", x.detach().mean(0))
        return x - self.first


class Counting(nn.MSELoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, pred, y):
        self.calls += 1
        return super().forward(pred, y)


def test_new_buffers_and_those_of_the_loss():
    learn = falls(loss := Counting())
    learn.model = nn.Sequential(Late(), learn.model)
    names = list(learn.model.state_dict())
    LRFinder().run(learn)
    assert list(learn.model.state_dict()) == names
    assert loss.calls == 0
    learn.fit(1)
    assert torch.equal(learn.model[0].first, learn.data.train_dl[0][0].mean(0))
    assert loss.calls == 1


def test_lazy_layers_are_refused():
    learn = falls()
    learn.model = nn.LazyLinear(1)
    with pytest.raises(ValueError, match="lazy layers.*call the model on a batch"):
        LRFinder().run(learn)


def test_it_stops_at_the_cliff_and_at_nan():
    learn = Learner(
        nn.Linear(3, 1),
        DataBunch(
            [(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.ones(4, 1))]
        ),
        nn.functional.mse_loss,
        lr=0.1,
        default_cbs=False,
    )
    finder = LRFinder(1e-2, 1e6, steps=100).run(learn)
    assert len(finder.lrs) < 100
    assert finder.averages[-1] > 4 * min(finder.averages)
    assert all(a <= 4 * min(finder.averages[: k + 1]) for k, a in enumerate(finder.averages[:-1]))
    learn.loss_func = lambda pred, y: (pred - y).square().mean() * math.nan
    assert len(LRFinder().run(learn).lrs) == 1


def test_a_loss_that_stays_zero_is_no_cliff():
    assert (
        len(LRFinder(steps=5).run(falls(lambda pred, y: 0 * (pred - y).square().mean())).lrs) == 5
    )


def test_it_takes_callbacks_of_training_only():
    learn = noisy()
    learn.cbs = [recorder := Recorder()]
    clip = GradientClip(1e-12)
    finder = LRFinder(steps=20, max_lr=100.0).run(learn, cbs=[clip])
    assert not hasattr(recorder, "losses")
    assert len(finder.lrs) == 20


@pytest.mark.parametrize(
    "wrong", [lambda: LRFinder(steps=1), lambda: LRFinder(0.0, 1.0), lambda: LRFinder().suggestion]
)
def test_finder_refuses(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_the_plot():
    finder = LRFinder(steps=20).run(noisy())
    ax = finder.plot().fig.axes[0]
    assert ax.get_xscale() == "log"
    assert list(ax.lines[0].get_xdata()) == finder.lrs
    assert list(ax.lines[0].get_ydata()) == finder.averages


# --- the checks of the exercises ------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [None, 3, "abc", [1, 2], [], [0.5, 0.6], [0.5, 0.5, 0.0], [float("nan"), 0.5]],
    ids=str,
)
def test_fractions_that_are_no_answer(answer):
    assert not exercises.ex_5a_4.judge(answer).passed


def test_other_answers_that_are_right():
    assert exercises.ex_5a_4.judge([0.01, 0.05, 0.94]).passed
    assert exercises.ex_5a_3.judge(
        lambda pos, f: next(
            (i, (pos - sum(f[:i])) / f[i]) for i in reversed(range(len(f))) if pos >= sum(f[:i])
        )
    ).passed


def test_the_range_test_takes_callbacks_of_any_iterable():
    learn = Learner(
        nn.Linear(3, 2), [(torch.ones(4, 3), torch.zeros(4).long())], nn.CrossEntropyLoss()
    )
    seen = []

    class Look(Callback):
        def after_step(self):
            seen.append(1)

    LRFinder(steps=3).run(learn, cbs=(cb for cb in [Look()]))
    assert len(seen) > 1
    with pytest.raises(TypeError, match="cbs expected a list"):
        LRFinder(steps=3).run(learn, cbs=Look())


def test_whole_numbers_of_numpy():
    assert LRFinder(steps=np.int64(20)).steps == 20
    SGDR(0.1, cycle_len=np.int64(2), cycle_mult=np.int32(2))
    for wrong in (True, np.float64(20)):
        with pytest.raises(ValueError, match="LRFinder"):
            LRFinder(steps=wrong)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_scheduler_leaves_a_tensor_of_the_user_as_it_was(interval):
    lr = torch.tensor(0.5)
    halves = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    recorder = Recorder()
    scheduler = TorchScheduler(halves, interval=interval)
    learn = learner(torch.optim.SGD, lr, batches=2, cbs=[scheduler, recorder])
    for _ in range(2):
        learn.fit(2)
        fast = interval == "step"
        assert recorder.lrs == ([0.5, 0.25, 0.125, 0.0625] if fast else [0.5, 0.5, 0.25, 0.25])
    assert lr.item() == 0.5
