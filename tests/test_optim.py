"""Chapter 09: every optimizer through one battery, bit for bit against torch's loop.

It covers saved states both ways, layouts, types, refusals, convergence, and wrong optimizers.
"""

import copy
import io
import math
import pickle
import warnings
from dataclasses import dataclass, field
from functools import partial
from textwrap import indent
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from fromfound import optim as ours
from fromfound.experiments.optim import Lamb
from fromfound.learner import Callback, Checkpoint, DataBunch, Learner, Recorder
from fromfound.optim import StatefulOptimizer, orthogonalize
from fromfound.schedule import ParamScheduler, sched_lin
from tests.toys import BATCHES, seeded

ANY = ((4, 3), (5,), (2, 3, 2, 2), (), (1, 6))
MATRICES = ((4, 3), (3, 5), (1, 6), (2, 2), (5, 1))


# --- optimizers written out, right and wrong ------------------------------------------------------

RIGHT = {  # a step of the parameter p: s is what is kept about it, o are the options of its group
    "sgd": """
o = mine
if p.grad is None: return
g = -p.grad if o.maximize else p.grad
if o.weight_decay: g = g.add(p, alpha=o.weight_decay)
if o.momentum:
    if "b" not in s: s["b"] = g.clone()
    else: s["b"].mul_(o.momentum).add_(g, alpha=1 - o.dampening)
    g = g.add(s["b"], alpha=o.momentum) if o.nesterov else s["b"]
p.add_(g, alpha=-o.lr)
""",
    "rmsprop": """
o = mine
if p.grad is None: return
g = -p.grad if o.maximize else p.grad
if o.weight_decay: g = g.add(p, alpha=o.weight_decay)
if "v" not in s: s.update(v=torch.zeros_like(p), b=torch.zeros_like(p))
s["v"].mul_(o.alpha).addcmul_(g, g, value=1 - o.alpha)
root = s["v"].sqrt().add_(o.eps)
if o.momentum:
    s["b"].mul_(o.momentum).addcdiv_(g, root)
    p.add_(s["b"], alpha=-o.lr)
else: p.addcdiv_(g, root, value=-o.lr)
""",
    "adamw": """
o = mine
if p.grad is None: return
g = -p.grad if o.maximize else p.grad
if "m" not in s: s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
s["t"] += 1
t, (b1, b2) = s["t"], o.betas
p.mul_(1 - o.lr * o.weight_decay)
s["m"].lerp_(g, 1 - b1)
s["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
root = (s["v"].sqrt() / (1 - b2**t) ** 0.5).add_(o.eps)
p.addcdiv_(s["m"], root, value=-o.lr / (1 - b1**t))
""",
    "lamb": """
o = mine
if p.grad is None: return
g = -p.grad if o.maximize else p.grad
if "m" not in s: s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
s["t"] += 1
t, (b1, b2) = s["t"], o.betas
s["m"] = b1 * s["m"] + (1 - b1) * g
s["v"] = b2 * s["v"] + (1 - b2) * g**2
mean, square = s["m"] / (1 - b1**t), s["v"] / (1 - b2**t)
u = mean / (square.sqrt() + o.eps)
u = u + o.weight_decay * p
long, way = (p**2).sum().sqrt().item(), (u**2).sum().sqrt().item()
ratio = long / way if long > 0 and way > 0 else 1.0
p -= o.lr * ratio * u
""",
    "muon": """
o = mine
if p.grad is None: return
g = p.grad
if "b" not in s: s["b"] = torch.zeros_like(p)
s["b"].lerp_(g, 1 - o.momentum)
u = g.lerp(s["b"], o.momentum) if o.nesterov else s["b"].clone()
x, (a, b, c) = u.bfloat16(), o.ns_coefficients
tall = len(p) > p.shape[1]
if tall: x = x.T
x = x / x.norm().clamp(min=o.eps)
for _ in range(o.ns_steps):
    square = x @ x.T
    x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
if tall: x = x.T
rows, columns = p.shape
by = max(1, rows / columns) ** 0.5
if o.adjust_lr_fn == "match_rms_adamw": by = 0.2 * max(rows, columns) ** 0.5
p.mul_(1 - o.lr * o.weight_decay)
p.add_(x, alpha=-o.lr * by)
""",
}
RIGHT["adam"] = (
    RIGHT["adamw"]
    .replace("p.mul_(1 - o.lr * o.weight_decay)\n", "")
    .replace('if "m"', 'if o.weight_decay: g = g.add(p, alpha=o.weight_decay)\nif "m"')
)
DEFAULTS = {
    "sgd": dict(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False),
    "rmsprop": dict(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, maximize=False),
    "adam": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, maximize=False),
    "adamw": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, maximize=False),
    "lamb": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1e-2, maximize=False),
    "muon": dict(
        lr=1e-3,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=True,
        eps=1e-7,
        ns_steps=5,
        ns_coefficients=(3.4445, -4.775, 2.0315),
        adjust_lr_fn=None,
    ),
}


class Written(torch.optim.Optimizer):
    """An optimizer whose step is a text of RIGHT, or a wrong one."""

    def __init__(self, params, kind, changes=(), **options):
        super().__init__(params, DEFAULTS[kind] | options)
        text = RIGHT[kind]
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {kind}"
            text = text.replace(old, new)
        found = {}
        exec(f"def rule(p, s, mine, first):{indent(text, '    ')}", {"torch": torch}, found)
        self.rule = found["rule"]

    @torch.no_grad()
    def step(self):
        groups = [SimpleNamespace(**group) for group in self.param_groups]
        for group in groups:
            for p in group.params:
                self.rule(p, self.state[p], group, groups[0])


ONE_BY_ONE = {"foreach": False}
TORCH = {
    "sgd": partial(torch.optim.SGD, **ONE_BY_ONE),
    "rmsprop": partial(torch.optim.RMSprop, **ONE_BY_ONE),
    "adam": partial(torch.optim.Adam, **ONE_BY_ONE),
    "adamw": partial(torch.optim.AdamW, **ONE_BY_ONE),
}
if hasattr(torch.optim, "Muon"):  # from 2.9 on
    TORCH["muon"] = torch.optim.Muon
ORACLES = {kind: partial(Written, kind=kind) for kind in RIGHT} | TORCH
EXACT = {"sgd", "rmsprop", "adam", "adamw", "muon"}  # the same bits; lamb is another formula


# --- one comparison -------------------------------------------------------------------------------


def parameters(shapes=ANY, dtype=torch.float32, seed=0):
    """Parameters with random values, one of them all zeros at first."""
    found = []
    for k, shape in enumerate(shapes):
        values = torch.randn(shape, generator=seeded(seed + k), dtype=torch.float64)
        found.append(nn.Parameter((values * (k != 1)).to(dtype)))
    return found


def gradients(params, step, seed=0):
    """Gradients over seven decades; in turn one is all zeros, and one is missing."""
    for k, p in enumerate(params):
        generator = seeded(997 * seed + 31 * step + k)
        draw = partial(torch.rand, p.shape, generator=generator, dtype=torch.float64)
        g = (2 * draw() - 1) * 10 ** (7 * draw() - 6) * ((step + k) % 6 > 0)
        yield None if (step + k) % 5 == 4 else torch.empty_like(p).copy_(g).detach()


def walk(opt, params, steps=6, start=0, seed=0, sign=1):
    """Take steps; gradients stay as they are."""
    for step in range(start, start + steps):
        grads = list(gradients(params, step, seed))
        for p, g in zip(params, grads, strict=True):
            if g is None or p.grad is None:
                p.grad = None if g is None else sign * g
            else:
                p.grad.copy_(sign * g)  # in the same memory, as loss.backward() does
        opt.step()
        for p, g in zip(params, grads, strict=True):
            assert g is None or torch.equal(p.grad, sign * g), "a gradient has changed"


def exactly(got, expected):
    """Compare tensors, lists of them, or states, bit for bit."""
    near(got, expected, 0)


def near(got, expected, tol):
    """Compare tensors, lists of them, or states."""
    torch.testing.assert_close(got, expected, rtol=tol, atol=tol, equal_nan=True)


def agree(make, oracle, options, shapes=ANY, dtype=torch.float32, tol=0, steps=20, seed=0):
    """Check that two optimizers take the same steps.

    There are two groups, the second slower, and the learning rates change on the way.
    """
    walkers = []
    for one in (make, oracle):
        params = parameters(shapes, dtype, seed)
        groups = [{"params": params[::2]}]
        if params[1::2]:
            groups.append({"params": params[1::2], "lr": options["lr"] / 3})
        walkers.append((one(groups, **options), params))
    for step in range(steps):
        for opt, params in walkers:
            walk(opt, params, 1, step, seed)
            for group in opt.param_groups:
                group["lr"] *= 0.5 if step == 7 else 1
        (_, mine), (_, theirs) = walkers
        if tol == 0 and not all(map(torch.equal, mine, theirs)):
            break
    near(mine, theirs, tol)
    assert all(p.isfinite().all() for p in mine), "it has run away"
    return walkers


