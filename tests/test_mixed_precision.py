"""Chapter 10b: formats against torch over all patterns, scaling against torch.amp, and a callback.

A loop written by hand with `torch.autocast` and `GradScaler` is what the callback must equal.
"""

import inspect
import math
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fromfound import mixed_precision
from fromfound.callback import EVENTS, Callback, CancelStepException
from fromfound.experiments import mixed_precision as experiments
from fromfound.learner import Checkpoint, GradientClip, Learner, TerminateOnNaN
from fromfound.mixed_precision import (
    FORMATS,
    FloatFormat,
    LossScaler,
    MixedPrecision,
    stochastic_round,
    to_bfloat16,
)
from fromfound.schedule import ParamScheduler, sched_lin
from fromfound.training import DataBunch
from tests.toys import BATCHES, X, net, same, seeded

NARROW = torch.float16, torch.bfloat16
both_dtypes = pytest.mark.parametrize("dtype", NARROW, ids=str)
short_formats = pytest.mark.parametrize("name", list(FORMATS)[1:])
PATTERNS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


def equal(a, b):
    """Whether numbers are the same, nan beside nan, and zeros of the same sign."""
    a, b = a.double(), b.double()
    return bool((((a == b) & (a.signbit() == b.signbit())) | (a.isnan() & b.isnan())).all())


def numbers(patterns):
    """float32 numbers of given patterns."""
    signed = [bits - 2**32 if bits >= 2**31 else bits for bits in patterns]
    return torch.tensor(signed, dtype=torch.int32).view(torch.float32)


# --- formats --------------------------------------------------------------------------------------


@short_formats
def test_every_pattern_is_read_as_torch_reads_it(name):
    dtype = getattr(torch, name)
    bits = torch.finfo(dtype).bits
    patterns = torch.arange(2**bits)
    theirs = patterns.to(torch.int16 if bits == 16 else torch.uint8).view(dtype).float()
    assert equal(FORMATS[name].decode(patterns), theirs)


@given(PATTERNS)
@example([0, 1, 0x80000000, 0x7F800000, 0x7F800001, 0xFFFFFFFF, 0x00800000, 0x007FFFFF])
def test_patterns_of_float32(patterns):
    got = FORMATS["float32"].decode(torch.tensor(patterns, dtype=torch.int64))
    assert equal(got, numbers(patterns))


@pytest.mark.parametrize("name", list(FORMATS))
def test_limits(name):
    kind, limits = FORMATS[name], torch.finfo(getattr(torch, name))
    assert kind.largest == limits.max
    assert kind.smallest_normal == limits.smallest_normal
    assert kind.gap == limits.eps
    assert kind.smallest == kind.decode(torch.tensor(1)).item()


