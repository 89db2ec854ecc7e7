"""An epoch in mixed precision beside a loop with torch.autocast and torch.amp.GradScaler, in turns.

The loop trains an MLP (784-512-512-10, SGD) for 16 steps of 256 samples on one core; ours is a
`Learner` with `MixedPrecision` over the same batches. Both begin with the same weights and must end
with the same. The ratio is ours / theirs, the median over rounds; a round times both, one after the
other, by the processor's clock. What 16 bits gain is no part of it: that is recorded by the
experiments of the chapter.

Lightning does the same with precision="bf16-mixed", where it is installed. fastai's callback asks
for CUDA's autocast whatever the device, so on a CPU it computes in float32: it has no figure here.
`python -m benchmarks mixed_precision` stores the result.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable

os.environ["CI"] = "true"  # nobody watches: no progress bars

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.augment import in_turns
from fromfound.learner import DataBunch, Learner
from fromfound.mixed_precision import MixedPrecision

MARK = 1.05
LR = 0.1
generator = torch.Generator().manual_seed(0)
BATCHES = [
    (torch.randn(256, 784, generator=generator), torch.randint(10, (256,), generator=generator))
    for _ in range(16)
]


def mlp() -> nn.Module:
    """The network, with the same weights every time."""
    torch.manual_seed(0)
    hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(512, 10))


def by_hand(dtype: torch.dtype) -> nn.Module:
    """Train for an epoch as torch's documentation of amp has it; return the model."""
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    model.train()
    for xb, yb in BATCHES:
        with torch.autocast("cpu", dtype):
            loss = cross_entropy(model(xb), yb)
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
    return model


def ours(dtype: torch.dtype) -> nn.Module:
    """Train for an epoch with our callback; return the model."""
    learner = Learner(
        mlp(), DataBunch(BATCHES, []), cross_entropy, lr=LR, cbs=[MixedPrecision(dtype)]
    )
    learner.fit(1)
    return learner.model


def lightning(dtype: torch.dtype) -> nn.Module:
    """Train for an epoch with Lightning; return the model."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def training_step(self, batch: tuple, k: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()
    L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, BATCHES)
    return module.net


def beside(theirs: Callable[[torch.dtype], nn.Module], dtype: torch.dtype) -> dict:
    """Time both; return the result, with how far the weights are from each other at most."""
    pairs = zip(ours(dtype).parameters(), theirs(dtype).parameters(), strict=True)
    apart = max((p - q).abs().max().item() for p, q in pairs)
    return in_turns(lambda: ours(dtype), lambda: theirs(dtype), MARK) | {"weights apart": apart}


def main() -> int:
    """Measure, print the result as JSON, and return the exit code."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    result = {
        "machine": {"threads": 1, "torch": torch.__version__},
        "fastai": "computes in float32 on a CPU: unmeasured",
        "lightning, bfloat16": "not installed: unmeasured",
    }
    with contextlib.redirect_stdout(io.StringIO()):
        result["torch.amp, bfloat16"] = beside(by_hand, torch.bfloat16)
        result["torch.amp, float16"] = beside(by_hand, torch.float16)
        if importlib.util.find_spec("lightning"):
            result["lightning, bfloat16"] = beside(lightning, torch.bfloat16)
    print(json.dumps(result, indent=1))
    return 0 if '"met": false' not in json.dumps(result) else 1


if __name__ == "__main__":
    sys.exit(main())
