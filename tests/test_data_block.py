"""Chapter 08: files, items, splits, labels and loaders, and what people run into with them.

Each refusal is one line that names the file, its label and its split where they are known.
"""

import csv
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils import data as theirs

from fromfound.data import fetch
from fromfound.data_block import (
    Category,
    ImageList,
    ItemList,
    LabeledBunch,
    MultiCategory,
    Normalize,
    Number,
    Resize,
    column_labeler,
    column_splitter,
    compose,
    get_files,
    grandparent_splitter,
    multi_accuracy,
    parent_labeler,
    random_splitter,
    regex_labeler,
    to_byte_tensor,
    to_float_tensor,
)
from fromfound.dataloader import DataLoader
from fromfound.files import DataError
from fromfound.learner import Learner

TFMS = [Resize(16), to_byte_tensor, to_float_tensor]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def write_image(path: Path, color=(200, 100, 50), mode="RGB", size=(20, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, four images each for training, two for validation; one is gray."""
    for split, count in (("train", 4), ("valid", 2)):
        for shade, name in ((40, "cat"), (200, "dog")):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", (shade, i, 0))
    write_image(tmp_path / "train" / "cat" / "0.png", mode="L")
    return tmp_path


def labeled(folder, **options):
    images = ImageList.from_files(folder, TFMS, **options)
    return images.split(grandparent_splitter()).label(parent_labeler)


def one_line(error: BaseException, *parts: str) -> None:
    """Check that a message is one line and says all that a user needs."""
    message = str(error)
    assert "\n" not in message
    for part in parts:
        assert part in message, (part, message)


# --- files ----------------------------------------------------------------------------------------


def test_get_files_is_sorted_and_finds_what_pathlib_finds(folder):
    files = get_files(folder)
    assert files == sorted(path for path in folder.rglob("*") if path.is_file())
    assert get_files(str(folder)) == files


def test_get_files_is_sorted_whatever_the_file_system_says(folder, monkeypatch):
    expected = get_files(folder)
    walk = os.walk

    def backward(top):
        for place, subfolders, names in walk(top):
            subfolders.sort(reverse=True)
            yield place, subfolders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", backward)
    assert get_files(folder) == expected


def test_get_files_options(folder):
    write_image(folder / "top.JPG")
    write_image(folder / "train" / ".hidden" / "x.png")
    write_image(folder / "train" / "cat" / "._x.png")
    (folder / "notes.txt").write_text("")
    names = {path.name for path in get_files(folder, [".jpg"])}
    assert names == {"top.JPG"}
    assert {path.name for path in get_files(folder, recurse=False)} == {"top.JPG", "notes.txt"}
    assert not [path for path in get_files(folder) if "/." in path.as_posix()]
    below = get_files(folder, include=["dog"])
    assert len(below) == 6
    assert {path.parent.name for path in below} == {"dog"}


def test_get_files_says_what_is_wrong(folder):
    with pytest.raises(DataError) as caught:
        get_files(folder / "nowhere")
    one_line(caught.value, "get_files", "nowhere", "no folder is there")
    with pytest.raises(DataError) as caught:
        get_files(folder, [".jpg"])
    one_line(caught.value, "get_files", "'.jpg'", "12 '.png'")
    with pytest.raises(DataError) as caught:
        get_files(folder, include=["bird"])
    one_line(caught.value, "'bird'", "12 '.png'")
    with pytest.raises(DataError) as caught:
        get_files(write_image(folder / "x.png"))
    one_line(caught.value, "expected a folder")


@pytest.mark.parametrize("name", ["two\nlines", "naïve café", "猫", "a'b\"c", " "])
def test_paths_of_any_letters(tmp_path, name):
    for split in ("train", "valid"):
        for k, label in enumerate((name, "other")):
            write_image(tmp_path / split / label / f"{name}.png", (80 * k, 0, 0))
    data = labeled(tmp_path)
    assert data.kind.vocab == sorted([name, "other"])
    x, y = data.train[0]
    assert x.shape == (3, 16, 16)
    (tmp_path / "train" / name / f"{name}.png").write_bytes(b"")
    at = data.train.labels.index(name)
    with pytest.raises(DataError) as caught:
        data.train[at]
    one_line(caught.value, "the file is empty", repr(name))


# --- items and transforms -------------------------------------------------------------------------


def test_compose_applies_in_order():
    assert compose(3, [lambda x: x + 1, lambda x: x * 10]) == 40
    assert compose(3, []) == 3


@given(st.lists(st.integers(), max_size=8), st.data())
def test_indices_of_every_kind(items, data):
    found = ItemList(items, tfms=[lambda x: x + 1])
    n = len(items)
    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    numbers = data.draw(st.lists(st.integers(0, n - 1), max_size=5)) if n else []
    start, stop = data.draw(st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
    chosen = [item for item, yes in zip(items, mask, strict=True) if yes]
    if n:
        for form in (list, np.array, torch.tensor):
            assert found[form(mask)].items == chosen
    for form in (list, partial(np.array, dtype=int), torch.LongTensor):
        assert found[form(numbers)].items == [items[i] for i in numbers]
    assert found[start:stop].items == items[start:stop]
    assert [found[i] for i in range(n)] == [item + 1 for item in items]
    assert [found[start:stop][i] for i in range(len(items[start:stop]))] == [
        item + 1 for item in items[start:stop]
    ]


def test_a_part_keeps_class_and_settings_and_opens_nothing(folder):
    class Upright(ImageList):
        extra = "kept"

    images = Upright.from_files(folder, TFMS)
    (folder / "train" / "cat" / "1.png").write_bytes(b"")
    part = images[:3]
    assert type(part) is Upright
    assert part.tfms == images.tfms
    assert part.path == images.path
    assert len(images) == 12
    plain = part.transform([])
    assert type(plain) is Upright
    assert plain.tfms == []
    assert part.tfms == TFMS
    with pytest.raises(IndexError):
        images[12]
    with pytest.raises(IndexError, match="expected 12 entries, got 2"):
        images[[True, False]]


def test_a_list_is_a_snapshot(folder):
    items = [1, 2]
    kept = ItemList(items)
    items.append(3)
    assert len(kept) == 2
    data = labeled(folder)
    bunch = data.databunch(2)
    before = [len(batch[1]) for batch in bunch.train_dl]
    write_image(folder / "train" / "cat" / "new.png")
    assert [len(batch[1]) for batch in bunch.train_dl] == before
    assert len(data.train) == 8
    assert len(labeled(folder).train) == 9
    gone = data.train.x.items[0]
    gone.unlink()
    with pytest.raises(DataError) as caught:
        list(bunch.train_dl)
    one_line(caught.value, "'train/cat/0.png'", "No such file", "label 'cat'", "training set")


def test_tfms_are_a_list_of_objects():
    with pytest.raises(TypeError, match=r"write Resize\(\)"):
        ItemList([1], tfms=[Resize])
    with pytest.raises(TypeError, match="tfms expected a list"):
        ItemList([1], tfms=to_byte_tensor)


def test_images_have_three_channels_unless_asked(folder):
    gray = folder / "train" / "cat" / "0.png"
    with Image.open(gray) as image:
        assert image.mode == "L"
    assert ImageList([gray])[0].mode == "RGB"
    assert ImageList([gray], mode=None)[0].mode == "L"
    assert ImageList([gray], mode="L", tfms=[to_byte_tensor])[0].shape == (1, 12, 20)
    everything = ImageList.from_files(folder, TFMS)
    assert {everything[i].shape for i in range(len(everything))} == {(3, 16, 16)}


def test_pixels_are_those_of_pil(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    path = tmp_path / "x.png"
    Image.fromarray(array).save(path)
    x = ImageList([path], tfms=[to_byte_tensor])[0]
    assert x.dtype == torch.uint8
    assert np.array_equal(x.permute(1, 2, 0).numpy(), array)
    assert torch.equal(to_float_tensor(x), x / 255)
    x.add_(1)  # it can be written to
    resized = Resize((3, 2))(Image.fromarray(array))
    assert resized.size == (2, 3)
    with pytest.raises(TypeError, match="before to_byte_tensor"):
        Resize(3)(x)
    with pytest.raises(TypeError, match="8 bits"):
        to_byte_tensor(Image.new("I;16", (2, 2)))


DAMAGE = {
    "empty": (lambda raw: b"", "the file is empty"),
    "text": (lambda raw: b"<html>", "cannot identify image file"),
    "cut": (lambda raw: raw[: len(raw) // 2], "truncated"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_damaged_image_is_named(tmp_path, damage, ending):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for split in ("train", "valid"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(noise).save(tmp_path / split / name / f"x.{ending}")
    path = tmp_path / "train" / "b" / f"x.{ending}"
    change, reason = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes()))
    images = ImageList.from_files(tmp_path, TFMS)
    data = images.split(grandparent_splitter()).label(parent_labeler)
    with pytest.raises(DataError) as caught:
        data.train[1]
    one_line(caught.value, f"'train/b/x.{ending}'", reason, "label 'b'", "training set")
    with pytest.raises(DataError) as caught:
        images.check()
    one_line(caught.value, f"'train/b/x.{ending}'", reason, "check(skip=True)")


def test_damaged_images_are_left_out_on_request(folder, capsys):
    for name in ("0.png", "3.png"):
        (folder / "train" / "dog" / name).write_bytes(b"")
    images = ImageList.from_files(folder, TFMS).check(skip=True)
    assert len(images) == 10
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "'train/dog/0.png': the file is empty" in said[0]
    data = images.split(grandparent_splitter()).label(parent_labeler)
    assert len(list(data.databunch(2).train_dl)) == 3


# --- splits ---------------------------------------------------------------------------------------


def test_grandparent_splitter(folder):
    write_image(folder / "test" / "cat" / "0.png")
    split = ImageList.from_files(folder).split(grandparent_splitter())
    assert len(split.train) == 8
    assert len(split.valid) == 4
    assert {item.parent.parent.name for item in split.valid.items} == {"valid"}
    with pytest.raises(ValueError) as caught:
        ImageList.from_files(folder).split(grandparent_splitter(valid="val"))
    one_line(caught.value, "grandparent_splitter", "no item of 'val'", "8 'train'", "4 'valid'")


def test_random_splitter_is_the_same_everywhere():
    items = [Path("/data") / f"{i % 7}" / f"{i}.png" for i in range(103)]
    state = torch.get_rng_state()
    train, valid = random_splitter(0.2, seed=3)(items)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(valid) == 21
    assert sorted(train + valid) == list(range(103))
    chosen = {items[i].name for i in valid}
    moved = [Path("/elsewhere/x") / item.relative_to("/data") for item in reversed(items)]
    _, again = random_splitter(0.2, seed=3)(moved)
    assert {moved[i].name for i in again} == chosen
    _, other = random_splitter(0.2, seed=4)(items)
    assert {items[i].name for i in other} != chosen
    assert valid[:5] == PINNED


PINNED = [2, 6, 9, 16, 38]


def test_random_splitter_bounds():
    assert random_splitter(0)([1, 2, 3])[1] == []
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match="random_splitter expected a fraction"):
            random_splitter(wrong)


def test_column_splitter_compares_text():
    rows = [{"is_valid": value} for value in ("False", "True", False, True)]
    assert column_splitter("is_valid", False, True)(rows) == ([0, 2], [1, 3])
    with pytest.raises(ValueError) as caught:
        column_splitter("is_valid")(rows)
    one_line(caught.value, "column_splitter", "no item of 'train'", "2 'False'")


def test_splits_that_cannot_be_meant(folder):
    images = ImageList.from_files(folder)
    with pytest.raises(ValueError) as caught:
        images.split(lambda items: ([], range(len(items))))
    one_line(caught.value, "no item for training", "12 of 12 for validation")
    with pytest.raises(ValueError) as caught:
        images.split(random_splitter(1.0))
    one_line(caught.value, "no item for training")
    with pytest.raises(ValueError) as caught:
        images.split(lambda items: ([0, 1, 2], [2, 3]))
    one_line(caught.value, "1 items for training and for validation", "'train/cat/2.png'")
    mask = torch.arange(12) < 5
    split = images.split(lambda items: (mask, ~mask))
    assert len(split.train) == 5
    assert len(split.valid) == 7


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", None])
def test_a_label_that_is_nothing(folder, nothing):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    with pytest.raises(ValueError) as caught:
        split.label(lambda path: nothing)
    one_line(caught.value, f"label got {nothing!r}", "'train/cat/0.png'", "training set")
    one_line(caught.value, "the labeler found none")

    def only_in_validation(path):
        return nothing if path.parent.parent.name == "valid" else path.parent.name

    with pytest.raises(ValueError) as caught:
        split.label(only_in_validation)
    one_line(caught.value, f"label got {nothing!r}", "'valid/cat/0.png'", "validation set")


def test_a_label_that_is_only_in_validation(folder):
    write_image(folder / "valid" / "zebra" / "0.png")
    split = ImageList.from_files(folder).split(grandparent_splitter())
    with pytest.raises(ValueError) as caught:
        split.label(parent_labeler)
    one_line(caught.value, "'zebra'", "'valid/zebra/0.png'", "validation set", "2 classes")
    data = split.label(parent_labeler, Category(["dog", "cat", "zebra"]))
    assert data.kind.c == 3
    assert data.kind.decode(data.valid.y[-1]) == "zebra"
    assert data.train.y.unique().tolist() == [0, 1]


def test_a_folder_of_unlabeled_files(folder):
    for i in range(5):
        write_image(folder / "train" / "unsup" / f"{i}.png")
    split = ImageList.from_files(folder).split(grandparent_splitter())
    with pytest.warns(UserWarning) as caught:
        split.label(parent_labeler)
    assert len(caught) == 1
    one_line(caught[0].message, "'unsup'", "'train/unsup/0.png'", "5 files", "training set")
    one_line(caught[0].message, "include=")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = labeled(folder, include=["cat", "dog"])
        split.label(parent_labeler, Category(["cat", "dog", "unsup"]))
        ImageList.from_files(folder).split(random_splitter(0)).label(parent_labeler)
    assert data.kind.vocab == ["cat", "dog"]


def test_one_class_and_none(folder):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    with pytest.raises(ValueError) as caught:
        split.label(lambda path: "thing")
    one_line(caught.value, "'thing'", "'train/cat/0.png'", "training set", "['thing']")
    with pytest.raises(ValueError) as caught:
        split.label(lambda path: [], MultiCategory())
    one_line(caught.value, "[] for 'train/cat/0.png'", "vocabulary is []")
    with pytest.raises(ValueError, match="each class once"):
        Category(["a", "a"])


def test_the_vocabulary_is_sorted_and_comes_from_training():
    rows = [("train", name) for name in "dbca"] + [("valid", name) for name in "cdab"]
    for order in (1, -1):
        data = ItemList(rows[::order]).split(column_splitter(0)).label(column_labeler(1))
        assert data.kind.vocab == ["a", "b", "c", "d"]
        for part in (data.train, data.valid):
            assert [data.kind.decode(y) for y in part.y] == part.labels
    assert data.train.y.dtype == torch.int64


def test_the_vocabulary_does_not_depend_on_the_hash_seed(folder):
    program = (
        "import sys; from fromfound.data_block import *;"
        "images = ImageList.from_files(sys.argv[1]);"
        "print(images.split(grandparent_splitter()).label(parent_labeler).kind.vocab)"
    )
    answers = set()
    for seed in "01":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(folder)]
        answers.add(subprocess.check_output(command, env=environment, text=True))
    assert answers == {"['cat', 'dog']\n"}


def test_kinds_refuse_the_labels_of_others():
    rows = [("train", label) for label in (["a"], ["b", "a"])]
    wrong = {
        Category: (["a"], 1.5, {"a": 1}),
        MultiCategory: ("a", None, 3, ["a", ""], [None]),
        Number: ("", "old", None, float("nan"), float("inf"), ["1"]),
    }
    for kind, labels in wrong.items():
        for label in labels:
            items = ItemList([*rows, ("train", label)]).split(lambda items: ([0, 1, 2], []))
            with pytest.raises(ValueError) as caught:
                items.label(lambda row, label=label: label, kind())
            one_line(caught.value, "label got", "training set")
    with pytest.raises(ValueError, match="several types"):
        items = ItemList(["a", 1]).split(lambda items: ([0, 1], []))
        items.label(lambda item: item)


def test_what_follows_from_each_kind(folder):
    split = ImageList.from_files(folder, TFMS).split(grandparent_splitter())
    cases = {
        "one class": (parent_labeler, Category(), 2, (4,), torch.int64),
        "several": (lambda p: [p.parent.name, p.stem], MultiCategory(), 6, (4, 6), torch.float32),
        "a number": (lambda p: int(p.stem) / 2, Number(), 1, (4, 1), torch.float32),
    }
    for labeler, kind, c, shape, dtype in cases.values():
        data = split.label(labeler, kind)
        bunch = data.databunch(4)
        xb, yb = next(iter(bunch.train_dl))
        assert bunch.c == c
        assert yb.shape == shape
        assert yb.dtype == dtype
        assert data.kind is not kind  # the caller's own is not touched
        for y, label in zip(data.train.y, data.train.labels, strict=True):
            decoded = data.kind.decode(y)
            assert decoded == (sorted(label) if isinstance(label, list) else label)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, bunch.c))
        learn = Learner(model, bunch, bunch.loss_func, metrics=[bunch.metric], default_cbs=False)
        before = learn.validate()
        learn.fit(3, lr=0.01)
        after = learn.validate()
        assert after["valid_loss"] < before["valid_loss"]


def test_multi_accuracy():
    scores = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert multi_accuracy(scores, target) == 0.75


def test_labelers():
    assert parent_labeler(Path("a/b/c.png")) == "b"
    labeler = regex_labeler(r"([a-z]+)_\d+\.jpg$")
    assert labeler(Path("x/great_pyrenees_12.jpg")) == "pyrenees"
    assert labeler(Path("x/12.jpg")) is None
    with pytest.raises(ValueError, match="expected a group"):
        regex_labeler("abc")
    row = {"tags": "a b  c", "age": "7"}
    assert column_labeler("age")(row) == "7"
    assert column_labeler("tags", " ")(row) == ["a", "b", "c"]
    assert column_labeler("tags", " ")({"tags": ""}) == []


def test_a_table_of_images(folder):
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "tags", "is_valid"])
        for path in get_files(folder, [".png"]):
            below = path.relative_to(folder).as_posix()
            writer.writerow([below, f"{path.parent.name} n{path.stem}", "valid" in below])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    images = ImageList(rows, folder, TFMS, column="file")
    split = images.split(column_splitter("is_valid", False, True))
    data = split.label(column_labeler("tags", " "), MultiCategory())
    assert data.kind.vocab == ["cat", "dog", "n0", "n1", "n2", "n3"]
    x, y = data.valid[0]
    assert data.kind.decode(y) == ["cat", "n0"]
    assert torch.equal(x, ImageList.from_files(folder, TFMS)[8])
    (folder / rows[0]["file"]).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        data.train[0]
    one_line(caught.value, "'train/cat/0.png'", "label ['cat', 'n0']")


# --- normalization and loaders --------------------------------------------------------------------


def test_normalize_measures_and_undoes():
    x = torch.rand(50, 3, 5, 7) * torch.tensor([1, 2, 3]).view(3, 1, 1) + 4
    norm = Normalize.of(x)
    expected = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.mean.flatten(), expected.mean(1).float())
    torch.testing.assert_close(norm.std.flatten(), expected.std(1, correction=0).float())
    torch.testing.assert_close(norm.undo(norm(x)), x)
    torch.testing.assert_close(norm(x)[7], norm(x[7]))
    state = torch.get_rng_state()
    assert torch.equal(Normalize.of(x, 10).mean, Normalize.of(x, 10).mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert norm(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(TypeError, match="after to_float_tensor"):
        norm((255 * x).byte())
    with pytest.raises(ValueError, match="above 0"):
        Normalize([0.0], [0.0])


@pytest.mark.parametrize("loader", [DataLoader, theirs.DataLoader])
def test_a_bunch_of_loaders(folder, loader):
    data = labeled(folder)
    bunch = data.databunch(3, loader=loader, generator=torch.Generator().manual_seed(0))
    assert isinstance(bunch, LabeledBunch)
    assert isinstance(bunch.train_dl, loader)
    seen = torch.cat([y for _, y in bunch.train_dl])
    assert sorted(seen.tolist()) == [0] * 4 + [1] * 4
    assert torch.equal(torch.cat([y for _, y in bunch.valid_dl]), data.valid.y)
    assert bunch.c == 2
    nothing = ImageList.from_files(folder, TFMS).split(random_splitter(0)).label(parent_labeler)
    assert nothing.databunch(3).valid_dl is None


@pytest.mark.parametrize("loader", [DataLoader, theirs.DataLoader])
def test_spawned_workers(folder, loader):
    norm = Normalize([0.5] * 3, [0.2] * 3)
    split = ImageList.from_files(folder).split(grandparent_splitter())
    data = split.transform([*TFMS, norm]).label(parent_labeler)
    spawn = multiprocessing.get_context("spawn")
    [batch] = loader(data.valid, 8, num_workers=1, multiprocessing_context=spawn)
    [expected] = loader(data.valid, 8)
    assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
    back = pickle.loads(pickle.dumps(data))
    assert back.kind.vocab == data.kind.vocab
    assert torch.equal(back.train[0][0], data.train[0][0])


def test_an_error_in_a_worker_names_the_file(folder):
    data = labeled(folder)
    (folder / "train" / "dog" / "1.png").write_bytes(b"")
    for workers in (0, 2):
        with pytest.raises(DataError, match="'train/dog/1.png': the file is empty.*label 'dog'"):
            list(data.databunch(2, num_workers=workers).train_dl)


def test_show_batch(folder):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    norm = Normalize([0.5] * 3, [0.2] * 3)
    bunch = split.transform([*TFMS, norm]).label(parent_labeler).databunch(8)
    picture = bunch.show_batch(4)
    axes = picture.fig.axes
    titles = [ax.get_title() for ax in axes]
    assert set(titles) <= {"cat", "dog"}
    for ax, title in zip(axes, titles, strict=True):
        red = np.asarray(ax.images[0].get_array())[..., 0].mean()
        if title == "dog":
            assert red == pytest.approx(200 / 255, abs=0.01)


def test_imagenette():
    path = fetch("imagenette")
    images = ImageList.from_files(path, [Resize(128), to_byte_tensor])
    split = images.split(grandparent_splitter("train", "val"))
    data = split.label(parent_labeler)
    assert data.kind.c == 10
    assert len(split.train) + len(split.valid) == len(images)
    x, y = data.valid[0]
    assert x.shape == (3, 128, 128)
    assert data.kind.decode(y) == split.valid.items[0].parent.name


# --- what a user may pass -------------------------------------------------------------------------


def test_single_numbers_of_any_library_give_an_item():
    items = ItemList("abcd")
    for number in (1, np.int64(1), torch.tensor(1), -3):
        assert items[number] == "b"
    for several in (np.array([1]), torch.tensor([1]), range(1, 2), (1,)):
        assert items[several].items == ["b"]
    assert items[[-1, 0]].items == ["d", "a"]
    for wrong in ([1.5], torch.zeros(2, 2), "a"):
        with pytest.raises((TypeError, ValueError)):
            items[wrong]
    for outside in ([4], [-5], torch.tensor([0, 9])):
        with pytest.raises(IndexError, match="4 items have numbers from 0 to 3"):
            items[outside]


def test_one_ending_or_folder_may_be_text(folder):
    assert get_files(folder, ".png") == get_files(folder, ["PNG"]) == get_files(folder)
    assert get_files(folder, include="dog") == get_files(folder, include=["dog"])


def test_what_a_splitter_must_return():
    items = ItemList(range(4))
    for wrong in ([0, 1, 2], None, ([0], [1], [2])):
        with pytest.raises(TypeError, match="split expected two lists of numbers"):
            items.split(lambda items, wrong=wrong: wrong)
    with pytest.raises(IndexError):
        items.split(lambda items: ([0, 4], [1]))


def test_labels_of_numpy_and_an_error_in_the_labeler():
    split = ItemList([0, 1, 2, 3]).split(lambda items: ([0, 1, 2, 3], []))
    data = split.label(lambda item: np.int64(item % 2))
    assert data.kind.vocab == [0, 1]
    assert type(data.kind.vocab[0]) is int
    data = split.label(lambda item: torch.tensor(item / 4), Number())
    assert data.train.y.flatten().tolist() == [0, 0.25, 0.5, 0.75]
    with pytest.raises(KeyError) as caught:
        split.label(lambda item: {}[item])
    one_line(caught.value.__notes__[0], "in the labeler", "0 in the training set")


def test_transforms_refuse_what_cannot_be_meant():
    for wrong in (0, -1, 1.5, (3,), (3, 0), (1, 2, 3)):
        with pytest.raises(ValueError, match="Resize expected"):
            Resize(wrong)
    assert Resize(np.int64(4))(Image.new("L", (9, 9))).size == (4, 4)
    with pytest.raises(TypeError, match="to_float_tensor expected uint8"):
        to_float_tensor(torch.rand(3, 2, 2))
    norm = Normalize([0.5] * 3, [0.2] * 3)
    for shape in ((1, 4, 4), (2, 1, 4, 4), (4, 4)):
        with pytest.raises(ValueError, match="Normalize expected"):
            norm(torch.rand(shape))
    for mean, std in (([0.5], [0.2, 0.2]), ([float("nan")], [1.0]), (0.5, 0.2)):
        with pytest.raises(ValueError, match="Normalize expected"):
            Normalize(mean, std)
    with pytest.raises(ValueError, match=r"Normalize\.of expected images"):
        Normalize.of([])