ROWS = {
    "sgd": [
        dict(lr=0.1),
        dict(lr=0.1, momentum=0.9),
        dict(lr=0.1, momentum=0.9, weight_decay=0.1),
        dict(lr=0.1, momentum=0.5, dampening=0.3, maximize=True, weight_decay=0.5),
        dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        dict(lr=0.1, weight_decay=0.2, maximize=True),
    ],
    "rmsprop": [
        dict(lr=0.01),
        dict(lr=0.01, alpha=0.7, eps=0.1, weight_decay=0.3),
        dict(lr=0.01, alpha=0.9, momentum=0.8, weight_decay=0.1, maximize=True),
    ],
    "adamw": [
        dict(lr=0.01),
        dict(lr=0.1, betas=(0.5, 0.9), eps=0.1, weight_decay=2.0),
        dict(lr=0.1, betas=(0.9, 0.5), eps=1e-3, weight_decay=0.0),
        dict(lr=0.01, weight_decay=0.5, maximize=True),
    ],
    "muon": [
        dict(lr=0.02),
        dict(lr=0.1, weight_decay=2.0, momentum=0.5, nesterov=False),
        dict(lr=0.1, adjust_lr_fn="match_rms_adamw", ns_steps=3, eps=0.1),
        dict(lr=0.1, ns_coefficients=(2.0, -1.5, 0.5), weight_decay=0.0, momentum=0.8),
    ],
}
ROWS["adam"] = ROWS["lamb"] = ROWS["adamw"]
KINDS = list(ROWS)


def core(make, kind):
    """Compare an optimizer with its oracle, in all rows of options and both types."""
    for options in ROWS[kind]:
        for dtype in (torch.float32, torch.float64):
            tol = 0 if kind in EXACT else 1e-11 if dtype == torch.float64 else 1e-4
            shapes = MATRICES if kind == "muon" else ANY
            agree(make, ORACLES[kind], options, shapes, dtype, tol, steps=12)


@pytest.mark.parametrize("kind", KINDS)
def test_same_steps_as_the_oracle(kind):
    core(getattr(ours, kind), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_out_is_right(kind):
    core(partial(Written, kind=kind), kind)


@pytest.mark.parametrize("options", ROWS["lamb"][:3])
def test_lamb_as_in_the_experiments(options):
    """Another formula, which uses nothing of the library."""
    agree(ours.lamb, Lamb, {"weight_decay": 0.01} | options, dtype=torch.float64, tol=1e-11)


@dataclass
class Entry:
    """An optimizer with options, for the battery."""

    kind: str
    make: object
    options: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)  # what torch's needs on top

    def __call__(self, params, **more):
        return self.make(params, **self.options | more)

    def reference(self, params, **more):
        if self.kind not in TORCH:
            pytest.skip("torch has none")
        return TORCH[self.kind](params, **self.options | self.theirs | more)

    def parameters(self, dtype=torch.float32, seed=0):
        return parameters(MATRICES if self.kind == "muon" else ANY, dtype, seed)

    def pair(self, **more):
        params = self.parameters(**{k: more.pop(k) for k in ("dtype", "seed") if k in more})
        return self(params, **more), params


ALL = {
    "sgd": Entry("sgd", ours.sgd, dict(lr=0.1)),
    "sgd, all": Entry("sgd", ours.sgd, dict(lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1)),
    "momentum": Entry("sgd", ours.momentum, dict(lr=0.1), dict(momentum=0.9)),
    "nesterov": Entry("sgd", ours.nesterov, dict(lr=0.1), dict(momentum=0.9, nesterov=True)),
    "rmsprop": Entry("rmsprop", ours.rmsprop, dict(lr=0.01)),
    "rmsprop, all": Entry(
        "rmsprop", ours.rmsprop, dict(lr=0.01, momentum=0.9, alpha=0.9, weight_decay=0.1)
    ),
    "adam": Entry("adam", ours.adam, dict(lr=0.01)),
    "adam, all": Entry("adam", ours.adam, dict(lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)),
    "adamw": Entry("adamw", ours.adamw, dict(lr=0.01, weight_decay=0.1)),
    "lamb": Entry("lamb", ours.lamb, dict(lr=0.01)),
    "muon": Entry("muon", ours.muon, dict(lr=0.02)),
    "muon, all": Entry(
        "muon", ours.muon, dict(lr=0.02, nesterov=False, adjust_lr_fn="match_rms_adamw")
    ),
}
every = pytest.mark.parametrize("entry", ALL.values(), ids=ALL)
with_torch = pytest.mark.parametrize(
    "entry",
    [e for e in ALL.values() if e.kind in TORCH],
    ids=[name for name, e in ALL.items() if e.kind in TORCH],
)


def cloned(params):
    """Parameters with the same values and layouts."""
    return [nn.Parameter(p.detach().clone(), p.requires_grad) for p in params]


def squares(params):
    """The sum of the squares of all numbers."""
    return sum(torch.dot(p.flatten(), p.flatten()) for p in params)


def values(opt):
    """What an optimizer keeps, by the number of the parameter."""
    return opt.state_dict()["state"]


# --- the same bits as torch -----------------------------------------------------------------------

