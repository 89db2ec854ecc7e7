"""Chapter 06: hooks, and the summary.

Hooks let go, a callback changes nothing and waits for nothing, and the summary counts as torch
does.
"""

import copy
import gc
import io
import random

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fromfound.conv import simple_cnn
from fromfound.hooks import (
    ActivationStats,
    Hook,
    Hooks,
    _more_formulas,
    image_loaders,
    model_summary,
)
from fromfound.learner import (
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    Checkpoint,
    DataBunch,
    Learner,
)
from fromfound.module import Linear


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    random.seed(0)


# --- hooks let go ---------------------------------------------------------------------------------


def count(model):
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


both_ways = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


@both_ways
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit, None])
def test_released_after_the_block(backward, error):
    model = net()
    try:
        with (
            Hook(model[0], lambda *_: None, backward=backward),
            Hooks(model, lambda *_: None, backward=backward) as hooks,
        ):
            assert count(model) == 4
            assert len(hooks) == 3
            assert hooks[-1].module is model[2]
            assert [h.module for h in hooks] == list(model)
            if error:
                raise error
    except (ValueError, KeyboardInterrupt, GeneratorExit) as caught:
        assert isinstance(caught, error)
    assert count(model) == 0


@both_ways
def test_released_when_the_model_fails(backward):
    model = net()
    with pytest.raises(RuntimeError), Hooks(model, lambda *_: None, backward=backward):
        model(torch.randn(2, 7))
    assert count(model) == 0


def test_released_when_the_function_fails():
    model = net()
    with pytest.raises(ZeroDivisionError), Hook(model[1], lambda *_: 1 / 0):
        model(torch.randn(2, 3))
    assert count(model) == 0


@both_ways
def test_released_with_the_garbage(backward):
    model = net()
    hook = Hook(model[0], lambda *_: None, backward=backward)
    hooks = Hooks(model, lambda *_: None, backward=backward)
    assert count(model) == 4
    del hook, hooks
    assert count(model) == 0
    hook = Hook(model[0], lambda *_: None, backward=backward)
    hook.fn = lambda *_, own=hook: own  # a cycle, which only the collector finds
    del hook
    gc.collect()
    assert count(model) == 0


def test_the_model_may_die_first():
    model = net()
    with Hook(model[0], lambda *_: None) as hook:
        model(torch.randn(2, 3))
        del model
    hook.remove()
    hook.remove()


def test_other_peoples_hooks_stay():
    model, heard = net(), []
    model[0].register_forward_hook(lambda *_: heard.append(1))
    with Hook(model[0], lambda *_: None):
        model(torch.randn(2, 3))
    model(torch.randn(2, 3))
    assert heard == [1, 1]
    assert count(model) == 1


@both_ways
def test_it_cannot_touch(backward):
    model, x, cotangent = net(), torch.randn(2, 3, requires_grad=True), torch.randn(2, 2)
    expected = torch.autograd.grad(model(x), x, cotangent)[0]
    with Hook(
        model[1],
        lambda module, given, result: torch.zeros(2, 4) if not backward else (torch.zeros(2, 4),),
        backward=backward,
    ) as hook:
        assert torch.equal(torch.autograd.grad(model(x), x, cotangent)[0], expected)
    assert hook.value is not None


def test_a_copy_is_silent():
    model = net()
    with Hook(model[0], lambda module, inputs, output: 1) as hook:
        twin = copy.deepcopy(model)
        twin(torch.randn(2, 3))
        assert hook.value is None
        model(torch.randn(2, 3))
        assert hook.value == 1


def test_state_dict_is_unchanged():
    model = net()
    before = model.state_dict().keys()
    with Hooks(model, lambda *_: None):
        torch.save(model.state_dict(), io.BytesIO())
        assert model.state_dict().keys() == before


def test_backward_gradients_are_autograds():
    model, x = net(), torch.randn(5, 3)
    with (
        Hook(model[1], lambda module, inputs, output: (inputs[0], output)) as ends,
        Hook(
            model[1], lambda module, passed_on, received: (passed_on[0], received[0]), backward=True
        ) as hook,
    ):
        out, cotangent = model(x), torch.randn(5, 2)
        expected = torch.autograd.grad(out, ends.value, cotangent, retain_graph=True)
        out.backward(cotangent)
    assert all(map(torch.equal, hook.value, expected))


