"""Chapter 08: files, items, splits, labels and loaders, and what people run into with them.

Each refusal is one line that names the file, its label and its split where they are known.
"""

import csv
import errno
import multiprocessing
import os
import pickle
import random
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
    LabeledList,
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

    def backward(top, **options):
        for place, subfolders, names in walk(top, **options):
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
        get_files(folder, include=["cat", "dgo"])
    one_line(caught.value, "'dgo'", "include=", "12 '.png'")
    with pytest.raises(DataError) as caught:
        get_files(write_image(folder / "x.png"))
    one_line(caught.value, "expected a folder")


@pytest.mark.parametrize("name", ["two\nlines", "naïve café", "猫", "a'b\"c", " x "])
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
    parts = []

    def split(items, path, seed=3):
        parts[:] = []
        splitter = random_splitter(0.2, seed)
        ItemList(items, path).split(lambda found: parts.extend(splitter(found)) or parts)
        return parts

    train, valid = split(items, "/data")
    assert torch.equal(torch.get_rng_state(), state)
    assert len(valid) == 21
    assert sorted(train + valid) == list(range(103))
    chosen = {items[i].name for i in valid}
    moved = [Path("/elsewhere/x") / item.relative_to("/data") for item in reversed(items)]
    assert valid[:5] == PINNED
    _, again = split(moved, "/elsewhere/x")
    assert {moved[i].name for i in again} == chosen
    _, text = split([str(item) for item in items], "/data")
    assert {items[i].name for i in text} == chosen
    _, other = split(items, "/data", seed=4)
    assert {items[i].name for i in other} != chosen


PINNED = [1, 4, 21, 37, 40]


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
    one_line(caught.value, "1 item both for training", "'train/cat/2.png'")
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
    items = ItemList(list("abcd"))
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
        with pytest.raises(TypeError, match="split expected two lists of positions"):
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
    with pytest.raises(TypeError, match="to_float_tensor expected a tensor of uint8"):
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


# --- second look: what a first reader and a skeptic found -----------------------------------------


def test_linked_folders_are_followed_but_in_no_circle(folder):
    plain = get_files(folder)
    elsewhere = folder.parent / f"{folder.name}_pool"
    write_image(elsewhere / "0.png")
    write_image(elsewhere / "deep" / "1.png")
    for part in ("train", "valid"):
        (folder / part / "bird").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "deep" / "back").symlink_to(folder, target_is_directory=True)
    (folder / "train" / "self").symlink_to(folder, target_is_directory=True)
    found = get_files(folder)
    new = {file.relative_to(folder).as_posix() for file in set(found) - set(plain)}
    assert {f"{part}/bird/{name}" for part in ("train", "valid") for name in NAMES} <= new
    assert len(found) == len(set(found)) < 200
    assert not any("/self/" in name for name in new)


NAMES = ("0.png", "deep/1.png")


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    scandir = os.scandir

    def closed(place):
        if str(place).endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError) as caught:
        get_files(folder)
    one_line(caught.value, "get_files", "/dog'", "Permission denied")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_not_made_white(tmp_path, mode):
    path = tmp_path / "x.tiff"
    Image.new(mode, (4, 3), 1000).save(path)
    with pytest.raises(DataError) as caught:
        ImageList([path], tmp_path)[0]
    one_line(caught.value, "'x.tiff'", repr(mode), "mode=None")
    assert ImageList([path], mode=None)[0].mode == mode
    with pytest.raises(TypeError, match="8 bits a channel") as caught:
        ImageList([path], mode=None, tfms=[to_byte_tensor])[0]
    assert "RGB" not in str(caught.value)


def test_to_byte_tensor_refuses_palettes_and_tensors():
    with pytest.raises(TypeError, match="mode 'P', numbers of a palette"):
        to_byte_tensor(Image.new("RGB", (4, 4)).convert("P"))
    with pytest.raises(TypeError, match="got a tensor: list it once"):
        to_byte_tensor(torch.zeros(3, 4, 4, dtype=torch.uint8))


def test_images_are_turned_upright(tmp_path):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert ImageList([path])[0].size == (4, 8)


def test_the_halves_of_a_split_have_their_own_transforms(folder):
    images = ImageList.from_files(folder, TFMS)
    split = images.split(grandparent_splitter())
    split.train.tfms.append(torch.neg)
    assert split.valid.tfms == images.tfms == TFMS


def test_transforms_of_a_split(folder):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    both = split.transform(iter(TFMS))
    assert both.train.tfms == both.valid.tfms == TFMS
    both = split.transform(TFMS, TFMS[:2])
    assert both.train.tfms == TFMS
    assert both.valid.tfms == TFMS[:2]