OPTIONS = {
    "sgd": dict(momentum=st.sampled_from([0, 0.5, 0.9]), dampening=st.sampled_from([0, 0.1, 0.5])),
    "rmsprop": dict(alpha=st.floats(0, 0.999), momentum=st.sampled_from([0, 0.9])),
    "adam": dict(betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))),
    "adamw": dict(betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))),
    "muon": dict(
        momentum=st.floats(0, 0.99),
        nesterov=st.booleans(),
        ns_steps=st.integers(0, 6),
        adjust_lr_fn=st.sampled_from([None, "original", "match_rms_adamw"]),
    ),
}


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if kind in TORCH])
@settings(max_examples=10)
@given(data=st.data())
def test_same_bits_as_torch_with_any_options(kind, data):
    options = data.draw(st.fixed_dictionaries(OPTIONS[kind]))
    options |= dict(lr=data.draw(st.floats(1e-5, 0.1)), weight_decay=data.draw(st.floats(0, 0.5)))
    if kind != "muon":
        options["maximize"] = data.draw(st.booleans())
    if kind == "sgd":
        free = options["momentum"] > 0 and options["dampening"] == 0
        options["nesterov"] = data.draw(st.booleans()) and free
    else:
        options["eps"] = data.draw(st.floats(1e-8, 0.1))
    side = st.integers(1, 5)
    shape = st.tuples(side, side) if kind == "muon" else st.lists(side, max_size=4).map(tuple)
    shapes = data.draw(st.lists(shape, min_size=1, max_size=3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    make = getattr(ours, kind)
    walkers = agree(make, TORCH[kind], options, shapes, dtype, seed=data.draw(st.integers(0, 99)))
    exactly(*(values(opt) for opt, _ in walkers))


@with_torch
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_as_in_torch(entry, dtype):
    eps = {"eps": 1e-2} if "eps" in DEFAULTS[entry.kind] else {}  # 1e-8 is 0 in float16
    opt, mine = entry.pair(dtype=dtype, **eps)
    theirs = cloned(mine)
    other = entry.reference(theirs, **eps)
    if entry.kind == "muon" and not entry.options.get("nesterov", True) and "b" in str(dtype):
        pytest.skip("torch's changes its buffer by mistake")
    walk(opt, mine, 8), walk(other, theirs, 8)
    exactly(mine, theirs)
    exactly(values(opt), values(other))
    assert all(p.dtype == dtype and p.isfinite().all() for p in mine)


@every
def test_bfloat16_is_near_float32(entry):
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        opt, params = entry.pair(dtype=torch.bfloat16)
        params = [nn.Parameter(p.detach().to(dtype)) for p in params]
        walk(entry(params), params, 4)
        found.append([p.detach().float() for p in params])
    near(*found, tol=0.05)


@with_torch
def test_layouts_of_memory(entry):
    """Transposed, channels last, every second: the same bits as in torch, laid out as before."""
    if entry.kind == "muon":
        mine = [torch.randn(4, 3).T, torch.randn(8, 3)[::2], torch.randn(1, 3).expand(1, 3)]
    else:
        mine = [
            torch.randn(4, 3).T,
            torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            torch.randn(8, 3)[::2],
            torch.randn(9)[1::3],
        ]
    strides = [x.stride() for x in mine]
    theirs = [nn.Parameter(x.clone(memory_format=torch.preserve_format)) for x in mine]
    mine = [nn.Parameter(x) for x in mine]
    theirs[2] = nn.Parameter(theirs[2].detach().clone())
    opt, other = entry(mine), entry.reference(theirs)
    walk(opt, mine, 8), walk(other, theirs, 8)
    assert [p.stride() for p in mine] == strides
    kept, expected = (
        [x.stride() for state in values(one).values() for x in state.values() if torch.is_tensor(x)]
        for one in (opt, other)
    )
    assert kept == expected
    exactly([p.contiguous() for p in mine], [p.contiguous() for p in theirs])


@every
def test_empty_tensors(entry):
    shapes = [(0, 3), (3, 0)] if entry.kind == "muon" else [(0,), (3, 0), (0, 2, 2, 2)]
    params = parameters(shapes)
    params += entry.parameters()[:1]
    alone = cloned(params[-1:])
    opt = entry(params)
    for step in range(3):
        for p in [*params, *alone]:
            p.grad = torch.ones_like(p)
        opt.step()
        if step == 0:
            other = entry(alone)
        other.step()
    exactly(params[-1:], alone)


# --- saved, copied, and taken over ----------------------------------------------------------------


@every
@pytest.mark.parametrize("way", ["dictionary", "file", "deepcopy", "pickle"])
def test_saved_on_the_way(entry, way):
    """Twice: what was loaded can be saved again."""
    opt, params = entry.pair()
    walk(opt, params, 7)
    if way in ("deepcopy", "pickle"):
        both = (opt, params)
        twin, others = (
            copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
        )
        assert repr(twin) == repr(opt)
        assert twin.param_groups[0]["params"][0] is others[0]
    else:
        state = opt.state_dict()
        if way == "file":
            torch.save(state, file := io.BytesIO())
            file.seek(0)
            state = torch.load(file, weights_only=True)
        others = cloned(params)
        twin = entry(others, lr=9.0)
        twin.load_state_dict(copy.deepcopy(state))
        assert twin.param_groups[0]["lr"] == entry.options["lr"]
    walk(opt, params, 6, start=7), walk(twin, others, 6, start=7)
    exactly(params, others)
    exactly(values(opt), values(twin))
    for state in (opt.state_dict(), twin.state_dict()):
        twin.load_state_dict(copy.deepcopy(state))
    exactly(values(opt), values(twin))
    assert twin.state_dict()["param_groups"] == opt.state_dict()["param_groups"]


@with_torch
@pytest.mark.parametrize("direction", ["to torch", "from torch"])
def test_torch_goes_on(entry, direction):
    mine = entry.parameters()
    straight = cloned(mine)
    walk(entry.reference(straight), straight, 13)
    first, second = (
        (entry, entry.reference) if direction == "to torch" else (entry.reference, entry)
    )
    walk(opt := first(mine), mine, 7)
    others = cloned(mine)
    (twin := second(others, lr=9.0)).load_state_dict(copy.deepcopy(opt.state_dict()))
    walk(twin, others, 6, start=7)
    exactly(others, straight)


@with_torch
def test_the_saved_state_is_torchs(entry):
    """The same keys, types and values; what only torch's loop asks for may be missing."""
    (opt, mine), theirs = entry.pair(), entry.parameters()
    other = entry.reference(theirs)
    walk(opt, mine, 3), walk(other, theirs, 3)
    exactly(values(opt), values(other))
    (own,), (group,) = opt.state_dict()["param_groups"], other.state_dict()["param_groups"]
    extra = {"foreach", "fused", "capturable", "differentiable"}
    assert own == {key: value for key, value in group.items() if key not in extra}


@every
def test_hooks_of_the_state(entry):
    opt, params = entry.pair()
    walk(opt, params, 2)
    opt.register_state_dict_post_hook(lambda opt, state: state | {"note": 1})
    opt.register_load_state_dict_pre_hook(lambda opt, state: seen.append(state["note"]))
    opt.register_load_state_dict_post_hook(lambda opt: seen.append(opt))
    seen = []
    opt.load_state_dict(opt.state_dict())
    assert seen == [1, opt]


def test_a_hook_may_turn_a_state_into_one_that_fits():
    """What is loaded is judged after the hooks, as torch calls them."""
    params = parameters()
    walk(other := torch.optim.Adam(params, amsgrad=True), params, 2)
    opt = ours.adam(cloned(params))

    def without_amsgrad(opt, state):
        (group,) = state["param_groups"]
        return state | {"param_groups": [group | {"amsgrad": False}]}

    opt.register_load_state_dict_pre_hook(without_amsgrad)
    opt.register_load_state_dict_pre_hook(lambda opt, state: state["opt"], prepend=True)
    opt.load_state_dict({"opt": other.state_dict()})
    exactly(values(opt)[0]["exp_avg"], values(other)[0]["exp_avg"])


OTHER_STATES = [
    (ours.adam, torch.optim.SGD, dict(lr=0.1), "adam expected the state .* without"),
    (ours.sgd, torch.optim.Adam, dict(lr=0.1), "sgd expected the state .* with amsgrad"),
    (ours.rmsprop, torch.optim.Adam, dict(lr=0.1), "rmsprop expected the state .* without alpha"),
    (ours.adam, torch.optim.Adamax, {}, "adam expected the state .* without amsgrad"),
    (ours.adamw, torch.optim.Adamax, {}, "adamw expected the state .* without amsgrad"),
    (ours.adam, torch.optim.NAdam, {}, "adam expected the state .* with"),
    (ours.adam, torch.optim.RAdam, {}, "adam expected the state .* without amsgrad"),
    (ours.lamb, torch.optim.Adam, {}, "lamb expected the state .* with"),
    (ours.lamb, torch.optim.Adamax, {}, "lamb expected the state .* with"),
    (ours.lamb, ours.adam, {}, "lamb expected the state .* with"),
    (ours.lamb, ours.adamw, {}, "lamb expected the state .* with"),
    (ours.adam, ours.lamb, {}, "adam expected the state .* with"),
    (ours.adamw, ours.lamb, {}, "adamw expected the state .* with"),
    (ours.adam, torch.optim.Adam, dict(amsgrad=True), "adam expected amsgrad=False, got True"),
    (ours.rmsprop, torch.optim.RMSprop, dict(centered=True), "rmsprop expected centered=False"),
]
if "decoupled_weight_decay" in torch.optim.AdamW([nn.Parameter(torch.ones(1))]).defaults:
    OTHER_STATES += [
        (ours.adam, torch.optim.AdamW, {}, "adam expected decoupled_weight_decay=False, got True"),
        (ours.adamw, torch.optim.Adam, {}, "adamw expected decoupled_weight_decay=True, got False"),
    ]


@pytest.mark.parametrize("make, theirs, options, message", OTHER_STATES)
def test_states_of_others_are_refused(make, theirs, options, message):
    """Nothing has changed then."""
    params = parameters()
    opt = make(params)
    walk(opt, params, 2)
    other = theirs(cloned(params), **options)
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(other.state_dict())
    assert str(opt.state_dict()) == str(before)


@every
def test_a_state_of_another_size_is_refused(entry):
    opt, params = entry.pair()
    few = entry(params[:2])
    name = opt.name
    with pytest.raises(ValueError, match=f"{name}: .*size"):
        opt.load_state_dict(few.state_dict())
    with pytest.raises(ValueError, match=f"{name}: .*number of|{name}: .*groups"):
        opt.load_state_dict({"state": {}, "param_groups": []})


# --- groups, and what has no gradient -------------------------------------------------------------


@every
def test_groups_are_like_optimizers_of_their_own(entry):
    params = entry.parameters()
    others = cloned(params)
    opt = entry([{"params": params[:2], "lr": 0.3}, {"params": params[2:], "weight_decay": 0.3}])
    for part, more in ((others[:2], dict(lr=0.3)), (others[2:], dict(weight_decay=0.3))):
        own = entry(part, **more)
        for step in range(6):
            for p, g in zip(others, list(gradients(others, step)), strict=True):
                p.grad = g
            own.step()
    walk(opt, params)
    exactly(params, others)


@every
def test_a_group_is_added_on_the_way(entry):
    params = entry.parameters()
    others = cloned(params)
    opt = entry(params[:2])
    walk(opt, params, 4)
    opt.add_param_group({"params": iter(params[2:]), "lr": 0.03})
    walk(opt, params, 4, start=4)
    walk(entry(others[:2]), others, 8)
    late = entry(others[2:], lr=0.03)
    for step in range(4, 8):
        for p, g in zip(others, list(gradients(others, step)), strict=True):
            p.grad = g
        late.step()
    exactly(params, others)
    assert len(opt.param_groups) == 2


@every
def test_names_of_parameters(entry):
    """Pairs of name and parameter, as torch takes them from 2.6 on."""
    params = entry.parameters()
    if not hasattr(torch.optim.Optimizer, "_process_value_according_to_param_policy"):
        pytest.skip("an older torch")
    try:
        torch.optim.SGD([("a", params[0])], lr=0.1)
    except TypeError:
        pytest.skip("this torch takes no names")
    opt = entry([(f"p{k}", p) for k, p in enumerate(params)])
    walk(opt, params, 2)
    assert opt.state_dict()["param_groups"][0]["param_names"][:2] == ["p0", "p1"]
    others = cloned(params)
    (twin := entry(others)).load_state_dict(copy.deepcopy(opt.state_dict()))
    walk(opt, params, 2), walk(twin, others, 2)
    exactly(params, others)


@every
def test_without_gradients(entry):
    """Nothing is kept about what has made no step, and it stays."""
    params = entry.parameters()
    params[0].requires_grad_(False)
    before = cloned(params)
    opt = entry(params)
    opt.step()
    exactly(params, before)
    assert not opt.state
    params[1].grad = torch.ones_like(params[1])
    opt.step()
    exactly([params[0], *params[2:]], [before[0], *before[2:]])
    assert not torch.equal(params[1], before[1])
    assert set(opt.state) <= {params[1]}
    assert set(values(opt)) <= {1}


@every
@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad(entry, to_none):
    opt, params = entry.pair()
    for p in params:
        p.grad = torch.ones_like(p)
    grads = [p.grad for p in params]
    opt.zero_grad(set_to_none=to_none)
    if to_none:
        assert all(p.grad is None for p in params)
        exactly(grads, [torch.ones_like(g) for g in grads])
    else:
        assert all(p.grad is g and not g.any() for p, g in zip(params, grads, strict=True))


@every
def test_maximize_goes_up(entry):
    if entry.kind == "muon":
        with pytest.raises(TypeError, match="maximize"):
            entry(entry.parameters(), maximize=True)
        return
    up, mine = entry.pair(maximize=True)
    down, others = entry.pair()
    walk(up, mine, 8), walk(down, others, 8, sign=-1)
    exactly(mine, others)


@every
def test_closure(entry):
    opt, params = entry.pair()
    before = cloned(params)
    called = []

    def closure():
        called.append(torch.is_grad_enabled())
        opt.zero_grad()
        loss = squares(params)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = opt.step(closure)
    assert called == [True]
    exactly(loss, squares(before))
    assert not torch.equal(params[0], before[0])
    assert opt.step() is None


@every
def test_no_graph_is_kept(entry):
    """Gradients with a graph of their own: what is kept and the parameters have none."""
    opt, params = entry.pair()
    for _ in range(3):
        grads = torch.autograd.grad(squares(params) ** 2, params, create_graph=True)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        opt.step()
        opt.zero_grad()
    kept = [x for state in opt.state.values() for x in state.values() if torch.is_tensor(x)]
    assert all(p.is_leaf and p.requires_grad for p in params)
    assert not any(x.requires_grad or x.grad_fn for x in kept)


@every
def test_runs_are_alike_and_draw_nothing(entry):
    torch.manual_seed(3)
    state, found = torch.get_rng_state(), []
    for _ in range(2):
        opt, params = entry.pair()
        walk(opt, params)
        found.append(params)
    exactly(*found)
    exactly(torch.get_rng_state(), state)


@every
def test_another_default_device_and_type(entry):
    opt, params = entry.pair()
    walk(opt, params)
    twin, others = entry.pair()
    grads = [list(gradients(others, step)) for step in range(6)]
    with torch.device("meta"):
        for step in grads:
            for p, g in zip(others, step, strict=True):
                p.grad = g
            twin.step()
    exactly(params, others)
    exactly(values(opt), values(twin))
    torch.set_default_dtype(torch.float64)
    try:
        twin, others = entry.pair()
        walk(twin, others)
    finally:
        torch.set_default_dtype(torch.float32)
    exactly(params, others)


# --- with torch's tools ---------------------------------------------------------------------------


@with_torch
def test_a_tensor_as_learning_rate(entry):
    for shape in ((), (1,)):
        opt, mine = entry.pair(lr=torch.full(shape, 0.05))
        walk(opt, mine, 8)
        theirs = entry.parameters()
        walk(entry.reference(theirs, lr=torch.full(shape, 0.05)), theirs, 8)
        exactly(mine, theirs)
        twin, others = entry.pair(lr=0.05)
        walk(twin, others, 8)
        near(others, mine, 1e-5)
        assert torch.is_tensor(opt.state_dict()["param_groups"][0]["lr"])


SCHEDULERS = {
    "step": lambda opt: lr_scheduler.StepLR(opt, 2, 0.3),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 6),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda k: 1 / (1 + k)),
    "warmup": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
    "one cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, 8, cycle_momentum=False),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, 2, cycle_momentum=False),
}


