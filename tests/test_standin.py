"""Synthetic stand-ins: the same on each call, and as hard as the real datasets."""

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

from fromfound.data import DATASETS, WRITERS, edition, fetch, is_real, load_mnist, stand_in
from fromfound.experiments.record import model_scores
from fromfound.standin import RECIPES, draw
from fromfound.standin_text import TEXTS, english, french, prose
from tests.datasets import REAL, names, needs_real

pytestmark = pytest.mark.usefixtures("no_data")


# --- what is drawn --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the stand-ins that several tests read, so that each is drawn once."""
    return tmp_path_factory.mktemp("drawn")


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


# --- folders of images, text, pairs, sound --------------------------------------------------------


@pytest.fixture
def made(drawn: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a stand-in, or take the one that another test has made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(drawn))
    return stand_in


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


def test_plain_text_has_the_form_of_each_dataset(made) -> None:
    assert len(prose()) > 500
    assert all(text.endswith(".") and "\n" not in text for text in prose())
    lines = (made("nietzsche") / "nietzsche.txt").read_text("utf-8").splitlines()
    assert lines[0] == "PREFACE"
    assert max(map(len, lines)) <= 80
    play = (made("tinyshakespeare") / "input.txt").read_text("utf-8")
    assert sum(line.endswith(":") for line in play.splitlines()) >= len(prose())
    books = made("openstax")
    for part, count in (("train", 16), ("valid", 1)):
        lines = (books / f"{part}.txt").read_text("utf-8").splitlines()
        assert sum(line.startswith("= ") and line.endswith(" =") for line in lines) == count
    for part in ("train", "valid", "test"):
        text = (made("wikitext2") / f"{part}.txt").read_text("utf-8")
        assert text.startswith(" \n = ")
        assert all(line == " " or (line[0], line[-1]) == (" ", " ") for line in text.splitlines())
        assert 0.005 < text.split().count("<unk>") / len(text.split()) < 0.2


def test_reviews_have_labels_that_words_tell(made) -> None:
    folder = made("imdb") / "aclImdb"
    for part, label, count in (
        ("train", "pos", 1000),
        ("train", "neg", 1000),
        ("train", "unsup", 500),
        ("test", "pos", 500),
        ("test", "neg", 500),
    ):
        files = list((folder / part / label).iterdir())
        assert len(files) == count
        ratings = {int(path.stem.split("_")[1]) for path in files}
        assert ratings == {"pos": {7, 8, 9, 10}, "neg": {1, 2, 3, 4}, "unsup": {0}}[label]
    words = {
        label: Counter(
            word
            for path in (folder / "train" / label).iterdir()
            for word in path.read_text("utf-8").replace("<br />", " ").split()
        )
        for label in ("pos", "neg")
    }
    for good, bad in (("superb.", "awful."), ("charming.", "tedious.")):
        assert words["pos"][good] > 1.2 * words["neg"][good] > 0
        assert words["neg"][bad] > 1.2 * words["pos"][bad] > 0


def test_human_numbers_are_the_real_ones(made) -> None:
    for file in DATASETS["human_numbers"].files:
        content = (made("human_numbers") / file.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256


@pytest.mark.parametrize(
    "number, ours, theirs",
    [
        (0, "zero", "zéro"),
        (17, "seventeen", "dix-sept"),
        (21, "twenty one", "vingt et un"),
        (22, "twenty two", "vingt-deux"),
        (70, "seventy", "soixante-dix"),
        (71, "seventy one", "soixante et onze"),
        (80, "eighty", "quatre-vingts"),
        (81, "eighty one", "quatre-vingt-un"),
        (91, "ninety one", "quatre-vingt-onze"),
        (99, "ninety nine", "quatre-vingt-dix-neuf"),
        (100, "one hundred", "cent"),
        (101, "one hundred one", "cent un"),
        (200, "two hundred", "deux cents"),
        (280, "two hundred eighty", "deux cent quatre-vingts"),
        (1000, "one thousand", "mille"),
        (2000, "two thousand", "deux mille"),
        (1999, "one thousand nine hundred ninety nine", "mille neuf cent quatre-vingt-dix-neuf"),
        (9600, "nine thousand six hundred", "neuf mille six cents"),
    ],
)
def test_numbers_in_words(number: int, ours: str, theirs: str) -> None:
    assert (english(number), french(number)) == (ours, theirs)


def test_pairs_are_two_columns_and_the_short_ones_come_first(made) -> None:
    lines = (made("eng_fra") / "fra.txt").read_text("utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    assert all(len(pair) == 2 for pair in pairs)
    lengths = [len(ours) for ours, _ in pairs]
    assert lengths == sorted(lengths)
    assert len({ours for ours, _ in pairs}) == len(pairs) == 4 * 2998
    assert ["I have twenty one cats.", "J'ai vingt et un chats."] in pairs
    assert len({french(number) for number in range(10_000)}) == 10_000


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


def test_text_stand_ins_are_made_of_the_text_on_this_machine() -> None:
    assert {"imdb", "wikitext2", "openstax", "nietzsche"} <= TEXTS.keys()
    assert len(set(prose())) == len(prose())