def out_of_range(item):
    return [item][item]  # raises IndexError for all but 0


def test_an_index_error_in_a_transform_is_not_the_end_of_a_loop():
    items = ItemList([0, 1, 2], tfms=[out_of_range])
    with pytest.raises(IndexError):
        list(items)
    assert list(ItemList([5, 6])) == [5, 6]
    split = items.split(lambda items: ([0, 1, 2], []))
    with pytest.raises(IndexError) as caught:
        list(split.label(lambda item: item).train)
    one_line(caught.value.__notes__[0], "in a transform of 1", "label 1", "training set")


def test_category_wants_an_order():
    for wrong in ({"b", "a"}, frozenset("ab"), "ab"):
        with pytest.raises(TypeError, match="Category expected a list of classes"):
            Category(wrong)
    assert Category(np.array(["b", "a"])).vocab == ["b", "a"]


def test_a_given_vocabulary_keeps_its_order(folder):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    data = split.label(parent_labeler, Category(["dog", "cat"]))
    assert data.kind.vocab == ["dog", "cat"]
    assert data.train.y.tolist() == [1] * 4 + [0] * 4


def membership(splitter, items):
    return {items[i] for i in splitter(items)[1]}


@given(st.sets(st.text(min_size=1), min_size=1, max_size=30), st.text(min_size=1), st.integers())
def test_one_more_item_moves_at_most_one_other(names, another, seed):
    splitter = random_splitter(0.3, seed)
    before = membership(splitter, sorted(names))
    after = membership(splitter, sorted(names | {another}))
    assert len(before ^ (after - {another})) <= 1 or another in names
    assert len(before) == round(0.3 * len(names))


def test_random_splitter_does_not_depend_on_place_or_other_folders():
    def chosen(items, path):
        split = ImageList(items, path).split(random_splitter(0.25))
        return {item.name for item in split.valid.items}

    items = [Path("/a/b/train/x") / f"{i}.png" for i in range(400)]
    before = chosen(items, "/a/b")
    assert len(before) == 100
    moved = [Path("c") / item.relative_to("/a/b") for item in items[::-1]]
    assert chosen(moved, "c") == before
    assert chosen([str(item) for item in items], Path("/a/b")) == before
    for new in ("train/x/new.png", "train/y/new.png", "new.png", "valid/x/new.png"):
        after = chosen([*items, Path("/a/b", new)], "/a/b")
        assert len(before ^ (after - {"new.png"})) <= 1, new
    assert random_splitter(0.5)([Path("a.png"), Path("b.png")])[0]
    assert len(random_splitter(0.5)([Path("/a/a.png"), Path("b.png")])[1]) == 1


def test_random_splitter_keeps_equal_items_together():
    items = [f"{i % 20}" for i in range(60)]
    train, valid = random_splitter(0.2)(items)
    assert sorted(train + valid) == list(range(60))
    assert len(valid) == 12
    assert not {items[i] for i in train} & {items[i] for i in valid}
    ItemList(items).split(random_splitter(0.2))


def test_random_splitter_wants_names():
    class Same:
        def __repr__(self):
            return "same"

    with pytest.raises(ValueError, match="expected items with names"):
        random_splitter()([object(), object()])
    with pytest.raises(ValueError, match="different items of one name"):
        random_splitter()([Same(), Same()])
    assert random_splitter(0.5)([Path("x at 0x.png"), Path("y.png")])[1]


def test_random_splitter_is_the_same_in_every_process():
    program = (
        "from fromfound.data_block import *;"
        "print(random_splitter()([str(i) for i in range(50)]))"
    )
    answers = set()
    for seed in "01":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        answers.add(subprocess.check_output(command, env=environment, text=True))
    assert answers == {f"{random_splitter()([str(i) for i in range(50)])}\n"}


@pytest.mark.parametrize("items", [["a", "b", "a"], [{"k": [1]}, {"k": [2]}, {"k": [1]}]])
def test_one_item_in_both_halves(items):
    with pytest.raises(ValueError) as caught:
        ItemList(items).split(lambda items: ([0, 1], [2]))
    one_line(caught.value, "1 item both for training and for validation")
    rows = [{"text": "x" * 200, "number": i} for i in range(3)]
    ItemList(rows).split(lambda items: ([0, 1], [2]))
    arrays = [np.zeros(5000), np.ones(5000), torch.zeros(3)]
    ItemList(arrays).split(lambda items: ([0, 1], [2]))