def test_a_format_of_four_bits():
    kind = FloatFormat(2, 1, infinities=False)
    assert kind.decode(torch.arange(8)).tolist()[:7] == [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    assert kind.decode(torch.tensor(7)).isnan()
    assert kind.largest == 4
    assert kind.decode(torch.arange(16).view(2, 8)).shape == (2, 8)


# --- rounding -------------------------------------------------------------------------------------


@given(PATTERNS)
@example([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF7F8000, 0x7FFFFFFF, 0x7F800001])
@example([0x00008000, 0x00018000, 0x80008000, 0x007FFFFF, 0xFF800000])
def test_rounding_is_torchs(patterns):
    x = numbers(patterns)
    assert to_bfloat16(x).dtype == torch.bfloat16
    assert equal(to_bfloat16(x), x.bfloat16())


@given(PATTERNS, st.integers(0, 2**31))
def test_random_rounding_gives_a_neighbor(patterns, seed):
    x = numbers(patterns)
    got = stochastic_round(x, seeded(seed))
    down = (x.view(torch.int32).long() & 0xFFFFFFFF) >> 16 << 16
    lower = FORMATS["float32"].decode(down)
    upper = FORMATS["float32"].decode(down + 2**16)  # away from zero
    exact = lower == x.double()
    fine = torch.where(exact, got.double() == lower, (got == lower) | (got == upper))
    assert bool((fine | ~x.isfinite()).all())
    assert equal(got[~x.isfinite()], x[~x.isfinite()])


@pytest.mark.parametrize("value", [1.001, -1.001, 3e-39, 1e30, 1.0 + 2**-9])
def test_random_rounding_is_right_on_average(value):
    x = torch.full((40_000,), value)
    got = stochastic_round(x, seeded()).double()
    assert abs(got.mean() - x[0].double()) < 4.5 * got.std() / math.sqrt(len(x))
    assert got.unique().numel() == 2


def test_random_rounding_takes_its_generator():
    x = torch.randn(1000, generator=seeded())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = (stochastic_round(x, seeded(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, stochastic_round(x, seeded(4)))


def test_bits_as_pytorch_hands_them_out():
    x = torch.tensor([-1.0, 1.5, -3.0, 0.0, -0.0, 65504.0])
    for name in ("float16", "bfloat16", "float32"):
        numbers = x.to(getattr(torch, name))
        bits = numbers.view(torch.int32 if name == "float32" else torch.int16)
        assert equal(FORMATS[name].decode(bits).float(), numbers.float())
    assert FloatFormat(9, 6).decode(torch.tensor([200 << 6])).item() == 2.0 ** (200 - 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("rounding", [to_bfloat16, stochastic_round])
def test_rounding_takes_float32_only(rounding, dtype):
    for shape in ((3,), ()):
        with pytest.raises(TypeError, match="expected float32"):
            rounding(torch.ones(shape).to(dtype))


@pytest.mark.parametrize("rounding", [to_bfloat16, stochastic_round])
def test_rounding_of_all_kinds_of_tensors(rounding):
    turned = torch.randn(4, 6, generator=seeded()).T
    assert rounding(turned).shape == (6, 4)
    assert (rounding(turned).float() - turned).abs().max() < 0.03
    assert rounding(torch.empty(0, 3)).shape == (0, 3)
    assert rounding(torch.tensor(2.5)).item() == 2.5
    assert rounding(nn.Parameter(torch.ones(2))).tolist() == [1, 1]
    with pytest.raises(TypeError, match="expected float32, got torch.float64"):
        rounding(torch.ones(2, dtype=torch.float64))


# --- the scaler -----------------------------------------------------------------------------------


def path_of(scaler_type, bads, **options):
    """Scales of ours and of torch's over steps of which some are bad, and answers of ours."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2)), nn.Parameter(X[0])]
    opt = torch.optim.SGD(weights[:2], lr=0.125)
    theirs = torch.amp.GradScaler("cpu", **options)
    ours = scaler_type(**options)
    twins = [nn.Parameter(w.detach().clone()) for w in weights]
    own = torch.optim.SGD(twins[:2], lr=0.125)
    found = []
    for i, bad in enumerate(bads):
        loss = torch.tensor(1.5)
        assert theirs.scale(loss) == ours.scaled(loss)
        for params in (weights, twins):
            for k, p in enumerate(params[:2]):
                p.grad = torch.full_like(p, 1.0 + i)
                if bad is not None and k == i % 2:
                    p.grad.flatten()[-1] = bad
        theirs.unscale_(opt)
        theirs.step(opt)
        theirs.update()
        finite = ours.unscale_(twins)
        if finite:
            own.step()
            assert all(
                torch.equal(a.grad, b.grad) for a, b in zip(weights[:2], twins, strict=False)
            )
        ours.update(finite)
        found.append((theirs.get_scale(), ours.scale, finite, bad is None))
        found.append((theirs._get_growth_tracker(), ours.growth_tracker, finite, bad is None))
        assert all(torch.equal(a, b) for a, b in zip(weights, twins, strict=True))
    return found


BADS = st.lists(st.sampled_from([None, None, None, math.inf, -math.inf, math.nan]), max_size=25)


@given(BADS, st.integers(1, 4), st.sampled_from([2.0, 4.0]), st.sampled_from([0.5, 0.25]))
@example([math.inf] * 3, 2, 2.0, 0.5)
@example([None, math.nan, None, None, None], 2, 4.0, 0.25)
def test_the_scaler_is_torchs(bads, interval, growth, backoff):
    options = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": interval}
    for theirs, ours, finite, good in path_of(LossScaler, bads, init_scale=1024.0, **options):
        assert theirs == ours
        assert finite == good


def test_the_scale_stays_a_number():
    for theirs, ours, _, _ in path_of(
        LossScaler, [None] * 6, init_scale=2.0**125, growth_interval=1, growth_factor=2.0
    ):
        assert theirs == ours < math.inf


def test_scaling_is_in_32_bits():
    loss = torch.tensor(2.0, dtype=torch.float16)
    assert LossScaler().scaled(loss).item() == 2.0**17
    assert LossScaler().scaled(loss.double()).dtype == torch.float64


def test_gradients_of_several_kinds():
    params = [nn.Parameter(torch.ones(2, dtype=d)) for d in (torch.float32, torch.float64)]
    params += [nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(2))]
    for p in params[:3]:
        p.grad = torch.full_like(p, 8.0)
    assert LossScaler(4.0).unscale_(iter(params)) is True
    assert [p.grad.tolist() for p in params[:3]] == [[2, 2], [2, 2], []]
    assert params[3].grad is None
    assert LossScaler().unscale_([]) is True
    large = nn.Parameter(torch.ones(2))
    large.grad = torch.full((2,), 1e30)  # whose squares overflow
    assert LossScaler().unscale_([large]) is True


def test_gradients_that_are_refused():
    half = nn.Parameter(torch.ones(2).half())
    half.grad = torch.ones(2).half()
    with pytest.raises(TypeError, match=r"32 bits, got torch.strided of torch.float16"):
        LossScaler().unscale_([half])
    words = nn.Embedding(4, 2, sparse=True)
    words(torch.tensor([1])).backward(torch.randn(1, 2))
    with pytest.raises(TypeError, match=r"dense gradients of 32 bits, got torch.sparse_coo"):
        LossScaler().unscale_(words.parameters())


class Waits(TorchDispatchMode):
    """Counts how often the CPU asks for a number."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("n", [1, 3, 60])
def test_one_wait_whatever_the_number_of_parameters(n):
    params = [nn.Parameter(torch.ones(2)) for _ in range(n)]
    for p in params:
        p.grad = torch.ones(2)
    with Waits() as waits:
        LossScaler().unscale_(params)
    assert waits.count == 1


@pytest.mark.parametrize("layers", [1, 12])
@both_dtypes
def test_waits_of_a_fit(layers, dtype):
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(layers)))
    learn = learner([MixedPrecision(dtype)], model=model)
    with Waits() as waits:
        learn.fit(1)
    end = 1  # the results of the epoch
    assert waits.count - end <= len(BATCHES) * (dtype == torch.float16)
    assert waits.count >= len(BATCHES) * (dtype == torch.float16)


# --- the callback beside a loop by hand -----------------------------------------------------------


def learner(cbs=(), valid=None, model=None, loss=F.cross_entropy, **options):
    data = DataBunch(options.pop("train", BATCHES), valid)
    options = {"lr": 0.1, "default_cbs": False} | options
    return Learner(net(dropout=0) if model is None else model, data, loss, cbs=cbs, **options)


def by_hand(dtype, epochs, opt_func, max_norm=None, **options):
    """A model trained as PyTorch's manual says, and the scaler."""
    model = net(dropout=0)
    opt = opt_func(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, **options)
    for _ in range(epochs):
        for xb, yb in BATCHES:
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(xb), yb)
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            if max_norm:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
    return model, scaler


def agrees(dtype, opt_func=torch.optim.SGD, max_norm=None, module=mixed_precision, **options):
    """Whether 21 steps, with overflows in the middle, lead to the weights of the loop by hand."""
    options = {"growth_interval": 2} | options
    mixed = module.MixedPrecision(dtype, **options)
    cbs = [TerminateOnNaN(), *([GradientClip(max_norm)] if max_norm else []), mixed]
    learn = learner(cbs, opt_func=opt_func)
    learn.fit(3)
    model, scaler = by_hand(dtype, 3, opt_func, max_norm, **options)
    if dtype == torch.float16 and mixed.scaler.scale != scaler.get_scale():
        return False
    return (
        same(learn.model, model)
        and learn.epoch == 3
        and (mixed.skipped > 0) == (dtype == torch.float16)
        and not torch.is_autocast_enabled("cpu")
    )


@both_dtypes
@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("max_norm", [None, 0.05])
def test_it_equals_a_loop_by_hand(dtype, opt_func, max_norm):
    assert agrees(dtype, opt_func, max_norm)


def test_several_fits_begin_with_the_first_scale():
    mixed = MixedPrecision(torch.float16, growth_interval=2)
    learn = learner([mixed])
    learn.fit(2)
    assert mixed.scaler.scale != mixed.scaler.init_scale
    learn.model = net(dropout=0)
    learn.fit(3)
    assert same(learn.model, by_hand(torch.float16, 3, torch.optim.SGD, growth_interval=2)[0])


def test_the_scale_does_not_matter_to_a_clip():
    models = []
    for init_scale in (2.0**4, 2.0**10):
        learn = learner([GradientClip(0.05), MixedPrecision(torch.float16, init_scale=init_scale)])
        learn.fit(1)
        models.append(learn.model)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


class Sees(Callback):
    """Notes what other callbacks see at each event, in training and validation."""

    def __init__(self):
        self.seen = {}

    def see(self, event):
        learn = self.learn
        grads = [p.grad for p in learn.model.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm().item() if grads else None
        loss = None if learn.loss is None else learn.loss.item()
        auto = torch.is_autocast_enabled("cpu")
        self.seen[event, learn.training] = {"auto": auto, "loss": loss, "norm": norm}


for _event in EVENTS[2:10]:
    setattr(Sees, _event, lambda self, _event=_event: self.see(_event))


def near(a, b):
    """Whether two numbers are the same but for 16 bits, or both are missing."""
    return a is b or (None not in (a, b) and a == pytest.approx(b, rel=0.05))


@both_dtypes
def test_what_others_see(dtype):
    sees, recorder = Sees(), Sees()
    learn = learner([sees, MixedPrecision(dtype)], valid=BATCHES[:1], train=BATCHES[:1])
    learn.fit(1)
    plain = learner([recorder], valid=BATCHES[:1], train=BATCHES[:1])
    plain.fit(1)
    for key, found in sees.seen.items():
        event, training = key
        assert found["auto"] == (event == "after_pred"), key
        expected = recorder.seen[key]
        if event != "before_backward" or dtype == torch.bfloat16:
            assert near(found["loss"], expected["loss"]), key
        elif training:
            assert near(found["loss"], 2.0**16 * expected["loss"])
        assert near(found["norm"], expected["norm"]), key
    assert learn.results["train_loss"] == pytest.approx(plain.results["train_loss"], rel=0.02)
    assert learn.results["valid_loss"] == pytest.approx(plain.results["valid_loss"], rel=0.02)


class Asks(nn.Module):
    """A network that notes whether autocast is on, and returns several things."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 2)
        self.asked = []

    def forward(self, x):
        self.asked.append(torch.is_autocast_enabled("cpu"))
        y = self.lin(x)
        return {"y": (y, [y.half(), y.double()]), "name": "y", "n": torch.tensor(3)}


@both_dtypes
def test_predictions_of_all_kinds_are_in_32_bits(dtype):
    seen = []

    def loss(pred, target):
        seen.append(pred)
        return F.cross_entropy(pred["y"][0], target)

    model = Asks()
    learner([MixedPrecision(dtype)], model=model, loss=loss, train=BATCHES[:1]).fit(1)
    first, (second, third) = seen[0]["y"]
    assert (first.dtype, second.dtype, third.dtype) == (*[torch.float32] * 2, torch.float64)
    assert seen[0]["name"] == "y"
    assert seen[0]["n"].dtype == torch.int64
    assert model.asked == [True]


@both_dtypes
def test_outside_of_a_fit(dtype):
    learn = learner([MixedPrecision(dtype)], valid=BATCHES)
    exact = learner(valid=BATCHES)
    assert learn.validate()["valid_loss"] == pytest.approx(exact.validate()["valid_loss"], rel=0.02)
    preds, _ = learn.get_preds()
    assert preds.dtype == learn.predict(X[:5]).dtype == torch.float32
    assert not torch.equal(preds, exact.get_preds()[0])  # 16 bits were used
    torch.testing.assert_close(preds, exact.get_preds()[0], rtol=0.02, atol=0.02)
    assert clean(learn)


def test_metrics_are_computed_in_32_bits():
    seen = []

    def metric(pred, target):
        seen.append((pred.dtype, (pred.T @ pred).dtype))
        return pred.mean()

    learner([MixedPrecision()], valid=BATCHES[:1], metrics=[metric]).fit(1)
    assert seen == [(torch.float32, torch.float32)]


# --- together with others -------------------------------------------------------------------------


class Accumulate(Callback):
    """Steps at every k-th batch, with the mean of the gradients (exercise 5.2)."""

    def __init__(self, k):
        self.k = k

    def before_epoch(self):
        self.held = {}

    def before_step(self):
        for p in self.learn.model.parameters():
            self.held[p] = self.held.get(p, 0) + p.grad
        if (self.learn.step + 1) % self.k:
            raise CancelStepException
        for p, total in self.held.items():
            p.grad = total / self.k
        self.held = {}


@both_dtypes
def test_accumulation(dtype):
    learn = learner([Accumulate(3), MixedPrecision(dtype)])
    learn.fit(1)
    model = net(dropout=0)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    scale = 2.0**16 if dtype == torch.float16 else 1.0
    held = {}
    for i, (xb, yb) in enumerate(BATCHES):
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(model(xb), yb)
        for p, g in zip(
            model.parameters(), torch.autograd.grad(loss * scale, model.parameters()), strict=True
        ):
            held[p] = held.get(p, 0) + g / scale
        if i % 3 == 2:
            for p, total in held.items():
                p.grad = total / 3
            opt.step()
            held = {}
    assert same(learn.model, model)


class Spoils(Callback):
    """Makes a gradient infinite in some steps, before anyone has looked."""

    order = -math.inf

    def __init__(self, *steps):
        self.steps = steps

    def after_backward(self):
        if self.learn.step in self.steps:
            next(self.learn.model.parameters()).grad[0] = math.inf


def test_accumulation_leaves_out_a_batch_that_overflowed():
    counts = []

    class Counts(Accumulate):
        def before_step(self):
            counts.append(self.learn.step)
            super().before_step()

    mixed = MixedPrecision(torch.float16)
    learn = learner([Spoils(1), Counts(3), mixed])
    learn.fit(1)
    assert counts == [0, 2, 3, 4, 5, 6]
    assert mixed.skipped == 1
    assert all(p.isfinite().all() for p in learn.model.parameters())


def test_an_overflow_ends_nothing():
    mixed, sched = MixedPrecision(torch.float16), ParamScheduler("lr", sched_lin(0.1, 0.0))
    rates, before = [], []

    class Notes(Callback):
        def before_backward(self):
            rates.append(self.learn.opt.param_groups[0]["lr"])
            before.append([p.detach().clone() for p in self.learn.model.parameters()])

    learn = learner([TerminateOnNaN(), Spoils(2, 3), mixed, sched, Notes()])
    learn.fit(1)
    assert learn.step == len(BATCHES)
    assert rates == pytest.approx([0.1 * (1 - i / 7) for i in range(7)])
    moved = [not all(map(torch.equal, a, b)) for a, b in zip(before[:-1], before[1:], strict=True)]
    assert moved == [True, True, False, False, True, True]
    assert mixed.skipped == 2
    assert mixed.scaler.scale == 2.0**14


def test_a_bad_loss_in_bfloat16_is_seen_by_others(capsys):
    learn = learner(
        [TerminateOnNaN(), MixedPrecision()], train=[(X[:4] * math.inf, BATCHES[0][1][:4])]
    )
    learn.fit(1)
    assert "TerminateOnNaN" in capsys.readouterr().out


@both_dtypes
def test_killed_and_resumed(dtype, tmp_path):
    def run(place, *more):
        mixed = MixedPrecision(dtype, growth_interval=2)
        learn = learner([mixed, Checkpoint(tmp_path / place), *more], opt_func=torch.optim.Adam)
        learn.fit(4)
        return learn.model, mixed.state_dict()

    class Cut(Callback):
        def after_loss(self):
            if self.learn.epoch == 2:
                raise KeyError("cut")

    straight, state = run("a")
    with pytest.raises(KeyError):
        run("b", Cut())
    again, others = run("b")
    assert same(again, straight)
    assert others == state
    assert (state["skipped"] > 0) == (dtype == torch.float16)


# --- nothing is left behind -----------------------------------------------------------------------


def clean(learn):
    """Whether autocast is off, and no hook is left on the model."""
    return not torch.is_autocast_enabled("cpu") and not learn.model._forward_pre_hooks


class Fails(Callback):
    def __init__(self, event, error, order):
        self.error, self.order = error, order
        setattr(self, event, self.fail)

    def fail(self):
        raise self.error


@both_dtypes
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("order", [-1000, 0, 1000])
def test_after_an_error_in_a_callback(dtype, error, event, order):
    learn = learner([MixedPrecision(dtype), Fails(event, error, order)], train=BATCHES[:2])
    try:
        learn.fit(1)
    except (ZeroDivisionError, KeyboardInterrupt):
        pass
    assert clean(learn)


@both_dtypes
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", ["model", "loss"])
def test_after_an_error_in_a_model_or_loss(dtype, training, place):
    def fails(*args):
        raise ZeroDivisionError

    learn = learner([MixedPrecision(dtype)], valid=BATCHES, train=BATCHES[:1])
    if place == "model":
        learn.model.register_forward_hook(fails)
    else:
        learn.loss_func = fails
    with pytest.raises(ZeroDivisionError):
        learn.fit(1) if training else learn.validate()
    assert clean(learn)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inside_of_the_users_own_autocast(dtype):
    learn, outside = learner([MixedPrecision(dtype)]), learner([MixedPrecision(dtype)])
    outside.fit(2)
    with torch.autocast("cpu", torch.bfloat16):
        learn.fit(2)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert clean(learn)
    pairs = zip(learn.model.parameters(), outside.model.parameters(), strict=True)
    for inner, other in pairs:  # no copies of old weights; of float16, a backward pass in bfloat16
        assert torch.allclose(inner, other, atol=0 if dtype == torch.bfloat16 else 1e-3)


class TwoParts(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


def test_named_tuples_stay_what_they_are():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 2)

        def forward(self, x):
            return TwoParts(self.linear(x), self.linear(x))

    learn = learner([MixedPrecision()], model=Model(), loss=lambda p, y: F.cross_entropy(p[0], y))
    seen = []

    class Look(Callback):
        def after_pred(self):
            seen.append(self.learn.pred)

    learn.fit(1, cbs=[Look()])
    assert all(type(pred) is TwoParts for pred in seen)
    assert all(part.dtype == torch.float32 for pred in seen for part in pred)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_models():
    learn = learner([MixedPrecision()], model=torch.jit.script(nn.Linear(6, 2)))
    learn.fit(1)
    assert not torch.is_autocast_enabled("cpu")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, "float16", None, torch.int16])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(
        ValueError, match=r"MixedPrecision expected torch.bfloat16 or torch.float16"
    ):
        MixedPrecision(dtype)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("init_scale", (0, -1.0, math.inf, math.nan, "8", 1e300, 1e-300)),
        ("growth_factor", (1, 0.5, math.inf, math.nan, None)),
        ("backoff_factor", (0, 1, 2.0, -0.5, math.nan)),
        ("growth_interval", (0, -3, 2.5, math.nan, "2")),
    ],
)
def test_numbers_out_of_range_are_refused(option, values):
    for value in values:
        for kind in (LossScaler, MixedPrecision):
            with pytest.raises(ValueError, match=f"LossScaler expected .*{option}.*, got"):
                kind(**{option: value})


@both_dtypes
@pytest.mark.parametrize("weights", NARROW, ids=str)
def test_weights_in_16_bits_are_refused(dtype, weights):
    learn = learner([MixedPrecision(dtype)])
    learn.model.to(weights)
    with pytest.raises(TypeError, match=r"MixedPrecision expected weights in float32, got torch"):
        learn.fit(1)
    assert clean(learn)


def test_frozen_weights_may_have_16_bits():
    first = nn.Linear(6, 6).bfloat16().requires_grad_(False)
    learn = learner([MixedPrecision()], model=nn.Sequential(first, nn.Linear(6, 2)))
    before = learn.model[1].weight.detach().clone()
    learn.fit(1)
    assert not torch.equal(before, learn.model[1].weight)


def test_two_at_once_are_refused():
    with pytest.raises(ValueError, match="both own"):
        learner([MixedPrecision(), MixedPrecision(torch.float16)]).fit(1)


@both_dtypes
def test_a_loss_exchanged_after_it_was_scaled_is_refused(dtype):
    class Adds(Callback):
        def __init__(self, event):
            setattr(self, event, self.add)

        def add(self):
            self.learn.loss = self.learn.loss + 1

    learner([MixedPrecision(dtype), Adds("after_loss")]).fit(1)
    learn = learner([MixedPrecision(dtype), Adds("before_backward")])
    if dtype == torch.bfloat16:
        learn.fit(1)
        return
    with pytest.raises(RuntimeError, match="replaced the loss in before_backward"):
        learn.fit(1)


def test_gradients_that_are_never_finite_end_in_an_error():
    mixed = MixedPrecision(torch.float16, init_scale=2.0**-22)
    learn = learner([Spoils(*range(7)), mixed])
    with pytest.raises(FloatingPointError, match="even at the smallest scale; the loss is 0"):
        learn.fit(1)
    assert mixed.skipped == 2


def test_a_device_without_autocast_is_refused(monkeypatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: False)
    learn = learner([MixedPrecision()])
    with pytest.raises(RuntimeError, match=r"a device with autocast to torch.bfloat16, got cpu"):
        learn.fit(1)


def test_a_dtype_that_torch_only_warns_of_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    learn = learner([MixedPrecision()])
    with pytest.raises(RuntimeError, match=r"a device with autocast to torch.bfloat16, got cpu"):
        learn.fit(1)
    monkeypatch.undo()
    assert clean(learn)


# --- wrong callbacks ------------------------------------------------------------------------------

WRONG = {
    "has no float32 predictions": ("return output.float() if narrow else output", "return output"),
    "never scales": (
        "if self.dtype == torch.float16:\n            self._plain",
        "if 0:\n            self._plain",
    ),
    "leaves the loss scaled": (
        "        self.learn.loss = self._plain\n        finite",
        "        finite",
    ),
    "never skips": ("        raise CancelStepException\n", "        return\n"),
    "skips every step": (
        "        if finite:\n            return\n        if self",
        "        if self",
    ),
    "never updates": ("        self.scaler.update(finite)\n", ""),
    "keeps its scale from fit to fit": (
        "        self.scaler.reset()\n        self.skipped",
        "        self.skipped",
    ),
    "does not unscale": ("        torch._foreach_mul_(grads, 1 / self.scale)\n", ""),
    "has another scale to unscale": ("grads, 1 / self.scale", "grads, 1 / self.init_scale"),
    "takes the usual norm": ("_foreach_norm(grads, math.inf)", "_foreach_norm(grads)"),
    "looks at the first gradient": (
        "torch.stack([x.to(device, torch.float32) for x in largest])",
        "largest[0]",
    ),
    "counts on after an overflow": (
        "backoff_factor\n            self.growth_tracker = 0",
        "backoff_factor",
    ),
    "grows too late": (
        "if self.growth_tracker == self.growth_interval",
        "if self.growth_tracker > self.growth_interval",
    ),
    "is called last": ("order = -math.inf", "order = math.inf"),
    "leaves autocast on": (
        "            self._context.__exit__(None, None, None)\n",
        "            pass\n",
    ),
    "leaves its hook": ("            self._hook.remove()\n", "            pass\n"),
    "never casts": (
        "torch.autocast(device, self.dtype)",
        "torch.autocast(device, self.dtype, enabled=False)",
    ),
    "casts to the other dtype": (
        "torch.autocast(device, self.dtype)",
        "torch.autocast(device, torch.bfloat16)",
    ),
    "begins before the model": (
        "if isinstance(model, nn.Module) and not scripted and model._compiled_call_impl is None:",
        "if 0:",
    ),
    "forgets its state": (
        'return {**self.scaler.state_dict(), "skipped": self.skipped}',
        "return {}",
    ),
    "takes no notice of 16-bit weights": ("if p.requires_grad and p.itemsize < 4:", "if 0:"),
}


def module_with(before, after):
    source = inspect.getsource(mixed_precision)
    assert source.count(before) == 1
    wrong = ModuleType("fromfound.wrong")
    wrong.__package__ = "fromfound"
    exec(source.replace(before, after), wrong.__dict__)
    return wrong


def battery(module, tmp_path, monkeypatch):
    """The tests above that an implementation has to pass, in short."""
    monkeypatch.setitem(globals(), "mixed_precision", module)
    for name in ("MixedPrecision", "LossScaler"):
        monkeypatch.setitem(globals(), name, getattr(module, name))
    for dtype in NARROW:
        assert agrees(dtype, max_norm=0.05, module=module)
        test_what_others_see(dtype)
        test_predictions_of_all_kinds_are_in_32_bits(dtype)
        test_outside_of_a_fit(dtype)
        test_killed_and_resumed(dtype, tmp_path / str(dtype))
        test_weights_in_16_bits_are_refused(dtype, torch.float16)
        test_after_an_error_in_a_model_or_loss(dtype, True, "model")
    test_an_overflow_ends_nothing()
    test_several_fits_begin_with_the_first_scale()
    test_gradients_of_several_kinds()
    test_accumulation_leaves_out_a_batch_that_overflowed()


def test_the_battery_passes_the_right_one(tmp_path, monkeypatch):
    battery(module_with("order = -math.inf", "order = -1e9"), tmp_path, monkeypatch)


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_one_is_seen(name, tmp_path, monkeypatch):
    try:
        with pytest.raises(
            (AssertionError, RuntimeError, FloatingPointError, pytest.fail.Exception)
        ):
            battery(module_with(*WRONG[name]), tmp_path, monkeypatch)
    finally:
        while torch.is_autocast_enabled("cpu"):  # a wrong one may have left it on
            torch.set_autocast_enabled("cpu", False)


# --- experiments ----------------------------------------------------------------------------------


def test_the_speeds_take_their_steps(monkeypatch):
    made = []

    class Small(experiments._Arm):
        def __init__(self, device, dtype, width, n, side):
            super().__init__(device, dtype, 0.125, 2, 32)
            made.append(self)

    monkeypatch.setattr(experiments, "_Arm", Small)
    found = experiments.cpu_speed(0)
    assert {"float32: ms", "bfloat16: ms", "gain of bfloat16"} <= set(found)
    assert found.get("has instructions for it", 0) in (0, 1)
    assert [arm.dtype for arm in made] == [torch.float32, torch.bfloat16]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_is_needed():
    with pytest.raises(RuntimeError, match="measures a CUDA device"):
        experiments.gpu_speed(0)
