"""The library on an accelerator: real if the machine has one, simulated by `make device`.

Numbers are compared with the CPU's, whatever lies where; a step of training waits for nothing.
"""

import copy
import sys
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fromfound import conv, init, norm, record, training
from fromfound.check import Exercise, Prediction, agree, gradient_check, same_as
from fromfound.export import export_model, load_exported
from fromfound.hooks import ActivationStats, Hooks, image_loaders, model_summary
from fromfound.learner import (
    Callback,
    CancelFitException,
    Checkpoint,
    DataBunch,
    EarlyStopping,
    GradientClip,
    Learner,
    TerminateOnNaN,
)
from fromfound.mixed_precision import MixedPrecision
from fromfound.module import LazyLinear, Sequential, default_device, load, save, to_device
from fromfound.rng import get_rng_states, preserve_state
from fromfound.schedule import SGDR, LRFinder, one_cycle
from tests.press.chapters import ROOT
from tests.press.rerun import copy_chapters, rerun, tree_environment
from tests.toys import BATCHES, X, Y, net, seeded

pytestmark = pytest.mark.device
CPU = torch.device("cpu")
IMAGES = torch.randn(8, 4, 6, 6, generator=seeded(1))
both_places = pytest.mark.parametrize("data_on_device", [False, True], ids=["data on cpu", ""])
both_models = pytest.mark.parametrize("model_on_device", [False, True], ids=["model on cpu", ""])


def learner(device=CPU, batches=BATCHES, model=None, **options):
    """A Learner of a network without dropout, whose numbers are the same on every device."""
    model = to_device(net(dropout=0.0) if model is None else model, device)
    options = {"lr": 0.1, "default_cbs": False} | options
    return Learner(model, DataBunch(batches, batches), F.cross_entropy, **options)


def close(a, b):
    """Whether two tensors, or the values of two models, are the same but for rounding."""
    if hasattr(a, "state_dict"):
        pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        return all(close(x, y) for x, y in pairs)
    return torch.allclose(a.detach().cpu().float(), b.detach().cpu().float(), 1e-4, 1e-5)