def test_normalize_of_says_what_to_list(folder):
    images = ImageList.from_files(folder)
    for tfms in ([], TFMS[:1], TFMS[:2]):
        with pytest.raises(TypeError) as caught:
            Normalize.of(images.transform(tfms))
        one_line(caught.value, "Normalize.of", "to_byte_tensor and to_float_tensor")
    opened = []
    Normalize.of(images.transform([lambda image: opened.append(image) or image, *TFMS]), n=5)
    assert len(opened) == 5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_indices_of_small_types(dtype):
    items = ItemList(range(300))
    assert items[torch.tensor([3, 100], dtype=dtype)].items == [3, 100]
    assert items[torch.tensor(7, dtype=dtype)] == 7


def test_indices_that_are_no_numbers():
    items = ItemList(range(4))
    for wrong in (torch.tensor(True), np.bool_(True), True, "a", ["a"], {1: 2}, object()):
        with pytest.raises(TypeError, match="expected a number, or a slice, mask or list"):
            items[wrong]
    split = items.split(lambda items: ({2, 0, 1}, (3,)))
    assert split.train.items == [0, 1, 2]
    assert split.valid.items == [3]


def test_a_part_of_a_labeled_list(folder):
    data = labeled(folder)
    mask = torch.arange(8) % 2 == 0
    for index, positions in ((slice(2), [0, 1]), ([5, 0], [5, 0]), (mask, [0, 2, 4, 6])):
        part = data.train[index]
        assert isinstance(part, LabeledList)
        assert part.labels == [data.train.labels[i] for i in positions]
        assert torch.equal(part.y, data.train.y[positions])
        assert part.split == "training"
        assert [p.name for p in part.x.items] == [data.train.x.items[i].name for i in positions]
        assert len(part.classes) == len(part) == len(positions)
        for one, i in zip(part, positions, strict=True):
            assert torch.equal(one[0], data.train[i][0])
    with pytest.raises(IndexError):
        data.train[8]


@pytest.mark.parametrize("wrong", ["1e39", 1e39, 10**400, "1_000", "-inf"])
def test_numbers_that_float32_cannot_hold(wrong):
    with pytest.raises(ValueError, match="not a finite number"):
        Number().classes(wrong)
    assert Number().classes("-3.4e38") == []


@pytest.mark.parametrize("loader", [DataLoader, theirs.DataLoader])
def test_a_look_changes_no_random_number(folder, loader):
    class Noise:
        def __init__(self):
            self.generator = torch.Generator().manual_seed(0)

        def __call__(self, x):
            noise = torch.rand(1, generator=self.generator) + torch.rand(1)
            return x + noise + random.random() + np.random.rand()

    noise = Noise()
    split = ImageList.from_files(folder).split(grandparent_splitter())
    bunch = split.transform([*TFMS, noise]).label(parent_labeler).databunch(3, loader=loader)

    def states():
        numpy = np.random.get_state()
        own = noise.generator.get_state().tolist()
        return torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2], own

    before = states()
    bunch.show_batch()
    assert states() == before


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    def undo(self, x):
        return x / self.factor


def test_show_batch_undoes_backward_shows_all_parts_and_rounds(folder):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    tfms = [*TFMS, Normalize([0.5] * 3, [0.2] * 3), Times(3)]
    bunch = split.transform(tfms).label(lambda path: int(path.stem) / 3, Number()).databunch(2)
    axes = bunch.show_batch(4).fig.axes
    assert [ax.get_title() for ax in axes[:4]] == ["0", "0.6667", "0", "0.6667"]
    red = [np.asarray(ax.images[0].get_array())[..., 0].mean() for ax in axes[:4]]
    assert red[1:] == pytest.approx([40 / 255, 200 / 255, 200 / 255], abs=0.01)


def test_show_batch_stays_in_range(folder):
    split = ImageList.from_files(folder).split(grandparent_splitter())
    bunch = split.transform([*TFMS, lambda x: x * 9 - 1]).label(parent_labeler).databunch(2)
    for ax in bunch.show_batch(4).fig.axes[:4]:
        shown = np.asarray(ax.images[0].get_array())
        assert shown.min() >= 0
        assert shown.max() <= 1


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "I/O"), MemoryError()],
)
def test_check_does_not_blame_a_file_for_the_machine(folder, monkeypatch, failure):
    images = ImageList.from_files(folder)

    def fail(file):
        raise failure

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError):
        images.check(skip=True)


def test_multi_accuracy_refuses_other_shapes():
    with pytest.raises(ValueError, match="multi_accuracy expected equal shapes"):
        multi_accuracy(torch.zeros(4, 3), torch.zeros(3))
    assert multi_accuracy(torch.tensor([[0.3, -0.3]]), torch.tensor([[1.0, 0.0]])) == 1