@pytest.mark.parametrize(
    "module, fn", [("a layer", print), (nn.Linear, print), (nn.ReLU(), 3), (None, None)]
)
def test_hook_refuses(module, fn):
    with pytest.raises(TypeError, match="Hook expected"):
        Hook(module, fn)


# --- the figures ----------------------------------------------------------------------------------


def look(x, near=0.1, bins=8, range=(-2.0, 2.0), channel_dim=1):
    stats = ActivationStats(zero_threshold=near, bins=bins, range=range, channel_dim=channel_dim)
    gradient, (mean, std, small, dead, *histogram) = stats._statistics(x.float()).split(
        [2, 4 + bins]
    )
    assert gradient.isnan().all()
    return mean, std, small, dead, torch.stack(histogram)


@pytest.mark.parametrize("shape", [(6, 4, 3, 2), (6, 4), (6,), (6, 4, 5), (1, 1, 1, 1)], ids=str)
def test_figures_by_hand(shape):
    x = torch.randn(shape).relu()
    x[..., :1] *= 0
    mean, std, small, silent, shares = look(x)
    units = x.flatten() if x.ndim == 1 else x.movedim(1, 0).flatten(1)
    assert mean == pytest.approx(x.mean().item(), abs=1e-6)
    assert std == pytest.approx(x.std(correction=0).item(), abs=1e-6)
    assert small == pytest.approx((x.abs() <= 0.1).float().mean().item())
    expected = (units.abs() <= 0.1) if x.ndim == 1 else (units.abs() <= 0.1).all(1)
    assert silent == pytest.approx(expected.float().mean().item())
    assert shares.sum() == pytest.approx(1, abs=1e-5)


def test_units_of_sequences_are_in_the_last_dimension():
    x = torch.rand(6, 5, 4) + 1
    x[..., :3] = 0
    assert look(x, 0.0, channel_dim=-1)[3] == 0.75
    assert look(x, 0.0)[3] == 0
    model = nn.Sequential(
        nn.Flatten(0, 2),
        nn.Linear(8, 3),
        nn.ReLU(),
        nn.Unflatten(0, (-1, 64)),
        nn.Flatten(),
        nn.Linear(192, 3),
    )
    with pytest.raises(ValueError, match="channel_dim=2, and a ReLU puts out"):
        fit(ActivationStats(nn.ReLU, channel_dim=2), model=model)
    assert count(model) == 0


def test_figures_of_what_is_rare():
    assert look(torch.full((3, 2), 100.0))[4].tolist() == [0] * 7 + [1]
    assert look(torch.full((3, 2), -torch.inf))[4].tolist() == [1] + [0] * 7
    assert look(torch.tensor(0.0))[3] == 1
    assert look(torch.tensor([torch.nan, 0.0]))[4].sum() == 0.5  # a nan is in no bin


def test_histogram_of_the_first_samples_only():
    x = torch.cat([torch.zeros(2, 100_000), torch.ones(2, 100_000)])
    *_, shares = look(x)
    assert shares[4] == 1
    assert look(x)[0] == 0.5


def test_hooks_that_fail_leave_nothing():
    model = small()
    with pytest.raises(TypeError) as error:
        Hooks([model[0], "x"], print)
    assert count(model) == 0
    assert error


# --- the callback ---------------------------------------------------------------------------------


def batches(n=7, bs=8, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(bs, *shape, generator=generator), torch.randint(3, (bs,), generator=generator))
        for _ in range(n)
    ]


def small():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.2),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


def fit(*cbs, model=None, data=None, n_epochs=2, opt=torch.optim.Adam):
    torch.manual_seed(0)
    learn = Learner(
        model or small(),
        DataBunch(data or batches(), batches(2)),
        F.cross_entropy,
        opt,
        lr=0.01,
        default_cbs=False,
    )
    learn.fit(n_epochs, cbs=cbs)
    return learn


def everything(learn):
    return [
        *learn.model.state_dict().values(),
        torch.get_rng_state(),
        *(t for s in learn.opt.state_dict()["state"].values() for t in s.values()),
    ]


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("modules", [None, nn.Conv2d], ids=["all", "type"])
def test_the_training_is_the_same_in_every_bit(every, modules):
    plain, watched = (
        everything(fit()),
        everything(learn := fit(stats := ActivationStats(modules, every=every))),
    )
    assert all(map(torch.equal, plain, watched))
    assert count(learn.model) == 0
    assert stats.steps == list(range(0, 14, every))
    assert stats.history.shape == (len(stats.steps), 6 if modules is None else 1, 56)
    assert stats.history.isfinite().all()