@with_torch
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers(entry, make):
    """Rates and weights as with torch's optimizer; half-way the optimizer is replaced by a copy."""
    runs = []
    for one in (entry, entry.reference):
        params, rates = entry.parameters(), []
        opt = one([{"params": params[:2]}, {"params": params[2:], "lr": 0.02}])
        scheduler = make(opt)
        for step in range(8):
            walk(opt, params, 1, start=step)
            scheduler.step()
            rates += [group["lr"] for group in opt.param_groups]
            opt.load_state_dict(copy.deepcopy(opt.state_dict()))
        runs.append((params, rates))
    (mine, own), (theirs, rates) = runs
    assert own == rates
    assert len(set(rates)) > 2
    exactly(mine, theirs)


@pytest.mark.parametrize("name", ["nesterov", "momentum", "rmsprop, all", "adam", "adamw"])
def test_one_cycle_moves_the_momentum(name):
    """Torch's scheduler finds "momentum" or "betas" in the groups."""
    entry, runs = ALL[name], []
    for one in (entry, entry.reference):
        params, seen = entry.parameters(), []
        opt = one(params)
        scheduler = lr_scheduler.OneCycleLR(opt, 0.1, 8)
        for step in range(7):
            walk(opt, params, 1, start=step)
            scheduler.step()
            group = opt.param_groups[0]
            seen.append(group["betas"][0] if "betas" in group else group["momentum"])
        runs.append((params, seen))
    assert runs[0][1] == runs[1][1]
    exactly(runs[0][0], runs[1][0])


def test_a_schedule_goes_on_from_groups():
    """Torch's schedulers ask for "initial_lr" in the groups when they don't begin at 0."""
    params = parameters()
    opt = ours.sgd([{"params": params, "lr": 0.03, "initial_lr": 0.1}])
    scheduler = lr_scheduler.StepLR(opt, 2, 0.5, last_epoch=3)
    walk(opt, params, 1)
    scheduler.step()
    assert opt.param_groups[0]["lr"] < 0.03


def test_plateau():
    opt, _ = ALL["adam"].pair()
    scheduler = lr_scheduler.ReduceLROnPlateau(opt, patience=0, factor=0.5)
    for loss in (1.0, 2.0, 3.0):
        scheduler.step(loss)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.0025)


@every
def test_grad_scaler(entry):
    """An overflow skips the step, then the scale is smaller; other steps are as without it."""
    opt, params = entry.pair()
    twin, others = entry.pair()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1000)
    for step in range(5):
        overflow = step in (0, 3)
        for p, q in zip(params, others, strict=True):
            q.grad = torch.full_like(p, 0.5)
            p.grad = 64 * q.grad if step == 0 else scaler.get_scale() * q.grad
            if overflow:
                p.grad.view(-1)[:1] = math.inf
        scaler.scale(torch.zeros(()))
        before, kept = cloned(params), copy.deepcopy(values(opt))
        scaler.step(opt)
        scaler.update()
        if overflow:
            exactly(params, before)
            exactly(values(opt), kept)
        else:
            twin.step()
    assert scaler.get_scale() == 16
    exactly(params, others)