def test_tables_that_are_read_in_another_way(folder):
    rows = [{"file": "train/cat/0.png", "tag": "a"}]
    with pytest.raises(TypeError) as caught:
        ImageList(rows, folder)
    one_line(caught.value, "ImageList expected paths", "column='name'")
    for read in (
        lambda: ImageList(rows, folder, column="path")[0],
        lambda: column_splitter("path")(rows),
        lambda: column_labeler("path")(rows[0]),
        lambda: column_labeler("path", " ")(rows[0]),
    ):
        with pytest.raises(ValueError) as caught:
            read()
        one_line(caught.value, "no column 'path'", "['file', 'tag']")
    with pytest.raises(ValueError, match="its columns: 2 of them"):
        column_labeler(2)(("a", "b"))

    class Frame:
        columns = ("file",)

    with pytest.raises(TypeError, match=r"to_dict\('records'\)"):
        ItemList(Frame())


def test_modes_are_those_of_pil(folder):
    with pytest.raises(ValueError, match="ImageList expected a mode of PIL"):
        ImageList(get_files(folder), mode="rgb")


def test_regex_labeler_reads_the_name_of_the_file():
    labeler = regex_labeler(r"([a-z]+)_\d+")
    assert labeler(Path("pets_2024/pug_1.jpg")) == "pug"
    assert labeler(Path("pets_2024/1.jpg")) is None


def test_the_order_of_a_bunch_comes_from_its_generator(folder):
    data = labeled(folder)
    orders = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(len(orders))
        bunch = data.databunch(3, generator=torch.Generator().manual_seed(seed))
        orders.append(torch.cat([x for x, _ in bunch.train_dl]))
    assert torch.equal(orders[0], orders[1])
    assert not all(torch.equal(orders[0], other) for other in orders[2:])
    assert [len(y) for _, y in data.databunch(1).valid_dl] == [2, 2]


def test_the_class_that_is_warned_of_is_the_largest(folder):
    for name, count in (("few", 1), ("many", 3), ("zero", 2)):
        for i in range(count):
            write_image(folder / "train" / name / f"{i}.png")
    with pytest.warns(UserWarning, match="'many'.*3 files"):
        ImageList.from_files(folder).split(grandparent_splitter()).label(parent_labeler)


# --- third look: what a second skeptic found ------------------------------------------------------


def test_one_file_of_two_spellings_is_one_item():
    files = [Path("a/x.png"), Path("b/y.png"), Path("a/../a/x.png")]
    with pytest.raises(ValueError, match="1 item both for training and for validation"):
        ItemList(files).split(lambda items: ([0, 1], [2]))


def test_items_of_a_splitter_know_their_folder(folder):
    seen = []
    ImageList.from_files(folder).split(lambda items: seen.append(items.path) or ([0], [1]))
    assert seen == [folder]


def test_multi_accuracy_of_no_numbers_and_of_none():
    nothing = torch.full((3, 2), torch.nan)
    assert multi_accuracy(nothing, torch.zeros(3, 2)) == 0
    assert multi_accuracy(torch.zeros(0, 2), torch.zeros(0, 2)).isnan()


@pytest.mark.parametrize("loader", [DataLoader, theirs.DataLoader])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_of_two_shapes_are_named(folder, loader, workers):
    images = ImageList(get_files(folder), folder, TFMS, mode=None)
    data = images.split(grandparent_splitter()).label(parent_labeler)
    with pytest.raises(ValueError) as caught:
        list(data.databunch(8, loader=loader, num_workers=workers).train_dl)
    for part in ("(1, 16, 16)", "(3, 16, 16)", "'cat' for 'train/cat/0.png' in the training set"):
        assert part in str(caught.value)
    assert str(caught.value).count("in the training set") == 2
    bunch = data.databunch(8, loader=loader, collate_fn=len, num_workers=workers)
    assert list(bunch.train_dl) == [8]
    assert list(bunch.valid_dl) == [4]
    unsized = images.transform(TFMS[1:])[1:].split(grandparent_splitter()).label(parent_labeler)
    write_image(unsized.valid.x.items[1], size=(7, 9))
    with pytest.raises(ValueError) as caught:
        list(unsized.databunch(8, loader=loader, num_workers=workers).valid_dl)
    for part in ("(3, 12, 20), of", "(3, 9, 7), of", "'valid/cat/1.png' in the validation set"):
        assert part in str(caught.value)


