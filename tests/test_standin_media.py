"""Stand-ins of photographs and sound, and what all stand-ins have in common."""

import hashlib
import time
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fromfound.data import DATASETS, WRITERS, edition, fetch, is_real
from fromfound.standin import RECIPES

pytestmark = pytest.mark.usefixtures("no_data")


def content(folder: Path) -> dict[str, str]:
    """A fingerprint for each file of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_only_single_photos_have_no_stand_in() -> None:
    assert DATASETS.keys() - RECIPES.keys() - WRITERS.keys() == {"photos"}
    assert not RECIPES.keys() & WRITERS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_stand_ins_say_so_and_stay_in_the_cache(made, name: str, monkeypatch) -> None:
    folder = made(name)
    assert not is_real(folder)
    assert edition(folder).startswith(f"This is a STAND-IN for {name}, made on this machine")
    monkeypatch.setenv("FROMFOUND_DATA", "standin")
    assert fetch(name) == folder


@pytest.mark.parametrize("name", WRITERS)
def test_writers_are_deterministic_and_quick(made, name: str, tmp_path: Path) -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    start = time.process_time()
    WRITERS[name](tmp_path)
    assert time.process_time() - start < 20
    assert np.random.get_state()[1].tolist() == before
    expected = content(made(name))
    del expected["STAND-IN.txt"]
    assert content(tmp_path) == expected


FOLDERS = {
    "imagenette": (("train", 60), ("val", 20), 10),
    "cifar10": (("train", 200), ("test", 50), 10),
    "hymenoptera": (("train", 60), ("val", 30), 2),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_images_lie_in_folders_by_class(made, name: str) -> None:
    folder = made(name)
    *parts, classes = FOLDERS[name]
    assert {path.name for path in folder.iterdir()} == {"STAND-IN.txt", *(p for p, _ in parts)}
    sizes, modes = set(), Counter()
    for part, count in parts:
        inside = sorted((folder / part).iterdir())
        assert len(inside) == classes
        for place in inside:
            files = list(place.iterdir())
            assert len(files) == count
            for path in files:
                with Image.open(path) as image:
                    sizes.add(image.size)
                    modes[image.mode] += 1
    if name == "imagenette":
        assert (sizes, modes) == ({(128, 128)}, {"RGB": 770, "L": 30})
        assert (folder / "val" / "n03888257").is_dir()
    elif name == "cifar10":
        assert (sizes, set(modes)) == ({(32, 32)}, {"RGB"})
    else:
        assert len(sizes) > 100
        assert {path.name for path in (folder / "train").iterdir()} == {"ants", "bees"}


def pixels(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The images (N, 3, H, W) of a part, and their labels."""
    x, y = [], []
    for label, place in enumerate(sorted(folder.iterdir())):
        for path in sorted(place.iterdir()):
            with Image.open(path) as image:
                x.append(np.asarray(image.convert("RGB").resize((64, 64))))
            y.append(label)
    images = torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2)
    return images / 255 - 0.5, torch.tensor(y)


def small_cnn(classes: int) -> nn.Module:
    """Four convolutions, the mean over all places, and a linear layer."""
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, 1 + (before > 3), 1, bias=False)]
        layers += [nn.BatchNorm2d(after, affine=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def score(model: nn.Module, train: tuple, test: tuple, rate: float, epochs: int) -> float:
    """Accuracy after training."""
    x, y = train
    steps = epochs * (len(x) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: len(x) // 32 * 32].view(-1, 32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        found = model(test[0]).argmax(1)
    return (found == test[1]).float().mean().item()


# Chance, the most that a linear model may reach, the least that a small network must reach.
LEARNABLE = {"imagenette": (0.3, 0.45), "cifar10": (0.3, 0.6), "hymenoptera": (0.65, 0.8)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_small_network_learns_what_a_linear_model_does_not(made, name: str) -> None:
    torch.manual_seed(0)
    folder = made(name)
    (first, _), (second, _), classes = FOLDERS[name]
    train, test = pixels(folder / first), pixels(folder / second)
    few, many = LEARNABLE[name]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, classes))
    assert score(linear, train, test, 1e-3, 5) < few
    epochs = {"imagenette": 12, "cifar10": 3, "hymenoptera": 25}[name]
    assert score(small_cnn(classes), train, test, 1e-2, epochs) > many


def test_sounds_of_a_digit_are_alike(made) -> None:
    folder = made("audio") / "recordings"
    assert len(list(folder.iterdir())) == 10 * 6 * 4
    spectra = []
    for path in sorted(folder.iterdir()):
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        assert 1000 < abs(sound).max() < 32767
        assert 0.2 < len(sound) / 8000 < 0.8
        halves = [np.abs(np.fft.rfft(half, 4096))[:800] for half in np.array_split(sound, 2)]
        pooled = np.concatenate([half.reshape(50, 16).mean(1) for half in halves])
        spectra.append(pooled / np.linalg.norm(pooled))
    near = np.array(spectra) @ np.array(spectra).T
    digits = np.repeat(np.arange(10), 24)
    same = digits == digits[:, None]
    np.fill_diagonal(near, 0)
    assert (digits[near.argmax(1)] == digits).mean() > 0.8
    assert near[same].mean() > near[~same].mean()