class Reading(TorchDispatchMode):
    """Writes down each operation that has to wait for a device."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.bincount.default,
            torch.ops.aten._unique2.default,
        ) or func.name().startswith("aten::masked_select"):
            self.waits.append(func.name())
        return func(*args, **(kwargs or {}))


def waits_of(*cbs):
    """What waits for a device during a batch.

    That is from the first callback before it to the last one after it.
    """
    seen = []

    class First(Callback):
        order = -100

        def before_batch(self):
            self.last.mode = Reading()
            self.last.mode.__enter__()

    class Last(Callback):
        order = 100

        def after_batch(self):
            self.mode.__exit__(None, None, None)
            seen.extend(self.mode.waits)

    first, last = First(), Last()
    first.last = last
    fit(first, *cbs, last, opt=torch.optim.SGD)
    return seen


def test_no_step_waits_for_the_device():
    class Impatient(Callback):
        def after_loss(self):
            self.learn.loss.item()

    assert waits_of(ActivationStats(every=1)) == waits_of() == []
    assert waits_of(Impatient())  # the watch sees those who wait


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_synchronization_on_a_gpu():
    model, data = small().cuda(), [(x.cuda(), y.cuda()) for x, y in batches()]

    class Strict(Callback):
        order = -100

        def before_batch(self):
            torch.cuda.set_sync_debug_mode("error")

    class Lenient(Callback):
        order = 100

        def after_batch(self):
            torch.cuda.set_sync_debug_mode("default")

    fit(
        Strict(),
        stats := ActivationStats(every=1),
        Lenient(),
        model=model,
        data=data,
        opt=torch.optim.SGD,
    )
    assert stats.history.shape[0] == 14
    assert stats.history.device.type == "cpu"


def test_what_is_recorded_is_right():
    model = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    data = [(x.flatten(1), y) for x, y in batches()]
    twin = copy.deepcopy(model)
    stats = ActivationStats(every=1, zero_threshold=0.0)
    learn = Learner(model, DataBunch(data[:1]), F.cross_entropy, default_cbs=False)
    learn.fit(1, cbs=[stats])
    hidden = twin[0](data[0][0])
    relued = hidden.relu()
    loss = F.cross_entropy(twin[2](relued), data[0][1])
    (slope,) = torch.autograd.grad(loss, relued)
    found = {name: rows[1, 0].item() for name, rows in stats.statistics().items()}
    assert found["mean"] == pytest.approx(relued.mean().item(), abs=1e-6)
    assert found["std"] == pytest.approx(relued.std(correction=0).item(), abs=1e-6)
    assert found["near zero"] == pytest.approx((relued == 0).float().mean().item())
    assert found["dead"] == pytest.approx((relued == 0).all(0).float().mean().item())
    assert found["gradient mean"] == pytest.approx(slope.mean().item(), rel=1e-4, abs=1e-8)
    assert found["gradient std"] == pytest.approx(slope.std(correction=0).item(), rel=1e-4)
    assert stats.names == ["0 Linear", "1 ReLU", "2 Linear"]
    assert stats.histograms.shape == (3, 50, 1)
    assert torch.allclose(stats.histograms.sum(1), torch.ones(3, 1), atol=1e-5)


CANCELS = [
    ("before_batch", CancelBatchException),
    ("after_pred", CancelBatchException),
    ("after_loss", CancelBatchException),
    ("before_backward", CancelStepException),
    ("before_step", CancelStepException),
    ("after_backward", CancelEpochException),
    ("after_loss", CancelFitException),
    ("after_pred", ZeroDivisionError),
    ("before_batch", KeyboardInterrupt),
]


@pytest.mark.parametrize("order", [-1, 1], ids=["before it", "after it"])
@pytest.mark.parametrize(
    "event, error", CANCELS, ids=[f"{event}-{error.__name__}" for event, error in CANCELS]
)
def test_state_after_a_cancel(event, error, order):
    def strike(self):
        if self.learn.training and self.learn.step == 2 and self.learn.epoch == 0:
            raise error

    breaker = type("Breaker", (Callback,), {event: strike, "order": order})()
    model, stats = small(), ActivationStats(every=1)
    try:
        fit(breaker, stats, model=model)
    except ZeroDivisionError:
        pass
    assert count(model) == 0
    assert len(stats.steps) == len(stats.history)
    assert stats.steps == sorted(set(stats.steps))
    assert event != "before_batch" or order == -1 or 2 not in stats.steps  # nothing was heard in it
    torch.manual_seed(0)
    fit(stats, model=model)  # and it works again
    assert stats.steps == list(range(14))
    assert stats.history.isfinite().all()


def test_frozen_layers_have_no_gradient():
    model = small()
    model[0].requires_grad_(False)
    fit(stats := ActivationStats(every=1), model=model)
    figures = stats.statistics()
    assert figures["gradient std"][:2].isnan().all()
    assert figures["gradient std"][5].isfinite().all()
    assert figures["std"].isfinite().all()


class Odd(nn.Module):
    """A network of layers that are called in odd ways.

    One is called twice, one never; one returns a tuple, one a dictionary, one no tensor.
    """

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.never, self.pair, self.named, self.blank = (
            nn.Linear(64, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            Pair(),
            Named(),
            Blank(),
        )
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = self.twice(self.twice(self.first(x)).relu())
        self.blank(x)
        return self.last(self.named(self.pair(x)[0])["x"])


class Pair(nn.Module):
    def forward(self, x):
        return 2 * x, "two"


class Named(nn.Module):
    def forward(self, x):
        return {"x": x + 1}


class Blank(nn.Module):
    def forward(self, x):
        return None


def test_odd_models():
    data = [(x.flatten(1), y) for x, y in batches()]
    model = Odd()
    learn = Learner(model, DataBunch(data[:1]), F.cross_entropy, default_cbs=False)
    twin = copy.deepcopy(model)
    learn.fit(1, cbs=[stats := ActivationStats(every=1)])
    known = dict(zip(stats.names, stats.history[0], strict=True))
    assert known["never Linear"].isnan().all()
    assert known["blank Blank"].isnan().all()
    assert all(
        known[name].isfinite().all() for name in known if name.split()[0] not in ("never", "blank")
    )
    once = twin.first(data[0][0])
    second = twin.twice(twin.twice(once).relu())
    loss = F.cross_entropy(twin.last(2 * second + 1), data[0][1])
    assert known["twice Linear"][2] == pytest.approx(second.mean().item(), abs=1e-6)
    assert known["twice Linear"][1] == pytest.approx(
        torch.autograd.grad(loss, second)[0].std(correction=0).item(), rel=1e-4
    )


def test_half_precision():
    model, data = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(torch.bfloat16),
        [(x.bfloat16(), y) for x, y in batches()],
    )
    learn = Learner(model, DataBunch(data), F.cross_entropy, default_cbs=False)
    learn.fit(1, cbs=[stats := ActivationStats(every=1)])
    assert stats.history.dtype == torch.float32
    assert stats.history[:, 1].isfinite().all()


@pytest.mark.filterwarnings("ignore")  # torch's compiler uses what torch deprecates
@pytest.mark.parametrize(
    "compiled",
    [
        lambda m: torch.compile(m),
        lambda m: (m.compile(), m)[1],
        lambda m: nn.Sequential(torch.compile(m[:3]), *m[3:]),
    ],
    ids=["whole", "in place", "a part"],
)
def test_compiled_models_are_refused(compiled):
    with pytest.raises(ValueError, match="cannot listen to a compiled model"):
        fit(ActivationStats(), model=compiled(small()))


@pytest.mark.filterwarnings("ignore")
def test_compiled_after_looking():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    fit(stats := ActivationStats(every=1), model=model)
    x = torch.randn(2, 1, 8, 8)
    expected = model(x)
    assert torch.equal(torch.compile(model, backend="eager")(x), expected)
    assert len(stats.steps) == 14


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ActivationStats(every=0), "every=0"),
        (lambda: ActivationStats(bins=0), "bins=0"),
        (lambda: fit(ActivationStats([nn.ReLU()])), "got a ReLU that is not part"),
        (lambda: ActivationStats(every=1.5), "every=1.5"),
        (lambda: ActivationStats(bins=2.5), "bins=2.5"),
        (lambda: ActivationStats(channel_dim=1.5), "channel_dim=1.5; expected whole"),
        (lambda: ActivationStats(channel_dim=None), "channel_dim=None; expected whole"),
        (lambda: ActivationStats(zero_threshold=-1.0), "zero_threshold=-1.0"),
        (lambda: ActivationStats(zero_threshold=float("nan")), "zero_threshold=nan"),
        (lambda: ActivationStats(zero_threshold=float("inf")), "zero_threshold=inf"),
        (lambda: ActivationStats(range=(1.0,)), "range"),
        (lambda: ActivationStats(range=(5.0, -5.0)), "the lower end of the range before"),
        (lambda: ActivationStats(range=(0, 0)), "the lower end of the range before"),
        (lambda: fit(ActivationStats((nn.GELU, nn.Tanh))), "no GELU or Tanh"),
        (lambda: fit(ActivationStats([])), "no layers to look at"),
        (lambda: fit(ActivationStats(nn.GELU)), "the model has no GELU"),
    ],
)
def test_the_callback_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", ["relu", ("relu",), [nn.ReLU(), "relu"], 3, [None]], ids=str)
def test_what_is_no_layer_is_refused_before_the_fit(wrong):
    with pytest.raises(
        TypeError, match="ActivationStats expected layers or types, got .*(relu|3|None)"
    ):
        ActivationStats(wrong)


TOOLS = {
    "Hook": lambda model: Hook(model, print),
    "ActivationStats": lambda model: fit(ActivationStats(), model=model),
    "model_summary": lambda model: model_summary(model, torch.zeros(2, 64)),
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_model_of_chapter_3_is_refused_by_name(name):
    """Its layers have no hooks."""
    with pytest.raises(
        TypeError, match=f"^{name} expected .*torch.nn.Module.*got .*module.Linear'>"
    ):
        TOOLS[name](Linear(64, 3))


def test_types_and_layers_may_come_in_a_list():
    fit(stats := ActivationStats([nn.ReLU, nn.Linear]))
    assert stats.names == ["1 ReLU", "5 Linear"]
    model = small()
    fit(stats := ActivationStats((model[1], model[5])), model=model)
    assert stats.names == ["1 ReLU", "5 Linear"]


def test_hooks_of_one_layer_name_the_way_out():
    with pytest.raises(TypeError, match=r"Hooks expected a list, got .*Linear'>: write \[module\]"):
        Hooks(nn.Linear(3, 2), print)
    assert len(Hooks(nn.Sequential(nn.ReLU()), print)) == 1  # a container is a list of layers


def test_it_complains_when_nothing_is_heard():
    model = Odd()
    with pytest.raises(RuntimeError, match="saw none of its layers called"):
        fit(
            ActivationStats([model.never]),
            model=model,
            data=[(x.flatten(1), y) for x, y in batches()],
        )


def test_a_layer_may_be_skipped_in_a_step():
    class Depth(nn.Module):
        def __init__(self):
            super().__init__()
            self.skipped, self.last, self.calls = nn.Linear(64, 64), nn.Linear(64, 3), 0

        def forward(self, x):
            self.calls += 1
            return self.last(self.skipped(x) if self.calls % 2 else x)

    model = Depth()
    learn = Learner(
        model,
        DataBunch([(x.flatten(1), y) for x, y in batches()]),
        F.cross_entropy,
        default_cbs=False,
    )
    learn.fit(1, cbs=[stats := ActivationStats([model.skipped], every=1)])
    assert stats.steps == [0, 2, 4, 6]
    assert len(stats.history) == 4


def test_a_parameter_keeps_no_hook():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64))

        def forward(self, x):
            return self.weight

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = Table(), nn.Linear(64, 3)

        def forward(self, x):
            return self.last(x + self.table(x))

    model = Shifted()
    learn = Learner(
        model,
        DataBunch([(x.flatten(1), y) for x, y in batches()]),
        F.cross_entropy,
        default_cbs=False,
    )
    learn.fit(1, cbs=[stats := ActivationStats(every=1)])
    assert not model.table.weight._backward_hooks
    assert stats.statistics()["gradient std"].isfinite().all()


def test_which_layers():
    from torch.nn.utils.parametrizations import weight_norm

    def names(modules, model=None):
        fit(stats := ActivationStats(modules), model=model or small())
        return stats.names

    model = small()
    assert names(model[1], model) == ["1 ReLU"]
    assert names((nn.ReLU, nn.Linear)) == ["1 ReLU", "5 Linear"]
    assert names(
        None, nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(64, 5)), nn.Linear(5, 3))
    ) == ["0 Flatten", "1 ParametrizedLinear", "2 Linear"]

    class Nested(nn.Module):
        def forward(self, x):
            return ((x,),)

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.nested, self.last = Nested(), nn.Linear(64, 3)

        def forward(self, x):
            return self.last(self.nested(x.flatten(1))[0][0])

    fit(stats := ActivationStats(Nested, every=1), model=Inner())
    assert stats.statistics()["std"].isfinite().all()


@pytest.mark.parametrize(
    "look",
    [
        ActivationStats.plot,
        ActivationStats.plot_histograms,
        ActivationStats.statistics,
        lambda s: s.draw_histogram(Figure().subplots(), 0),
    ],
    ids=["plot", "histograms", "figures", "one"],
)
def test_nothing_recorded_yet(look):
    with pytest.raises(RuntimeError, match="nothing yet"):
        look(ActivationStats())


def test_resuming_keeps_the_records(tmp_path):
    class Cut(Callback):
        order = 200

        def after_epoch(self):
            if self.learn.epoch == 1:
                raise ZeroDivisionError

    fit(whole := ActivationStats(every=3), n_epochs=4)
    with pytest.raises(ZeroDivisionError):
        fit(ActivationStats(every=3), Checkpoint(tmp_path / "run"), Cut(), n_epochs=4)
    fit(resumed := ActivationStats(every=3), Checkpoint(tmp_path / "run"), n_epochs=4)
    assert resumed.steps == whole.steps
    assert torch.equal(resumed.history, whole.history)


@pytest.mark.parametrize("layers", [1, 3, 4, 5, 7, 8, 10])
def test_a_picture_for_every_layer(layers):
    model = (
        nn.Sequential(
            nn.Flatten(), *[nn.Linear(64, 64) for _ in range(layers - 1)], nn.Linear(64, 3)
        )
        if layers > 1
        else nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    )
    fit(stats := ActivationStats(nn.Linear, every=2), model=model)
    assert len(stats.names) == layers
    axes = stats.plot_histograms().fig.axes
    assert sum(len(ax.images) for ax in axes) == layers
    assert sum(bool(ax.axison) for ax in axes) == layers
    assert all(len(ax.lines) == layers for ax in stats.plot().fig.axes)


# --- the summary ----------------------------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(3, 8), nn.Bilinear(8, 8, 2)

    def forward(self, a, b):
        return self.out(self.left(a).relu(), self.right(b).relu())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.embed(tokens))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.norm = (
            nn.Parameter(torch.randn(5, 4)),
            nn.LayerNorm(5, elementwise_affine=True),
        )

    def forward(self, x):
        return self.norm(x @ self.weight.T) @ torch.randn(5, 2)


def shared():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 2))


MODELS = {
    "cnn": (simple_cnn, lambda: [torch.randn(4, 1, 28, 28)]),
    "shared": (shared, lambda: [torch.randn(4, 6)]),
    "two inputs": (TwoInputs, lambda: [torch.randn(5, 4), torch.randn(5, 3)]),
    "tied": (Tied, lambda: [torch.randint(11, (2, 7))]),
    "in the container": (Functional, lambda: [torch.randn(3, 4)]),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(6, 12, 3, groups=3, dilation=2),
            nn.BatchNorm2d(12, affine=True),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ),
        lambda: [torch.randn(2, 6, 14, 14)],
    ),
    "transposed": (
        lambda: nn.ConvTranspose2d(3, 5, 2, stride=2),
        lambda: [torch.randn(2, 3, 4, 4)],
    ),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        lambda: [torch.randn(2, 5, 8)],
    ),
    "called twice": (lambda: Odd(), lambda: [torch.randn(4, 64)]),
}
every_model = pytest.mark.parametrize("make, inputs", MODELS.values(), ids=MODELS)


@every_model
def test_summary_is_torchs(make, inputs):
    torch.manual_seed(0)
    model, given = make(), inputs()
    summary = model_summary(model, *given)
    with FlopCounterMode(display=False) as counter:
        model(*given)
    assert summary.flops >= counter.get_total_flops()
    assert summary.flops == sum(row.flops for row in summary.rows)
    assert (
        summary.params
        == sum(p.numel() for p in model.parameters())
        == sum(row.params for row in summary.rows)
    )
    assert summary.trainable == summary.params
    assert summary.kept == sum(row.kept for row in summary.rows)
    assert len(str(summary).splitlines()) == len(summary.rows) + 2


@every_model
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_nothing_has_happened(make, inputs, train):
    torch.manual_seed(0)
    model, given = make().train(train), inputs()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model_summary(model, *given)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert count(model) == 0
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert model.training == train
    assert all(p.grad is None for p in model.parameters())


@every_model
def test_memory_is_what_autograd_keeps(make, inputs):
    """Counted a second time, without layers."""
    torch.manual_seed(0)
    model, given = make(), inputs()
    summary = model_summary(model, *given)
    own, kept = (
        {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *given)},
        {},
    )
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (
            kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}),
            t.detach(),
        )[1],
        lambda t: t,
    ):
        out = model(*given)
    assert summary.kept == sum(size for place, size in kept.items() if place not in own)
    assert out is not None


def test_formulas():
    row = model_summary(
        nn.Conv2d(6, 8, (3, 5), stride=2, padding=1, groups=2), torch.randn(3, 6, 10, 12)
    ).rows[0]
    n, nf, h, w = row.shape
    assert row.flops == 2 * n * nf * h * w * 3 * 3 * 5
    assert row.params == 8 * 3 * 15 + 8
    row = model_summary(nn.Linear(7, 5), torch.randn(3, 7)).rows[0]
    assert row.flops == 2 * 3 * 7 * 5
    assert row.params == 40
    assert row.shape == (3, 5)


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class TimesVector(nn.Module):
    def forward(self, x):
        return x @ torch.ones(40)


@pytest.mark.parametrize(
    "make, inputs, expected, op",
    [
        (
            lambda: nn.LSTM(12, 7, batch_first=True),
            lambda: [torch.randn(3, 5, 12)],
            2 * 3 * 5 * 4 * 7 * (12 + 7),
            "mkldnn_rnn_layer",
        ),
        (
            lambda: nn.LSTM(12, 7, 2, bidirectional=True),
            lambda: [torch.randn(5, 3, 12)],
            2 * 3 * 5 * 2 * 4 * 7 * (12 + 7 + 14 + 7),
            "mkldnn_rnn_layer",
        ),
        (lambda: nn.LSTMCell(12, 7), lambda: [torch.randn(3, 12)], 2 * 3 * 4 * 7 * (12 + 7), "mm"),
        (
            Attention,
            lambda: [
                torch.randn(2, 3, n, d, requires_grad=True) for n, d in ((4, 8), (6, 8), (6, 8))
            ],
            2 * 2 * 3 * 4 * 6 * (8 + 8),
            "_scaled_dot_product_flash_attention_for_cpu",
        ),
        (TimesVector, lambda: [torch.randn(30, 40)], 2 * 30 * 40, "mv"),
        (
            lambda: nn.Conv3d(2, 3, 3),
            lambda: [torch.randn(2, 2, 5, 6, 7)],
            2 * 2 * 3 * 2 * 27 * 3 * 4 * 5,
            "convolution",
        ),
    ],
    ids=["LSTM", "two layers, both ways", "cell", "attention", "vector", "conv3d"],
)
def test_operations_by_formula(make, inputs, expected, op):
    if not hasattr(torch.ops.aten, op):
        pytest.skip(f"this PyTorch has no {op}")
    assert model_summary(make(), *inputs()).flops == expected


def test_a_torch_without_these_operations(monkeypatch):
    class Older:
        mv = torch.ops.aten.mv

    monkeypatch.setattr("fromfound.hooks.torch.ops.aten", Older)
    assert list(_more_formulas()) == [Older.mv]


class Thrown(nn.Module):
    """Computes something five times, and uses none of it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(100, 100), nn.Linear(100, 100)

    def forward(self, x):
        for _ in range(5):
            self.a(x).sigmoid()
        return self.b(x).sigmoid()


class FromDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(300, 3)

    def forward(self, given):
        return self.a(given["x"][0])


def test_memory_of_what_is_needed_only():
    # The last sigmoid's output.
    assert model_summary(Thrown(), torch.randn(50, 100)).kept == 50 * 100 * 4
    assert model_summary(FromDict(), {"x": [torch.randn(20, 300)]}).kept == 0  # an input
    mlp, x = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 30)), torch.randn(50, 30)
    assert (
        model_summary(mlp, x).kept
        == 50 * 40 * 4
        == model_summary(mlp.to("meta"), x.to("meta")).kept
    )


def test_an_error_that_the_model_catches():
    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(30, 30), nn.Linear(40, 40), nn.Linear(40, 20)

        def forward(self, x):
            try:
                h = self.a(x)
            except RuntimeError:
                h = self.b(x)
            return self.c(h)

    rows = {row.name: row for row in model_summary(Catches(), torch.randn(5, 40)).rows}
    assert rows["a"].shape is None
    assert rows["b"].shape == (5, 40)
    assert rows["c"].shape == (5, 20)
    assert rows["b"].flops == 2 * 5 * 40 * 40
    assert rows["c"].flops == 2 * 5 * 40 * 20


def test_a_row_for_each_call_and_parameters_once():
    rows = model_summary(shared(), torch.randn(4, 6)).rows
    assert [(r.name, r.params) for r in rows] == [("0", 42), ("1", 0), ("0", 0), ("3", 14)]
    assert rows[0].flops == rows[2].flops > 0
    rows = model_summary(Odd(), torch.randn(4, 64)).rows
    assert [r.name for r in rows].count("twice") == 2
    assert next(r for r in rows if r.name == "never").shape is None
    assert "not called" in str(model_summary(Odd(), torch.randn(4, 64)))