@contextmanager
def no_wait(device):
    """Fail where the CPU waits for the device."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    simulated = sys.modules.get("tests.accelerator")
    before = len(simulated.waits) if simulated else 0
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert not simulated or simulated.waits[before:] == []


# --- the device -----------------------------------------------------------------------------------


def test_the_default_device_is_the_accelerator(device):
    if device != CPU:
        assert default_device() == device
    assert to_device([X])[0].device.type == default_device().type


def test_devices_do_not_mix(device):
    if device == CPU:
        pytest.skip("there is one device only")
    with pytest.raises(RuntimeError, match="same device"):
        X + X.to(device)
    with pytest.raises(TypeError, match="numpy"):
        X.to(device).numpy()


def test_a_copy_to_the_cpu_without_waiting_arrives_late(device):
    if device.type != "sim":
        pytest.skip("elsewhere it may arrive at once")
    late = X.to(device).to("cpu", non_blocking=True)
    assert late.isnan().all()
    torch.accelerator.synchronize()
    assert torch.equal(late, X)


def test_a_copy_to_the_cpu_is_complete(device):
    moved = to_device({"a": [X.to(device)]}, "cpu", non_blocking=True)
    assert torch.equal(moved["a"][0], X)


# --- Learner --------------------------------------------------------------------------------------


@both_places
@both_models
def test_training_gives_the_numbers_of_the_cpu(device, data_on_device, model_on_device):
    batches = to_device(BATCHES, device if data_on_device else CPU)
    metrics = [training.accuracy]
    here = learner(device if model_on_device else CPU, batches, metrics=metrics)
    there = learner(metrics=metrics)
    for learn in (here, there):
        learn.fit(2)
    assert close(here.model, there.model)
    assert here.validate() == pytest.approx(there.validate(), rel=1e-4)
    assert here.results == pytest.approx(there.results, rel=1e-4)
    for mine, theirs in zip(here.get_preds(), there.get_preds(), strict=True):
        assert close(mine, theirs)
    assert close(here.predict(batches[0][0]), there.predict(BATCHES[0][0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision_is_near_the_numbers_of_the_cpu(device, dtype):
    here, there = learner(device, cbs=[MixedPrecision(dtype)]), learner(cbs=[MixedPrecision(dtype)])
    if device.type == "sim" and dtype == torch.bfloat16:
        pytest.skip("it has no operations for autocast")
    if device.type == "sim":  # where torch only warns, and would compute in float32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError, match=f"a device with autocast to {dtype}, got sim"):
                here.fit(1)
        return
    for learn in (here, there):
        learn.fit(2)
    assert here.results == pytest.approx(there.results, rel=0.05)


@pytest.mark.parametrize("batch", [{"x": X}, [X, X]], ids=["dictionary", "two inputs"])
def test_every_tensor_of_a_batch_is_moved(device, batch):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6, 2)

        def forward(self, *inputs):
            parts = inputs[0].values() if isinstance(inputs[0], dict) else inputs
            return self.lin(sum(parts))

    inputs = batch if isinstance(batch, list) else [batch]
    learn = learner(device, [(*inputs, Y)], model=Sum())
    learn.fit(1)
    assert learn.results["valid_loss"] < 5


def test_a_model_without_parameters_leaves_the_batch_where_it_is(device):
    assert learner(model=nn.Identity()).predict(X.to(device)).device.type == device.type


def test_a_model_with_buffers_only_gets_the_batch(device):
    model = nn.BatchNorm1d(6, affine=False)
    assert learner(device, model=model).predict(X).device.type == device.type


def test_a_step_of_training_waits_for_nothing(device, capsys):
    batches = to_device(BATCHES, device)
    callbacks = [GradientClip(1.0), ActivationStats(nn.ReLU), EarlyStopping(), *one_cycle(0.1)]
    learn = learner(device, batches, cbs=callbacks, default_cbs=True, metrics=[training.accuracy])
    learn.loss_func = training.cross_entropy
    learn.fit(1)  # what is made once may wait
    one_batch = learn._one_batch
    steps = []

    def watched(updates):
        with no_wait(device):
            one_batch(updates)
        steps.append(learn.step)

    learn._one_batch = watched
    learn.fit(1)
    assert len(steps) == 2 * len(BATCHES)


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.AdamW])
def test_optimizers_go_where_the_cpu_goes(device, opt_func):
    here, there = (learner(place, opt_func=opt_func, lr=1e-2) for place in (device, CPU))
    for learn in (here, there):
        learn.fit(1)
    assert close(here.model, there.model)


# --- callbacks ------------------------------------------------------------------------------------


def test_gradients_are_clipped(device):
    here, there = (learner(place, cbs=[GradientClip(0.01)]) for place in (device, CPU))
    for learn in (here, there):
        learn.fit(1)
    assert close(here.model, there.model)


def test_a_nan_ends_the_fit(device, capsys):
    bad = [(torch.full_like(x, torch.nan), y) for x, y in BATCHES]
    learn = learner(device, bad, cbs=[TerminateOnNaN()])
    learn.fit(1)
    assert "loss nan in epoch 0, batch 0" in capsys.readouterr().out
    assert all(p.isfinite().all() for p in learn.model.parameters())


def test_the_best_weights_come_back(device):
    stop = EarlyStopping(patience=1, mode="max", restore_best_weights=True)  # the first are best
    learn = learner(device, cbs=[stop])
    learn.fit(1)
    first = copy.deepcopy(learn.model)
    again = learner(device, cbs=[EarlyStopping(patience=1, mode="max", restore_best_weights=True)])
    again.fit(4)
    assert again.epoch < 4
    assert close(again.model, first)
    assert next(again.model.parameters()).device.type == device.type


def test_the_range_test_leaves_no_trace(device):
    learn = learner(device, model=net())
    before = copy.deepcopy(learn.model)
    states = get_rng_states()
    finder = LRFinder(steps=20).run(learn)
    assert len(finder.lrs) > 2
    assert close(learn.model, before)
    assert str(get_rng_states()) == str(states)


def test_snapshots_wait_on_the_cpu(device):
    cycles = SGDR(0.1)
    learn = learner(device, cbs=[cycles])
    learn.fit(1)
    assert {tensor.device for tensor in cycles.snapshots[0].values()} == {CPU}
    learn.model.load_state_dict(cycles.snapshots[0])


# --- checkpoints and files ------------------------------------------------------------------------


def resumed(path, first, second):
    """Train one epoch on one device, and a second one on another."""
    options = {"opt_func": torch.optim.AdamW, "lr": 1e-2}
    learner(first, cbs=[Stop(), Checkpoint(path)], **options).fit(2)
    learn = learner(second, cbs=[Checkpoint(path)], **options)
    learn.fit(2)
    return learn


class Stop(Callback):
    """Ends a fit after an epoch, as a crash would."""

    def before_epoch(self):
        if self.learn.epoch:
            raise CancelFitException


@pytest.mark.parametrize("way", ["to the device", "from the device", "on the device"])
def test_a_fit_goes_on_on_another_device(device, way, tmp_path, capsys):
    first, second = (CPU if way == "to the device" else device), device
    if way == "from the device":
        second = CPU
    learn = resumed(tmp_path / "fit.pt", first, second)
    assert "1 of 2 epochs were done before" in capsys.readouterr().out
    whole = learner(opt_func=torch.optim.AdamW, lr=1e-2)
    whole.fit(2)
    assert close(learn.model, whole.model)
    assert next(learn.model.parameters()).device.type == second.type


def test_a_resumed_fit_with_dropout_is_bitwise_the_same(device, tmp_path):
    torch.manual_seed(0)
    learner(device, model=net(), cbs=[Stop(), Checkpoint(tmp_path / "a.pt")]).fit(2)
    torch.manual_seed(7)
    resumed = learner(device, model=net(1), cbs=[Checkpoint(tmp_path / "a.pt")])
    resumed.fit(2)
    torch.manual_seed(0)
    whole = learner(device, model=net())
    whole.fit(2)
    pairs = zip(resumed.model.parameters(), whole.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_hold_tensors_of_the_device(device, name, tmp_path):
    model = net().to(device)
    save(model.state_dict(), tmp_path / name)
    other = net(1).to(device)
    other.load_state_dict(load(tmp_path / name))
    assert close(model, other)


def test_an_exported_model_takes_batches_of_the_device(device, tmp_path):
    model = net().to(device).eval()
    export_model(model, X.to(device), tmp_path / "net.pt2")
    assert next(model.parameters()).device.type == device.type
    assert close(load_exported(tmp_path / "net.pt2")(X.to(device)), model(X.to(device)))


# --- checks ---------------------------------------------------------------------------------------


def test_same_as_compares_modules_and_functions(device, capsys):
    same_as(norm.BatchNorm2d(4).to(device), nn.BatchNorm2d(4).to(device), IMAGES.to(device))
    same_as(training.log_softmax, F.log_softmax, X.to(device), 1)
    with pytest.raises(AssertionError, match="output"):
        same_as(torch.sin, torch.cos, X.to(device))


def test_gradient_check_works(device):
    gradient_check(lambda x, w: (x @ w).tanh(), X[:4].to(device), X[4:10, :2].to(device))
    wrong = Wrong.apply
    with pytest.raises(AssertionError, match="its gradient says"):
        gradient_check(lambda x: wrong(x).sum(), X[:4].to(device))


class Wrong(torch.autograd.Function):
    """A square with the gradient of a line."""

    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_answers_may_be_on_either_device(device):
    assert agree(X.to(device), X)
    assert agree([X], [X.to(device)])
    assert not agree(X.to(device), X + 1)
    exercise = Exercise("9.1", lambda x: x * 2, [(X,), (X + 1,)], {"x": lambda x: x * 3})
    assert exercise.judge(lambda x: (x * 2).to(device)).passed
    verdict = exercise.judge(lambda x: (x * 3).to(device))
    assert "It looks as if x" in str(verdict)
    on_device = Exercise("9.2", lambda x: x * 2, [(X.to(device),)], {"x": lambda x: x * 3})
    assert on_device.judge(lambda x: x + x).passed
    assert Prediction("9.3", 2.0, {}, "so").judge(torch.tensor(2.0, device=device)).passed


def test_a_judged_function_draws_nothing(device):
    def noisy(x):
        torch.rand(3, device=device)
        return x

    torch.manual_seed(3)
    expected = torch.rand(5, device=device)
    torch.manual_seed(3)
    Exercise("9.4", noisy, [(1,)], {"x": lambda x: x + 1}).judge(noisy)
    assert torch.equal(torch.rand(5, device=device), expected)


# --- layers, losses and starts --------------------------------------------------------------------


def fixup_block():
    return init.FixupBlock(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)))


LAYERS = {
    "BatchNorm2d": lambda: norm.BatchNorm2d(4),
    "LayerNorm": lambda: norm.LayerNorm((4, 6, 6)),
    "InstanceNorm2d": lambda: norm.InstanceNorm2d(4, affine=True),
    "GroupNorm": lambda: norm.GroupNorm(2, 4),
    "RunningBatchNorm2d": lambda: norm.RunningBatchNorm2d(4),
    "Conv2d": lambda: conv.Conv2d(4, 3, 3, padding=1),
    "SELU": init.SELU,
    "FixupBlock": fixup_block,
    "simple_cnn": lambda: nn.Sequential(nn.Conv2d(4, 1, 1), conv.simple_cnn()),
    "lazy": lambda: Sequential(LazyLinear(3)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_layer_computes_what_it_computes_on_the_cpu(device, name, train):
    torch.manual_seed(0)
    there = LAYERS[name]()
    images = torch.randn(2, 4, 32, 32) if name == "simple_cnn" else IMAGES
    there(images)
    here = copy.deepcopy(there).to(device)
    outputs, gradients = [], []
    for model, place in ((here, device), (there, CPU)):
        x = images.to(place).clone().requires_grad_()
        model.train(train)
        with no_wait(place):
            y = model(x)
            (y * y.detach().cos()).sum().backward()
        outputs.append(y)
        gradients.append([x.grad, *(p.grad for p in model.parameters())])
    assert outputs[0].device.type == device.type
    assert close(*outputs)
    assert all(close(a, b) for a, b in zip(*gradients, strict=True))
    assert close(here, there)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: conv.im2col(x, 3),
        lambda x: conv.max_pool2d(x, 2),
        lambda x: conv.adaptive_avg_pool2d(x, (2, 3)),
        lambda x: training.log_softmax(x, 1),
        lambda x: training.mse_loss(x, x * 2),
    ],
    ids=["im2col", "max_pool2d", "adaptive_avg_pool2d", "log_softmax", "mse_loss"],
)
def test_a_function_computes_what_it_computes_on_the_cpu(device, fn):
    x = IMAGES.to(device)
    with no_wait(device):
        y = fn(x)
    assert close(y, fn(IMAGES))


@pytest.mark.parametrize("loss", [training.cross_entropy, training.nll_loss])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_classes_do_not_wait(device, loss, weighted):
    scores = torch.randn(100, 2, generator=seeded(2)).log_softmax(1)
    weight = torch.tensor([1.0, 3.0]) if weighted else None
    x, y, w = to_device([scores, Y, weight], device)
    with no_wait(device):
        value = loss(x, y, w)
    assert close(value, loss(scores, Y, weight))


def test_losses_name_what_lies_elsewhere(device):
    if device == CPU:
        pytest.skip("there is one device only")
    x, y = to_device([X, Y], device)
    with pytest.raises(TypeError, match="expected weight as a tensor on"):
        training.cross_entropy(x, y, torch.ones(6))
    with pytest.raises(RuntimeError, match="same device"):
        training.cross_entropy(x, Y)


def test_a_metric_may_get_numbers_of_two_devices(device):
    metric = training.Metric(lambda pred, target: pred.mean() if len(pred) > 1 else 1.0)
    metric.update(torch.ones(2, device=device), torch.ones(2, device=device))
    metric.update(torch.ones(1, device=device), torch.ones(1, device=device))
    assert metric.compute() == 1


@pytest.mark.parametrize(
    "fill",
    [
        init.kaiming_normal_,
        init.kaiming_uniform_,
        init.xavier_normal_,
        init.xavier_uniform_,
        init.lecun_normal_,
        init.orthogonal_,
    ],
)
def test_weights_are_drawn_on_the_device(device, fill):
    weight = torch.empty(400, 400, device=device)
    with no_wait(device):
        fill(weight)
    assert weight.device.type == device.type
    assert weight.std().item() == pytest.approx(400**-0.5, rel=1.0)


def test_lsuv_gives_outputs_of_size_one(device):
    model = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 5)).to(device)
    found = init.lsuv_(model, X.to(device))
    assert all(abs(std - 1) < 0.02 for std in found.values())
    assert next(model.parameters()).device.type == device.type


def test_fixup_works(device):
    model = nn.Sequential(fixup_block(), nn.Flatten(), nn.Linear(144, 3)).to(device)
    init.fixup_(model)
    assert model(IMAGES.to(device)).device.type == device.type


# --- hooks ----------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_cpu_and_change_nothing(device):
    learners = []
    for place in (device, CPU):
        stats = ActivationStats()
        learners.append((learner(place, cbs=[stats]), stats))
        learners[-1][0].fit(1)
    plain = learner(device)
    plain.fit(1)
    (here, mine), (_, theirs) = learners
    assert torch.allclose(mine.history, theirs.history, 1e-3, 1e-4, equal_nan=True)
    pairs = zip(here.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_hooks_see_tensors_of_the_device(device):
    model = net().to(device)
    with Hooks(model, lambda module, inputs, output: output.mean()) as hooks:
        model(X.to(device))
    assert {hook.value.device.type for hook in hooks} == {device.type}


def test_a_summary_counts_what_it_counts_on_the_cpu(device):
    assert str(model_summary(net().to(device), X.to(device))) == str(model_summary(net(), X))


def test_image_loaders_put_all_images_on_the_device(device):
    data = image_loaders("mnist")
    x, y = next(iter(data.train_dl))
    assert x.device.type == y.device.type == default_device().type


# --- records --------------------------------------------------------------------------------------


def test_a_record_names_the_device(device):
    torch.empty(2**20, device=device)
    name = record._device()
    assert ("CPU" in name) == (device == CPU and default_device() == CPU)
    assert record._peak_mb() > 0


# --- random numbers -------------------------------------------------------------------------------


def test_what_is_drawn_leaves_no_trace(device):
    model = net().to(device)
    before = copy.deepcopy(model)
    torch.manual_seed(3)
    expected = torch.rand(5, device=device)
    torch.manual_seed(3)
    with preserve_state(model):
        y = model(X.to(device))
        y.backward(torch.randn_like(y))
    assert close(model, before)
    assert torch.equal(torch.rand(5, device=device), expected)


class Average(Callback):
    """A running average of the weights, which lies where they lie."""

    state_attrs = "average"

    def before_fit(self):
        self.average = [p.detach().clone() for p in self.learn.model.parameters()]

    def after_step(self):
        for mean, p in zip(self.average, self.learn.model.parameters(), strict=True):
            mean.lerp_(p.detach(), 0.1)


def test_what_a_callback_remembers_comes_back_to_the_device(device, tmp_path):
    whole = Average()
    learner(device, cbs=[whole]).fit(3)
    learner(device, cbs=[Average(), Checkpoint(tmp_path / "c")]).fit(2)
    again = Average()
    learner(device, cbs=[again, Checkpoint(tmp_path / "c")]).fit(3)
    for mine, right in zip(again.average, whole.average, strict=True):
        assert mine.device == right.device
        assert close(mine, right)


def test_a_chapter_trains_on_the_device(device, tmp_path):
    """It runs there without edits, and what is stored holds; on real data, the numbers as well."""
    environment = {"FROMFOUND_DATA": "standin"} | tree_environment()
    if device.type == "sim":
        startup = tmp_path / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "accelerator.py").write_text("import tests.accelerator\n", encoding="utf-8")
        environment["IPYTHONDIR"] = str(tmp_path / "ipython")
    place, path = tmp_path / "place", ROOT / "nbs" / "04b_callback.ipynb"
    copy_chapters(place, [path])
    report, _ = rerun(place, [path], environment, count=1)
    chapter = report["04b_callback"]
    assert chapter["failures"] == []
    assert chapter["comparisons"] > 20


def test_statistics_of_a_model_on_two_devices(device):
    class Moves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.last = nn.Linear(8, 2).to(device)

        def forward(self, x):
            return self.last(self.first(x).relu().to(device)).to(x.device)

    stats = ActivationStats(every=1)
    learn = Learner(Moves(), DataBunch(BATCHES[:3]), F.cross_entropy, default_cbs=False)
    learn.fit(1, cbs=[stats])
    assert stats.history.shape == (3, 2, 56)
    assert stats.history[:, :, 2:].isfinite().all()