def test_cells_with_several_labels():
    labeler = column_labeler("t", ";")
    assert labeler({"t": "cat; dog ; "}) == ["cat", "dog"]
    for cell in (None, float("nan")):
        with pytest.raises(ValueError) as caught:
            labeler({"t": cell})
        one_line(caught.value, "column_labeler", "'t'", repr(cell))
    with pytest.raises(ValueError, match="column_labeler expected a delimiter"):
        column_labeler("t", "")
    for label in (" ", "\t\n"):
        with pytest.raises(ValueError, match="the labeler found none"):
            Category().classes(label)


def test_images_of_all_endings_are_listed_or_named(folder):
    write_image(folder / "train" / "cat" / "x.TIFF")
    write_image(folder / "train" / "cat" / "y.tif")
    (folder / "notes.txt").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ImageList.from_files(folder)) == 14
    write_image(folder / "train" / "cat" / "z.ppm")
    with pytest.warns(UserWarning) as caught:
        assert len(ImageList.from_files(folder)) == 14
    one_line(caught[0].message, "ImageList.from_files left out 1 '.ppm'", "get_files")
    assert caught[0].filename == __file__


def test_show_batch_of_another_choice(folder):
    bunch = labeled(folder).databunch(8)
    shown = [
        [np.asarray(ax.images[0].get_array()).tolist() for ax in picture.fig.axes[:3]]
        for picture in (bunch.show_batch(3, seed) for seed in (None, None, 0, 0, 1))
    ]
    assert shown[0] == shown[1]
    assert shown[2] == shown[3]
    assert shown[4] != shown[2] != shown[0]
    with pytest.raises(ValueError, match="show_batch expected n of 1 or more, got 0"):
        bunch.show_batch(0)


def test_messages_say_what_came(folder):
    images = ImageList.from_files(folder, TFMS)
    split = images.split(grandparent_splitter())
    gray = torch.zeros(1, 4, 4)
    norm = Normalize([0.5] * 3, [0.2] * 3)
    array = np.zeros((4, 4, 3), np.uint8)
    image = Image.fromarray(array)
    cases = [
        (ValueError, lambda: images.split(random_splitter), "write random_splitter()"),
        (TypeError, lambda: images.split("train"), "split expected a function, as"),
        (TypeError, lambda: split.label(None), "label expected a function, as parent_labeler"),
        (TypeError, lambda: split.label(parent_labeler, "category"), "label expected a kind, as"),
        (TypeError, lambda: split.label(parent_labeler, ["a"]), "got ['a']"),
        (AttributeError, lambda: images.label(parent_labeler), "call split first"),
        (AttributeError, lambda: images.databunch(), "call label first"),
        (AttributeError, lambda: split.databunch(), "SplitData has no attribute 'databunch': call"),
        (AttributeError, lambda: split.labels, "SplitData has no attribute 'labels'"),
        (TypeError, lambda: to_float_tensor(array), "got ndarray of uint8"),
        (TypeError, lambda: to_float_tensor(image), "after to_byte_tensor"),
        (TypeError, lambda: norm(image), "Normalize expected floating-point pixels, got <PIL"),
        (TypeError, lambda: Resize(4)("x.png"), "Resize expected an image of PIL, got 'x.png'"),
        (TypeError, lambda: Resize(4)(array), "got ndarray of uint8 and shape (4, 4, 3)"),
        (ValueError, lambda: Normalize.of([torch.zeros(3, 4, 4), gray]), "3 and 1"),
        (ValueError, lambda: Normalize(["a"], ["b"]), "Normalize expected a finite mean"),
        (ValueError, lambda: norm.undo(gray), "Normalize expected (..., 3, H, W), got (1, 4, 4)"),
        (ValueError, lambda: regex_labeler("("), "regex_labeler cannot read the pattern '('"),
        (TypeError, lambda: ImageList("abc.jpg"), "ImageList expected a list, got 'abc.jpg'"),
        (TypeError, lambda: ImageList(folder), "get_files lists a folder"),
        (ValueError, lambda: Resize(True), "Resize expected whole numbers"),
        (ValueError, lambda: random_splitter(True), "random_splitter expected a fraction"),
        (ValueError, lambda: Number().classes(True), "not a finite number"),
        (ValueError, lambda: Category(["a", "b"]).decode(-1), "from 0 to 1, got -1"),
        (ValueError, lambda: Category(["a", "b"]).decode(0.9), "from 0 to 1, got 0.9"),
        (ValueError, lambda: MultiCategory(["a", "b"]).encode("ab"), "not a list of classes"),
    ]
    for kind, call, part in cases:
        with pytest.raises(kind) as caught:
            call()
        one_line(caught.value, part)
        assert len(str(caught.value)) < 250
    assert Category(["a", "b"]).decode(torch.tensor(1)) == "b"
