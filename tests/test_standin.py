"""Synthetic stand-ins: the same on each call, and as hard as the real datasets."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fromfound.data import DATASETS, fetch, is_real, load_mnist
from fromfound.experiments.record import model_scores
from fromfound.standin import RECIPES, draw
from tests.datasets import REAL, names, needs_real

pytestmark = pytest.mark.usefixtures("no_data")


# --- what is drawn --------------------------------------------------------------------------------


@pytest.fixture(params=["standin", pytest.param(str(REAL), marks=needs_real, id="real")])
def place(request: pytest.FixtureRequest, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand-ins, and real data where they are at hand."""
    monkeypatch.setenv("FROMFOUND_DATA", request.param)
    monkeypatch.setenv("XDG_CACHE_HOME", str(drawn))
    return "standin" if request.param == "standin" else "real"


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_loaded_images(place: str, name: str) -> None:
    images = load_mnist(name)
    for part, count in (("train", 60_000), ("test", 10_000)):
        x, y = getattr(images, f"x_{part}"), getattr(images, f"y_{part}")
        assert (x.shape, x.dtype, y.shape, y.dtype) == (
            (count, 28, 28),
            torch.float32,
            (count,),
            torch.int64,
        )
        assert (x.min(), x.max()) == (0, 1)
        assert y.unique().tolist() == list(range(10))
        assert len(images.classes) == 10
    assert images.real == (place == "real") == is_real(fetch(name))
    assert repr(images).startswith(name if images.real else "STAND-IN")
    if images.real:
        assert (
            images.y_train[:8].tolist()
            == {"mnist": [5, 0, 4, 1, 9, 2, 1, 3], "fashion_mnist": [9, 0, 0, 3, 0, 2, 7, 2]}[name]
        )
    else:
        assert names(fetch(name)) == sorted(
            ["STAND-IN.txt", *(file.name for file in DATASETS[name].files)]
        )


@pytest.mark.parametrize("name", RECIPES)
def test_stand_in_is_always_the_same(name: str) -> None:
    torch.manual_seed(1)
    (first, labels), _ = draw(name, (300, 100))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "drawing leaves the reader's random numbers alone"
    torch.manual_seed(2)
    (again, same), _ = draw(name, (300, 100))
    assert torch.equal(first, again)
    assert torch.equal(labels, same)


# --- how hard it is -------------------------------------------------------------------------------


MARGIN = 0.02


# Accuracy on the real datasets, mean of seeds 0 to 2. The test below checks these values where the
# datasets are at hand.
REACHED = {
    "mnist": {"linear": 0.917, "mlp": 0.952, "cnn": 0.977},
    "fashion_mnist": {"linear": 0.834, "mlp": 0.848, "cnn": 0.860},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_models_score_as_on_the_real_set(place: str, name: str) -> None:
    torch.manual_seed(0)
    assert model_scores(load_mnist(name)) == pytest.approx(
        REACHED[name], abs=MARGIN if place == "standin" else 0.01
    )


@pytest.mark.slow
def test_simple_classifiers_score_as_on_mnist(place: str) -> None:
    images = load_mnist()
    x, x_test, y = images.x_train.flatten(1), images.x_test.flatten(1), images.y_train
    means = torch.stack([x[y == label].mean(0) for label in range(10)])
    x, x_test = (nn.functional.pad(pictures, (0, 1), value=1).double() for pictures in (x, x_test))
    weights = (
        torch.linalg.pinv(x.T @ x, hermitian=True, rtol=1e-9)
        @ x.T
        @ nn.functional.one_hot(y).double()
    )
    found = (torch.cdist(x_test[:, :-1].float(), means).argmin(1), (x_test @ weights).argmax(1))
    nearest, squares = ((labels == images.y_test).float().mean().item() for labels in found)
    assert (nearest, squares) == pytest.approx(
        (0.8203, 0.8603), abs=MARGIN if place == "standin" else 0.001
    )