def test_lazy_layers_get_their_shapes():
    model = nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(affine=False), nn.Flatten(), nn.LazyLinear(2)
    )
    x = torch.randn(2, 3, 6, 6)
    model = nn.Sequential(*model, nn.Dropout())
    model[1].eval()
    random_state = torch.get_rng_state()
    summary = model_summary(model, x)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert model[1].num_batches_tracked == 0
    assert not model[1].running_mean.any()
    other = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    model_summary(other, x)
    assert other[1].num_batches_tracked == 0
    assert not other[1].running_mean.any()
    assert other.training
    assert summary.params == sum(p.numel() for p in model.parameters()) == 4 * 27 + 4 + 64 * 2 + 2


def test_frozen_and_without_gradients():
    model = simple_cnn((4,)).requires_grad_(False)
    with torch.no_grad():
        summary = model_summary(model, torch.randn(2, 1, 28, 28))
    assert summary.trainable == 0
    assert summary.kept == 0
    assert summary.params > 0
    model, x = simple_cnn((4,)), torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        silenced = model_summary(model, x).kept
    assert silenced == model_summary(model, x).kept > 0


class Keywords(nn.Module):
    """Takes what a summary has names for itself."""

    def __init__(self):
        super().__init__()
        self.first = nn.LazyLinear(5)

    def forward(self, x, *, scale, extra=None):
        return self.first(x + extra["shift"]) * scale