@every
def test_hooks_of_the_step(entry):
    opt, params = entry.pair()
    twin, others = entry.pair()
    seen = []

    def double(opt, args, kwargs):
        seen.append("before")
        for p in params:
            if p.grad is not None:
                p.grad.mul_(2)

    first = opt.register_step_pre_hook(double)
    opt.register_step_post_hook(lambda opt, args, kwargs: seen.append("after"))
    for p, q in zip(params, others, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.full_like(p, 2)
    opt.step(), twin.step()
    exactly(params, others)
    first.remove()
    opt.step()
    assert seen == ["before", "after", "after"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd, all", "rmsprop, all", "adamw", "lamb", "muon"])
def test_compiled(name):
    """torch.compile of the step: about the same numbers."""
    torch._dynamo.reset()
    entry = ALL[name]
    params, others = entry.parameters()[:2], entry.parameters()[:2]
    opt, twin = entry(params), entry(others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        fast = torch.compile(opt.step, backend="aot_eager")
        for step in range(4):
            for p, q in zip(params, others, strict=True):
                p.grad = torch.randn(p.shape, generator=seeded(step))
                q.grad = p.grad.clone()
            fast(), twin.step()
    near(params, others, 1e-2 if name == "muon" else 1e-5)
    near(values(opt), values(twin), 1e-5)


def test_in_two_copies_of_a_model():
    """DistributedDataParallel, of one process: the same bits as without."""
    import torch.distributed as dist

    if not dist.is_available():
        pytest.skip("this torch has no distributed")
    torch.manual_seed(0)
    plain = nn.Linear(6, 2)
    model = copy.deepcopy(plain)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for net in (wrapped, plain):
            opt = ours.adamw(net.parameters(), lr=0.1)
            for xb, yb in BATCHES[:3]:
                F.cross_entropy(net(xb), yb).backward()
                opt.step()
                opt.zero_grad()
        exactly(list(model.parameters()), list(plain.parameters()))
    finally:
        dist.destroy_process_group()


# --- within a learner -----------------------------------------------------------------------------


class Stop(Callback):
    """Ends the third epoch with an error."""

    def after_backward(self):
        if self.learn.epoch == 2:
            raise InterruptedError


def fitted(entry, *cbs, seed=0):
    """A learner of matrices alone after a fit of four epochs."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    learn = Learner(
        model, DataBunch(BATCHES[:3]), F.cross_entropy, opt_func=entry, lr=0.02, default_cbs=False
    )
    learn.fit(4, cbs=list(cbs))
    return learn


@every
def test_a_fit_is_resumed(entry, tmp_path, capsys):
    straight = fitted(entry, Checkpoint(tmp_path / "straight"))
    with pytest.raises(InterruptedError):
        fitted(entry, Checkpoint(tmp_path / "run"), Stop())
    again = fitted(entry, Checkpoint(tmp_path / "run"), seed=1)
    exactly(dict(again.model.state_dict()), dict(straight.model.state_dict()))
    exactly(values(again.opt), values(straight.opt))
    assert "2 of 4 epochs" in capsys.readouterr().out


@every
def test_a_fit_with_a_schedule(entry):
    learn = fitted(entry, ParamScheduler("lr", sched_lin(0.1, 0.01)), recorder := Recorder())
    assert [row["train_loss"] for row in recorder.history][-1] < 0.68
    assert learn.opt.param_groups[0]["lr"] == pytest.approx(0.1 - 0.09 * 11 / 12)


# --- what falls out of the pieces -----------------------------------------------------------------


def sign(p, g, state):
    """A piece that keeps the sign of the direction only."""
    return g.sign()


def test_an_optimizer_of_own_pieces():
    """The steps go through the pieces in their order; options come from the groups."""
    params = parameters()
    others = cloned(params)
    pieces = [ours.sum_momentum, sign, ours.decay, ours.sgd_step]
    options = dict(lr=0.1, momentum=0.9, dampening=0, nesterov=False, weight_decay=0.5)
    opt = StatefulOptimizer(params, pieces, "lion", **options)
    assert repr(opt).startswith("lion (")
    walk(opt, params, 4)
    sums = [torch.zeros_like(p) for p in others]
    with torch.no_grad():
        for step in range(4):
            for p, g, total in zip(others, list(gradients(others, step)), sums, strict=True):
                if g is not None:
                    p.mul_(1 - 0.1 * 0.5).add_(total.mul_(0.9).add_(g).sign(), alpha=-0.1)
    exactly(params, others)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_steps_are_counted_in_any_default_dtype(dtype):
    """In bfloat16, 256 + 1 is 256; torch counts in float32 at least."""
    torch.set_default_dtype(dtype)
    try:
        mine = [nn.Parameter(torch.ones(3, dtype=torch.float32))]
        theirs = cloned(mine)
        walkers = (ours.adam(mine), mine), (TORCH["adam"](theirs), theirs)
        for opt, params in walkers:
            for step in range(300):
                params[0].grad = torch.full((3,), float(step % 7), dtype=torch.float32)
                opt.step()
    finally:
        torch.set_default_dtype(torch.float32)
    exactly(mine, theirs)
    exactly(*(values(opt) for opt, _ in walkers))


def test_a_count_that_is_a_number_goes_on():
    """States of an older torch hold one."""
    runs = []
    for make in (ours.adam, TORCH["adam"]):
        params = parameters()
        walk(opt := make(params), params, 3)
        state = opt.state_dict()
        for kept in state["state"].values():
            kept["step"] = int(kept["step"])
        opt.load_state_dict(state)
        walk(opt, params, 3, start=3)
        runs.append(params)
    exactly(*runs)


def test_an_option_may_be_a_tensor_of_any_shape():
    """A mask of rows reaches the piece as it is."""

    def rows(p, g, state, *, mask):
        return p.sub_(mask * g)

    p = nn.Parameter(torch.zeros(3, 3))
    p.grad = torch.ones(3, 3)
    StatefulOptimizer([p], [rows], mask=torch.tensor([[1.0], [0.0], [0.0]])).step()
    exactly(p.sum(1).tolist(), [-3.0, 0.0, 0.0])


@pytest.mark.parametrize("maximize, place", [(False, -1.0), (True, 1.0)])
def test_a_piece_that_reads_maximize_turns_around_itself(maximize, place):
    def either(p, g, state, *, maximize):
        return p.add_(g if maximize else -g)

    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    StatefulOptimizer([p], [either], maximize=maximize).step()
    assert p.item() == place


def test_own_pieces_have_options_of_their_own():
    """An option may mean something else here than in the eight; `check` says what is allowed."""

    def three(p, g, state, *, betas, momentum):
        return g * sum(betas) * momentum

    def positive(group):
        if group["momentum"] < -1:
            raise ValueError("own expected more")

    make = partial(StatefulOptimizer, pieces=[three, ours.sgd_step], name="own", check=positive)
    p = nn.Parameter(torch.ones(1))
    p.grad = torch.ones(1)
    opt = make([p], betas=(1, 2, 3), momentum=-1, lr=0.5)
    opt.step()
    assert p.item() == 4
    state = opt.state_dict()
    state["param_groups"][0]["momentum"] = -2
    for refused in (
        lambda: make([p], betas=(1,), momentum=-2, lr=1),
        lambda: opt.load_state_dict(state),
    ):
        with pytest.raises(ValueError, match="^own expected more"):
            refused()
    assert opt.param_groups[0]["momentum"] == -1


def test_a_step_of_each_by_hand():
    """From the parameter (3, -4) by the gradient (1, -2), in plain numbers."""
    steps = {
        ours.sgd: (dict(lr=0.1, weight_decay=0.5), [3 - 0.1 * 2.5, -4 + 0.1 * 4]),
        ours.momentum: (dict(lr=0.1), [2.9, -3.8]),
        ours.nesterov: (dict(lr=0.1), [3 - 0.19, -4 + 0.38]),
        ours.rmsprop: (dict(lr=0.1, alpha=0.75, eps=0), [2.8, -3.8]),
        ours.adam: (dict(lr=0.1, eps=1), [3 - 0.1 / 2, -4 + 0.2 / 3]),
        ours.adamw: (dict(lr=0.1, eps=0, weight_decay=1), [2.7 - 0.1, -3.6 + 0.1]),
        ours.lamb: (dict(lr=0.1, eps=0, weight_decay=0), [3 - 0.5 / 2**0.5, -4 + 0.5 / 2**0.5]),
    }
    for make, (options, expected) in steps.items():
        p = nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
        p.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
        make([p], **options).step()
        assert p.tolist() == pytest.approx(expected), make.__name__


def test_lamb_measures_lengths_in_32_bits():
    """The length of the parameter, 94,868, is no number of float16."""
    p = nn.Parameter(torch.full((100_000,), 300.0).half())
    p.grad = torch.ones_like(p)
    ours.lamb([p], lr=0.01, eps=1e-3, weight_decay=0).step()
    near(p.detach().float(), torch.full((100_000,), 297.0), 1e-3)


def test_the_state_is_small():
    """Numbers kept for each number of a parameter."""
    kept = {"sgd": 0, "momentum": 1, "rmsprop": 1, "rmsprop, all": 2, "adam": 2, "adamw": 2}
    for name, expected in (kept | {"lamb": 2, "muon": 1}).items():
        params = [nn.Parameter(torch.ones(20, 10))]
        params[0].grad = torch.ones(20, 10)
        (opt := ALL[name](params)).step()
        tensors = [x for state in opt.state.values() for x in state.values()]
        assert sum(x.numel() for x in tensors) // 200 == expected, name


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_orthogonalized(rows, columns, scale, seed):
    """Singular values near 1, the same singular vectors."""
    short = min(rows, columns)
    draws = [torch.randn(n, n, generator=seeded(seed + n)).double() for n in (rows, columns)]
    left, right = (torch.linalg.qr(draw)[0][:, :short] for draw in draws)
    matrix = left * torch.linspace(0.3, 1, short).double() @ right.T
    got = orthogonalize((scale * matrix).float())
    assert got.dtype == torch.bfloat16
    inner = left.T @ got.double() @ right
    assert (inner.diag() > 0.6).all()
    assert (inner.diag() < 1.3).all()
    assert (inner - inner.diag().diag()).abs().max() < 0.1


# --- down to the bottom ---------------------------------------------------------------------------

TABLE = torch.randn(30, 6, generator=seeded(1), dtype=torch.float64)
TARGETS = TABLE @ torch.randn(6, 3, generator=seeded(2), dtype=torch.float64)
WIDE = torch.randn(60, 4, generator=seeded(3), dtype=torch.float64) * torch.tensor(
    [10.0, 3, 1, 0.1]
)
NOISE = 0.3 * torch.randn(60, generator=seeded(4), dtype=torch.float64)
LABELS = (WIDE @ torch.tensor([0.1, -0.3, 1, 5], dtype=torch.float64) + NOISE > 0).double()
FUNCTIONS = {  # of a matrix of weights, with the start
    "bowl": (lambda w: w.square().sum() / 2, [[3.0, -2.0]]),
    "ravine": (lambda w: (w[0, 0] ** 2 + 50 * w[0, 1] ** 2) / 2, [[3.0, 1.0]]),
    "rosenbrock": (
        lambda w: (1 - w[0, 0]) ** 2 + 100 * (w[0, 1] - w[0, 0] ** 2) ** 2,
        [[-1.0, 1.5]],
    ),
    "magnitude": (lambda w: w.abs().sum(), [[1.3, -0.7]]),
    "squares": (lambda w: F.mse_loss(TABLE @ w, TARGETS), [[0.1] * 3] * 6),
    "logistic": (lambda w: F.binary_cross_entropy_with_logits(WIDE @ w[0], LABELS), [[0.1] * 4]),
}
BOTTOM = {  # the learning rate, and the loss after 300 steps
    "sgd": dict(
        bowl=(0.1, 1e-11),
        ravine=(0.03, 1e-3),
        rosenbrock=(0.001, 5),
        magnitude=(0.1, 1e-6),
        squares=(0.3, 1e-8),
        logistic=(1, 0.2),
    ),
    "momentum": dict(
        bowl=(0.1, 1e-11),
        ravine=(0.03, 1e-11),
        rosenbrock=(0.001, 0.2),
        magnitude=(0.01, 1e-3),
        squares=(0.1, 1e-11),
        logistic=(1, 0.12),
    ),
    "nesterov": dict(
        bowl=(0.1, 1e-15),
        ravine=(0.03, 1e-13),
        rosenbrock=(0.001, 0.2),
        magnitude=(0.01, 1e-3),
        squares=(0.1, 1e-13),
        logistic=(1, 0.12),
    ),
    "rmsprop": dict(
        bowl=(0.1, 1e-15),
        ravine=(0.1, 1e-15),
        rosenbrock=(0.03, 3.5),
        magnitude=(0.03, 1e-5),
        squares=(0.1, 1e-15),
        logistic=(0.3, 0.08),
    ),
    "adam": dict(
        bowl=(0.1, 1e-10),
        ravine=(0.1, 1e-10),
        rosenbrock=(0.3, 0.3),
        magnitude=(0.1, 1e-3),
        squares=(0.1, 1e-11),
        logistic=(1, 0.08),
    ),
    "lamb": dict(
        bowl=(0.1, 1e-9),
        ravine=(0.1, 1e-9),
        rosenbrock=(0.3, 0.3),
        magnitude=(0.3, 1e-10),
        squares=(0.03, 1e-4),
        logistic=(0.03, 0.12),
    ),
    "muon": dict(
        bowl=(0.3, 1e-3),
        ravine=(0.1, 1e-3),
        rosenbrock=(0.1, 0.05),
        magnitude=(0.1, 0.01),
        squares=(0.03, 1e-4),
        logistic=(1, 0.1),
    ),
}
BOTTOM["adamw"] = BOTTOM["adam"]


@pytest.mark.parametrize("kind", BOTTOM)
def test_reaches_the_bottom(kind):
    """With a learning rate that falls to 0, without decay."""
    for name, (lr, bound) in BOTTOM[kind].items():
        function, start = FUNCTIONS[name]
        w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        first = function(w).item()
        opt = getattr(ours, kind)([w], lr=lr, weight_decay=0)
        for step in range(300):
            opt.param_groups[0]["lr"] = lr * (1 - step / 300)
            opt.zero_grad()
            function(w).backward()
            opt.step()
        assert function(w).item() < bound < first / 2, name


# --- refusals -------------------------------------------------------------------------------------


def one(*shape):
    """A parameter."""
    return nn.Parameter(torch.ones(shape or (2, 2)))


P = one()
CONFUSED = "momentum above 0 and no dampening with nesterov=True"
REFUSED = [
    (lambda: ours.adam([P], bets=(0.9, 0.9)), TypeError, "adam.*bets"),
    (lambda: ours.adam([P], momentum=0.9), TypeError, "adam.*momentum"),
    (
        lambda: ours.adam([{"params": [P], "bets": 1}]),
        TypeError,
        "adam has no option bets: .*betas",
    ),
    (
        lambda: StatefulOptimizer([P], [ours.sgd_step], "own", lr=1, lrr=1),
        TypeError,
        "own .* lrr: ",
    ),
    (lambda: StatefulOptimizer([P], [ours.sgd_step], "own"), TypeError, "own got no lr"),
    (lambda: ours.sgd([]), ValueError, "sgd expected at least one parameter, got none"),
    (lambda: ours.lamb(iter([])), ValueError, "lamb expected at least one .*generator"),
    (lambda: ours.adam([{}]), TypeError, r"adam expected a group as .*got \{\}"),
    (lambda: ours.adam([{"params": [P]}, {"params": [P]}]), ValueError, "adam: .*more than one"),
    (lambda: ours.adam(P), TypeError, r"adam expected parameters, got a Parameter: .*give a list"),
    (
        lambda: ours.adam(nn.Linear(2, 2)),
        TypeError,
        r"a Linear: write adam\(model.parameters\(\)\)",
    ),
    (lambda: ours.muon("weight"), TypeError, "muon expected parameters, got a str"),
    (lambda: ours.sgd({P}), TypeError, "sgd expected parameters, got a set"),
    (lambda: ours.sgd(None), TypeError, "sgd expected parameters, got a NoneType"),
    (lambda: ours.sgd(nn.Linear(2, 2).parameters), TypeError, "parameters, got a method"),
    (lambda: ours.sgd(["weight"]), TypeError, "sgd: .*str"),
    (lambda: ours.sgd([nn.Linear(2, 2)]), TypeError, "sgd: .*Linear"),
    (lambda: ours.sgd([2 * P]), ValueError, "sgd: .*non-leaf"),
    (lambda: ours.sgd([one().to(torch.complex64)]), (TypeError, ValueError), "sgd"),
    (lambda: ours.sgd([P], lr=-0.1), ValueError, "sgd expected a number for lr, .*got -0.1"),
    (lambda: ours.sgd([P], lr=math.nan), ValueError, "for lr, at least 0 and finite, got nan"),
    (lambda: ours.sgd([P], lr=math.inf), ValueError, "for lr, .*got inf"),
    (lambda: ours.sgd([P], lr=True), ValueError, "for lr, .*got True"),
    (lambda: ours.sgd([P], lr="0.1"), ValueError, "for lr, .*got '0.1'"),
    (lambda: ours.sgd([P], lr=None), ValueError, "for lr, .*got None"),
    (lambda: ours.sgd([P], lr=1j), ValueError, "for lr, .*got 1j"),
    (lambda: ours.sgd([P], lr=torch.ones(2)), ValueError, "for lr, .*got tensor"),
    (lambda: ours.sgd([P], lr=torch.tensor(-1.0)), ValueError, "for lr, .*got tensor"),
    (lambda: ours.sgd([P], lr=torch.tensor(math.nan)), ValueError, "for lr, .*got tensor"),
    (lambda: ours.sgd([P], lr=torch.tensor(True)), ValueError, "for lr, .*got tensor"),
    (lambda: ours.sgd([P], lr=torch.tensor(1j)), ValueError, "for lr, .*got tensor"),
    (lambda: ours.sgd([P], momentum=-0.9), ValueError, "sgd expected a number for momentum"),
    (lambda: ours.sgd([P], momentum=0.9, dampening=math.nan), ValueError, "for dampening"),
    (lambda: ours.sgd([P], momentum=0.9, dampening=True), ValueError, "for dampening"),
    (lambda: ours.sgd([P], weight_decay=-1), ValueError, "sgd expected a number for weight_decay"),
    (
        lambda: ours.sgd([P], nesterov=True),
        ValueError,
        f"sgd expected a {CONFUSED}, got momentum=0",
    ),
    (lambda: ours.nesterov([P], momentum=0), ValueError, CONFUSED),
    (
        lambda: ours.sgd([P], momentum=0.9, dampening=0.1, nesterov=True),
        ValueError,
        f"{CONFUSED}, got momentum=0.9 and dampening=0.1",
    ),
    (
        lambda: ours.sgd([{"params": [P], "momentum": 0}], momentum=0.9, nesterov=True),
        ValueError,
        CONFUSED,
    ),
    (lambda: ours.rmsprop([P], alpha=1.5), ValueError, "rmsprop expected .* alpha, .*below 1, got"),
    (lambda: ours.rmsprop([P], eps=-1e-8), ValueError, "rmsprop expected a number for eps"),
    (lambda: ours.adam([P], eps=-1e-8), ValueError, "adam expected a number for eps, .*got -1e-08"),
    (lambda: ours.adamw([P], weight_decay=True), ValueError, "adamw .*weight_decay, .*got True"),
    (lambda: ours.adam([P], betas=(0.9, 1.0)), ValueError, "two numbers for betas, .*below 1"),
    (lambda: ours.adamw([P], betas=(-0.1, 0.9)), ValueError, "adamw expected two .*for betas"),
    (lambda: ours.lamb([P], betas=(0.9, math.nan)), ValueError, "lamb expected two .*for betas"),
    (lambda: ours.adam([P], betas=0.9), ValueError, "two numbers for betas, .*got 0.9"),
    (lambda: ours.adam([P], betas=(0.9,) * 3), ValueError, "two numbers for betas"),
    (lambda: ours.muon([one(3)]), ValueError, r"muon expected matri.* shape \(3,\).*adamw"),
    (lambda: ours.muon([one(1, 2, 3, 4)]), ValueError, r"muon expected matri.* \(1, 2, 3, 4\)"),
    (lambda: ours.muon([P], adjust_lr_fn="no"), ValueError, "muon expected .*adjust_lr_fn.*'no'"),
    (
        lambda: ours.muon([{"params": [P], "adjust_lr_fn": "no"}]),
        ValueError,
        "muon expected .*adjust_lr_fn.*'no'",
    ),
    (lambda: ours.muon([P], ns_steps=100), ValueError, "muon expected .*ns_steps, got 100"),
    (lambda: ours.muon([P], ns_steps="5"), ValueError, "muon expected .*ns_steps, got '5'"),
    (lambda: ours.muon([P], ns_coefficients=(1, 2)), ValueError, r"ns_coefficients, got \(1, 2\)"),
    (lambda: ours.adam([P], maximize="no"), ValueError, "adam expected True or False for maximize"),
    (lambda: ours.sgd([P], momentum=1, nesterov="no"), ValueError, "sgd .* for nesterov, got 'no'"),
    (lambda: ours.muon([P], maximize=True), TypeError, "muon.*maximize"),
    (lambda: ours.muon([P], lr=-1), ValueError, "muon expected a number for lr"),
    (lambda: orthogonalize(torch.ones(3)), ValueError, r"a matrix .*of shape \(3,\)"),
    (lambda: orthogonalize(torch.ones(2, 2, dtype=torch.int64)), ValueError, "got torch.int64"),
    (lambda: ours.adam([{"params": nn.Linear(2, 2)}]), TypeError, "adam: 'Linear'"),
]


@pytest.mark.parametrize("call, error, message", REFUSED)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "make, group, error, message",
    [
        (ours.adam, {"params": [P]}, ValueError, "adam: .*more than one"),
        (ours.adam, {"params": [one()], "lr": -1}, ValueError, "adam expected a number for lr"),
        (ours.adam, {"params": [one()], "alpha": 1}, TypeError, "adam has no option alpha"),
        (ours.adam, {"params": [2 * one()]}, ValueError, "adam: .*non-leaf"),
        (ours.adam, {"params": nn.Parameter(torch.ones(2) * 1j)}, TypeError, "complex .*as_real"),
        (ours.adam, {"lr": 1}, TypeError, "adam expected a group as"),
        (ours.adam, [one()], TypeError, "adam expected a group as"),
        (ours.muon, {"params": [one(3)]}, ValueError, r"muon expected matri.* \(3,\)"),
    ],
)
def test_a_refused_group_is_not_added(make, group, error, message):
    opt = make([P])
    before = str(opt.state_dict())
    with pytest.raises(error, match=message):
        opt.add_param_group(group)
    assert str(opt.state_dict()) == before


@every
def test_sparse_gradients(entry):
    opt, params = entry.pair()
    params[-1].grad = torch.ones_like(params[-1]).to_sparse()  # the others must not have moved
    before = cloned(params)
    message = f"{opt.name} expected dense gradients, got a sparse one .*SparseAdam"
    with pytest.raises(RuntimeError, match=message):
        opt.step()
    exactly(params, before)


@pytest.mark.parametrize(
    "state",
    [None, {}, {"state": {}}, {"state": {}, "param_groups": [{}]}],
)
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="sgd expected a state_dict, got"):
        ours.sgd([nn.Parameter(torch.ones(2))]).load_state_dict(state)


@pytest.mark.parametrize(
    "options",
    [
        {"adjust_lr_fn": "foo"},
        {"ns_steps": -3},
        {"ns_steps": 1.5},
        {"ns_coefficients": (1.0, 2.0)},
        {"ns_coefficients": (math.nan, 1, 1)},
        {"ns_coefficients": (None, 1, 2)},
    ],
)
def test_muon_refuses_options_that_come_with_a_state(options):
    opt = ours.muon([nn.Parameter(torch.ones(2, 2))])
    state = opt.state_dict()
    state["param_groups"][0] |= options
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ValueError, match=f"muon expected .*{next(iter(options))}"):
        opt.load_state_dict(state)
    assert str(opt.state_dict()) == str(before)


def test_groups_that_a_schedule_has_touched_are_taken():
    opt = ours.adamw([nn.Parameter(torch.ones(2))])
    torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9)
    assert ours.adamw(opt.param_groups).param_groups[0]["max_momentum"] > 0


def test_a_piece_may_read_maximize():
    def upward(p, g, state, *, lr, maximize):
        return p.add_(g, alpha=lr if maximize else -lr)

    p = nn.Parameter(torch.ones(1))
    p.grad = torch.ones(1)
    ours.StatefulOptimizer([p], [upward], lr=0.5, maximize=False).step()
    assert p.item() == 0.5


def test_a_parameter_twice_in_a_group_is_warned_about():
    with pytest.warns(UserWarning, match="duplicate"):
        ours.sgd([P, P])


# --- the comparison sees what is wrong ------------------------------------------------------------

FIRST = ("o = mine", "o = first")
STILL = ("if p.grad is None: return", "if p.grad is None or not p.grad.any(): return")
UP = ("-p.grad if o.maximize else p.grad", "p.grad")
L2 = "if o.weight_decay: g = g.add(p, alpha=o.weight_decay)\n"
SHRINK = "p.mul_(1 - o.lr * o.weight_decay)\n"
IN_GRAD = ("if p.grad is None: return", "if p.grad is None: return\np.grad.mul_(1.5)")
STATE = 'if "m" not in s: s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))'
ONE_GROUP = {"the options of the first group for all": [FIRST]}
WRONG = {
    "adamw": {
        "eps inside the root": [
            ('s["v"].sqrt() / (1 - b2**t) ** 0.5', '(s["v"] + o.eps).sqrt() / (1 - b2**t) ** 0.5')
        ],
        "eps before the debiasing": [
            (
                's["v"].sqrt() / (1 - b2**t) ** 0.5).add_(o.eps)',
                's["v"].sqrt() + o.eps) / (1 - b2**t) ** 0.5',
            )
        ],
        "eps grows": [(".add_(o.eps)", ".add_(o.eps * t)")],
        "no eps": [(".add_(o.eps)", ".clamp_(min=1e-30)")],
        "an L2 penalty": [(SHRINK, ""), (STATE, f"{L2}{STATE}")],
        "decay after the step": [(SHRINK, ""), ("/ (1 - b1**t))", f"/ (1 - b1**t))\n{SHRINK}")],
        "decay without the learning rate": [("1 - o.lr * o.weight_decay", "1 - o.weight_decay")],
        "decay by the square of the learning rate": [("1 - o.lr *", "1 - o.lr**2 *")],
        "decay turns with maximize": [("1 - o.lr *", "1 - (-o.lr if o.maximize else o.lr) *")],
        "no decay": [(SHRINK, "")],
        "no decay where the gradient is zero": [(SHRINK, f"if g.any(): {SHRINK}")],
        "the mean not debiased": [(" / (1 - b1**t)", "")],
        "the square not debiased": [(" / (1 - b2**t) ** 0.5", " / 1")],
        "debiased without the root": [("(1 - b2**t) ** 0.5", "(1 - b2**t)")],
        "debiased one step late": [('t, (b1, b2) = s["t"]', 't, (b1, b2) = s["t"] + 1')],
        "betas exchanged": [("t, (b1, b2)", "t, (b2, b1)")],
        "the square is the magnitude": [
            ("addcmul_(g, g, value=1 - b2)", "add_(g.abs(), alpha=1 - b2)")
        ],
        "the square of the mean": [("addcmul_(g, g,", 'addcmul_(s["m"], s["m"],')],
        "the mean begins at the gradient": [("m=torch.zeros_like(p)", "m=g.clone()")],
        "the square begins at 1": [("v=torch.zeros_like(p)", "v=torch.ones_like(p)")],
        "the square never falls (amsgrad)": [
            ('root = (s["v"]', 's["w"] = s["v"].maximum(s.get("w", s["v"]))\nroot = (s["w"]')
        ],
        "maximize goes down": [UP],
        "zero gradients are skipped": [STILL],
        "the gradient is changed in place": [IN_GRAD],
        **ONE_GROUP,
    },
    "sgd": {
        "the first gradient is dampened": [("= g.clone()", "= (1 - o.dampening) * g")],
        "the sum begins at 0 and misses the first gradient": [("g.clone()", "g * 0")],
        "no dampening": [("1 - o.dampening", "1")],
        "an average in place of the sum": [("1 - o.dampening", "1 - o.momentum")],
        "nesterov is plain momentum": [(' if o.nesterov else s["b"]', ' if 0 else s["b"]')],
        "nesterov always": [('if o.nesterov else s["b"]', "")],
        "nesterov weighs the gradient": [
            ('g.add(s["b"], alpha=o.momentum) if', '(o.momentum * g + s["b"]) if')
        ],
        "nesterov adds the whole sum": [('g.add(s["b"], alpha=o.momentum)', 'g.add(s["b"])')],
        "the sum is the gradient itself": [("g.clone()", "g")],
        "the momentum grows": [("mul_(o.momentum)", "mul_(o.momentum**0.5)")],
        "decay after the momentum": [(L2, ""), ("p.add_(g,", f"{L2}p.add_(g,")],
        "decay apart from the gradient": [(L2, f"if o.weight_decay: {SHRINK}")],
        "decay times the learning rate": [
            ("alpha=o.weight_decay)", "alpha=o.lr * o.weight_decay)")
        ],
        "decay turns with maximize": [
            ("alpha=o.weight_decay)", "alpha=-o.weight_decay if o.maximize else o.weight_decay)")
        ],
        "decay has the wrong sign": [("alpha=o.weight_decay)", "alpha=-o.weight_decay)")],
        "no decay": [(L2, "")],
        "the learning rate inside the sum": [
            ("g.clone()", "o.lr * g"),
            ("alpha=1 - o.dampening", "alpha=o.lr * (1 - o.dampening)"),
            ("p.add_(g, alpha=-o.lr)", "p.sub_(g if o.momentum else o.lr * g)"),
        ],
        "maximize goes down": [UP],
        "the step is a sign": [("p.add_(g,", "p.add_(g.sign(),")],
        "zero gradients are skipped": [STILL],
        "the gradient is changed in place": [IN_GRAD],
        **ONE_GROUP,
    },
    "rmsprop": {
        "eps inside the root": [('s["v"].sqrt().add_(o.eps)', '(s["v"] + o.eps).sqrt()')],
        "no eps": [(".add_(o.eps)", ".clamp_(min=1e-30)")],
        "no root": [('s["v"].sqrt()', 's["v"].clone()')],
        "alpha exchanged": [("mul_(o.alpha)", "mul_(1 - o.alpha)"), ("=1 - o.alpha", "=o.alpha")],
        "a sum in place of the average": [("=1 - o.alpha", "=1")],
        "debiased": [
            ("root =", 's["t"] = s.get("t", 0) + 1\nroot ='),
            ('s["v"].sqrt()', '(s["v"] / (1 - o.alpha ** s["t"])).sqrt()'),
        ],
        "the square begins at 1": [("v=torch.zeros_like(p)", "v=torch.ones_like(p)")],
        "the square begins at the first": [("v=torch.zeros_like(p)", "v=g**2")],
        "the magnitude in place of the square": [("addcmul_(g, g, value", "add_(g.abs(), alpha")],
        "the root of the step before": [
            ('s["v"].mul_(o', 'root = s["v"].sqrt().add_(o.eps)\ns["v"].mul_(o'),
            ('root = s["v"].sqrt().add_(o.eps)\nif', "if"),
        ],
        "centered": [
            (
                'root = s["v"]',
                's.setdefault("m", torch.zeros_like(p)).lerp_(g, 1 - o.alpha)\n'
                'root = (s["v"] - s["m"]**2).clamp(min=0)',
            ),
        ],
        "momentum before the division": [
            ("addcdiv_(g, root)", "add_(g)"),
            ('p.add_(s["b"], alpha', 'p.addcdiv_(s["b"], root, value'),
        ],
        "an average in place of the sum of quotients": [
            ("addcdiv_(g, root)", "addcdiv_(g, root, value=1 - o.momentum)")
        ],
        "no momentum": [("if o.momentum:", "if 0:")],
        "the learning rate inside the sum": [
            ("addcdiv_(g, root)", "addcdiv_(g, root, value=o.lr)"),
            ("alpha=-o.lr)", "alpha=-1)"),
        ],
        "decay after the average": [(L2, ""), ("root =", f"{L2}root =")],
        "decay apart from the gradient": [(L2, SHRINK)],
        "decay turns with maximize": [
            ("alpha=o.weight_decay)", "alpha=-o.weight_decay if o.maximize else o.weight_decay)")
        ],
        "maximize goes down": [UP],
        "zero gradients are skipped": [STILL],
        "the gradient is changed in place": [IN_GRAD],
        **ONE_GROUP,
    },
    "lamb": {
        "eps inside the root": [("square.sqrt() + o.eps", "(square + o.eps).sqrt()")],
        "eps before the debiasing": [
            ("square.sqrt() + o.eps", '(s["v"].sqrt() + o.eps) / (1 - b2**t) ** 0.5')
        ],
        "the mean not debiased": [('s["m"] / (1 - b1**t)', 's["m"]')],
        "the square not debiased": [('s["v"] / (1 - b2**t)', 's["v"]')],
        "betas exchanged": [("t, (b1, b2)", "t, (b2, b1)")],
        "an L2 penalty": [
            ("u = u + o.weight_decay * p\n", ""),
            (STATE, f"g = g + o.weight_decay * p\n{STATE}"),
        ],
        "decay apart from the ratio": [("u = u + o.weight_decay * p\n", SHRINK)],
        "decay after the ratio": [
            ("u = u + o.weight_decay * p\n", ""),
            ("ratio * u", "(ratio * u + o.weight_decay * p)"),
        ],
        "decay not in the length": [
            ("u = u + o.weight_decay * p\n", ""),
            ("ratio * u", "ratio * (u + o.weight_decay * p)"),
        ],
        "decay turns with maximize": [
            ("o.weight_decay * p", "(-o.weight_decay if o.maximize else o.weight_decay) * p")
        ],
        "no ratio": [("long / way if", "1.0 if")],
        "the ratio upside down": [("long / way if", "way / long if")],
        "the ratio clipped at 1": [("long / way if", "min(1.0, long / way) if")],
        "the length clipped at 2": [("long / way if", "min(2.0, long) / way if")],
        "a zero parameter stays": [("else 1.0", "else 0.0")],
        "the ratio of sums": [("(p**2).sum().sqrt()", "p.abs().sum()")],
        "the length of the gradient": [("(u**2).sum()", "(g**2).sum()")],
        "a ratio for each number": [
            (".sum().sqrt().item(), (", ".sqrt().max().item(), ("),
        ],
        "the square of the ratio": [("o.lr * ratio", "o.lr * ratio**2")],
        "maximize goes down": [UP],
        "zero gradients are skipped": [STILL],
        "the gradient is changed in place": [IN_GRAD],
        **ONE_GROUP,
    },
    "muon": {
        "a round less": [("range(o.ns_steps)", "range(o.ns_steps - 1)")],
        "a round more": [("range(o.ns_steps)", "range(o.ns_steps + 1)")],
        "always five rounds": [("range(o.ns_steps)", "range(5)")],
        "coefficients exchanged": [("(a, b, c) =", "(a, c, b) =")],
        "fixed coefficients": [
            ("= u.bfloat16(), o.ns_coefficients", "= u.bfloat16(), (3.4445, -4.775, 2.0315)")
        ],
        "not made short first": [("x / x.norm().clamp(min=o.eps)", "x")],
        "made short by the largest number": [("x.norm()", "x.abs().max()")],
        "no least length": [(".clamp(min=o.eps)", "")],
        "eps added to the length": [(".clamp(min=o.eps)", ".add(o.eps)")],
        "32 bits": [("u.bfloat16()", "u.float()")],
        "no look ahead": [(" if o.nesterov else", " if 0 else")],
        "always a look ahead": [('if o.nesterov else s["b"].clone()', "")],
        "momentum exchanged": [("lerp_(g, 1 - o.momentum)", "lerp_(g, o.momentum)")],
        "momentum after the orthogonalization": [
            ('u = g.lerp(s["b"], o.momentum) if o.nesterov else s["b"].clone()', "u = g"),
            ("p.add_(x,", 's.setdefault("c", 0 * x).lerp_(x, 0.05)\np.add_(s["c"],'),
        ],
        "no momentum": [('g.lerp(s["b"], o.momentum) if o.nesterov else s["b"].clone()', "g")],
        "wide and tall exchanged": [("rows / columns", "columns / rows")],
        "no root of the sides": [("max(1, rows / columns) ** 0.5", "max(1, rows / columns)")],
        "the shape does not matter": [("by = max(1, rows / columns) ** 0.5", "by = 1")],
        "slower for wide matrices": [("max(1, rows / columns)", "(rows / columns)")],
        "the shorter side": [("0.2 * max(rows, columns)", "0.2 * min(rows, columns)")],
        "no 0.2": [("0.2 * max(", "max(")],
        "an L2 penalty": [
            (SHRINK, ""),
            ('if "b" not', 'g = g.add(p, alpha=o.weight_decay)\nif "b" not'),
        ],
        "decay after the step": [
            (SHRINK, ""),
            ("alpha=-o.lr * by)\n", f"alpha=-o.lr * by)\n{SHRINK}"),
        ],
        "decay without the learning rate": [("1 - o.lr * o", "1 - o")],
        "decay by the adjusted learning rate": [("1 - o.lr * o", "1 - o.lr * by * o")],
        "zero gradients are skipped": [STILL],
        "the gradient is changed in place": [IN_GRAD],
        **ONE_GROUP,
    },
}


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in WRONG for name in WRONG[kind]])
def test_wrong_ones_are_seen(kind, name):
    with pytest.raises(AssertionError, match="not equal|not close|gradient has changed"):
        core(partial(Written, kind=kind, changes=WRONG[kind][name]), kind)


def test_there_are_enough_wrong_ones():
    assert all(len(wrong) >= 15 for wrong in WRONG.values())