def test_inputs_may_have_names():
    inputs = {"scale": torch.randn(4, 5), "extra": {"shift": torch.randn(4, 3)}}
    summary = model_summary(Keywords(), torch.randn(4, 3), **inputs)
    assert summary.flops == 2 * 4 * 3 * 5
    assert summary.rows[0].shape == (4, 5)
    assert summary.kept == 4 * 3 * 4  # the sum, and not the scale, which is an input
    with pytest.raises(TypeError, match="scales"):
        model_summary(Keywords(), torch.randn(4, 3), scales=2)


def test_errors_of_the_model_come_through():
    model = simple_cnn((4,))
    with pytest.raises(RuntimeError, match="channels"):
        model_summary(model, torch.randn(2, 3, 28, 28))
    assert count(model) == 0
    assert not any(m._forward_pre_hooks for m in model.modules())


# --- the network ----------------------------------------------------------------------------------


def test_image_loaders():
    data = image_loaders("mnist", seed=1, bs=1000)
    xs, ys = zip(*data.train_dl, strict=True)
    x = torch.cat(xs)
    assert x.shape == (60_000, 1, 28, 28)
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3
    assert len(xs) == 60
    assert data.c == 10
    again = image_loaders("mnist", seed=1, bs=1000)
    assert torch.equal(next(iter(again.train_dl))[1], ys[0])
    assert sum(len(y) for _, y in data.valid_dl) == 10_000
    assert not torch.equal(next(iter(data.train_dl))[1], ys[0])  # another order in the next epoch


def test_a_learner_that_watches_validates_before_its_first_fit():
    learn = Learner(
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        [(torch.ones(4, 3), torch.zeros(4).long())],
        nn.CrossEntropyLoss(),
        cbs=[ActivationStats()],
    )
    assert learn.predict(torch.ones(2, 3)).shape == (2, 2)


def test_whole_numbers_of_numpy():
    assert ActivationStats(every=np.int64(2), bins=np.int32(3)).bins == 3
    with pytest.raises(ValueError, match="expected whole numbers"):
        ActivationStats(every=np.float64(2))
