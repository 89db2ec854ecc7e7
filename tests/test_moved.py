"""Records that outlive a rename: what computes the same holds, what doesn't is recorded again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.press import moved
from tests.press.chapters import ROOT

TRIAL = '''
import time

import torch

from fromfound.record import experiment


def doubled(x):
    return 2 * x


@experiment(marks={"mean": ">= -5"}, times=("* seconds",))
def trial(seed):
    """A trial."""
    x = torch.randn(50)
    return {"mean": doubled(x).mean().item(), "its seconds": time.perf_counter()}
'''
RENAMED = TRIAL.replace("doubled", "twice").replace("A trial.", "Another sentence.")
REWRITTEN = TRIAL.replace("return 2 * x", "return x + x")
ALTERED = TRIAL.replace("return 2 * x", "return 2.0001 * x")
TIMES = TRIAL.replace('"* seconds"', '"*"').replace("return 2 * x", "return x + x")
OTHER_NAMES = REWRITTEN.replace('"mean":', '"average":').replace('"average": ">=', '"mean": ">=')


def git(root: Path, *args: str) -> None:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(root), *args]
    subprocess.run(command, check=True, capture_output=True)


class Book:
    """A small repository with the package, an experiment and its record."""

    def __init__(self, root: Path) -> None:
        self.root, self.record = root, root / "book" / "runs" / "trial.trial.json"
        left_out = shutil.ignore_patterns("__pycache__", "experiments", "exercises")
        shutil.copytree(ROOT / "fromfound", root / "fromfound", ignore=left_out)
        (root / "fromfound" / "experiments").mkdir()
        (root / "fromfound" / "experiments" / "__init__.py").touch()
        self.write(TRIAL)
        environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "fromfound.record", "run", "trial.trial", "--seeds", "2"]
        git(root, "init", "-q")
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
        self.commit()

    def write(self, source: str, name: str = "trial") -> None:
        for path in (self.root / "fromfound" / "experiments").glob("t*.py"):
            path.unlink()
        path = self.root / "fromfound" / "experiments" / f"{name}.py"
        path.write_text(source, encoding="utf-8")

    def commit(self) -> None:
        git(self.root, "add", "-A")
        git(self.root, "commit", "-qm", "one")

    def moved(self, *args: str) -> int:
        return moved.main(["--before", "HEAD", "--values", str(self.values), *args], self.root)

    def kept(self) -> dict:
        return json.loads(self.record.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Book(tmp_path_factory.mktemp("first") / "book").root


@pytest.fixture
def book(first: Path, tmp_path: Path) -> Book:
    made = object.__new__(Book)
    made.root, made.values = shutil.copytree(first, tmp_path / "book"), first.parent / "values"
    made.record = made.root / "book" / "runs" / "trial.trial.json"
    return made


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object) -> None:
        raise AssertionError("nothing should run")

    monkeypatch.setattr(moved.Values, "of", run)


def test_what_is_up_to_date_stays(book, no_runs, capsys):
    before = book.kept()
    assert book.moved() == 0
    assert "trial.trial is up to date" in capsys.readouterr().out
    assert book.kept() == before


def test_a_rename_within_the_code_changes_nothing(book, no_runs, capsys):
    before = book.kept()
    book.write(RENAMED)
    assert book.moved() == 0
    assert "trial.trial is up to date" in capsys.readouterr().out
    assert book.kept() == before


def test_another_kind_of_fingerprint_needs_no_run(book, no_runs, capsys, monkeypatch):
    before = book.kept()
    book.record.write_text(json.dumps(before | {"code": "of another kind"}))
    book.commit()
    monkeypatch.setattr(moved, "FRESH", "print(False)")  # it was up to date, by that kind
    assert book.moved() == 0
    assert "but for names and places" in capsys.readouterr().out
    assert book.kept()["code"] == before["code"]


def test_a_record_moves_with_its_experiment(book, no_runs):
    before = book.kept()
    book.write(TRIAL.replace("def trial", "def measured"), "tests")
    assert book.moved("tests.measured", "--was", "trial.trial") == 0
    assert not book.record.exists()
    book.record = book.record.with_name("tests.measured.json")
    after = book.kept()
    assert after["command"] == "python -m fromfound.record run tests.measured --seeds 2"
    assert (after["name"], after["figures"]) == ("tests.measured", before["figures"])


@pytest.mark.slow
def test_a_rewritten_function_is_proved_by_one_seed(book, tmp_path, capsys, monkeypatch):
    before, book.values = book.kept(), tmp_path / "values"
    book.write(REWRITTEN)
    assert book.moved() == 0
    said = capsys.readouterr().out
    assert said.count("runs seed 0") == 2
    assert "make moved: 1 of 1 records hold" in said
    after = book.kept()
    assert after["code"] != before["code"]
    assert set(after) - set(before) == {"proved"}
    assert {n: v for n, v in after.items() if n not in ("code", "proved")} == {
        n: v for n, v in before.items() if n != "code"
    }
    assert after["proved"]["commit"].endswith("-dirty")
    assert "bitwise (seed 0 on " in after["proved"]["how"]
    code = "from fromfound.record import show_run; print(repr(show_run('trial.trial')))"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=book.root,
        env=os.environ | {"PYTHONPATH": str(book.root)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "changed" not in shown
    assert "bitwise (seed 0 on " in shown
    # The values are kept: the record as it was needs no run again.
    book.record.write_text(json.dumps(before))
    monkeypatch.setattr(moved, "RUN", "raise SystemExit('it ran again')")
    assert book.moved() == 0
    assert book.kept() == after


@pytest.mark.slow
@pytest.mark.parametrize(
    "source, said",
    [
        (ALTERED, "record it again, its values differ:\n    mean: "),
        (TIMES, "record it again: all its values are times"),
        (OTHER_NAMES, "average: new\n    mean: gone"),
        (REWRITTEN.replace("doubled(x).mean", "undefined(x).mean"), "NameError"),
    ],
    ids=["another result", "only times", "another name of a value", "an error"],
)
def test_what_does_not_hold_is_refused_and_left_alone(book, capsys, source, said):
    before = book.record.read_bytes()
    book.write(source)
    assert book.moved() == 1
    shown = capsys.readouterr().out
    assert "trial.trial REFUSED: " in shown
    assert said in shown
    assert "its seconds:" not in shown
    assert book.record.read_bytes() == before


@pytest.mark.slow
def test_the_record_must_have_been_up_to_date(book, capsys, no_runs):
    book.write(ALTERED)
    book.commit()
    book.write(REWRITTEN)
    assert book.moved() == 1
    assert "its code had already changed then" in capsys.readouterr().out


def test_the_record_must_be_the_same(book, capsys, no_runs):
    kept = book.kept()
    kept["figures"]["mean"]["per_seed"][0] = 9.0
    book.record.write_text(json.dumps(kept))
    book.write(REWRITTEN)
    assert book.moved() == 1
    assert "recorded again since then" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, said",
    [
        (["trial.nothing"], "it is not recorded"),
        (["trial.trial", "--was", "trial.before"], "there was no record of trial.before then"),
    ],
)
def test_what_is_missing_is_said(book, capsys, no_runs, args, said):
    book.write(REWRITTEN)
    assert book.moved(*args) == 1
    assert said in capsys.readouterr().out


def test_an_unknown_commit_is_an_error(book):
    with pytest.raises(SystemExit, match="make moved: .*nonsense"):
        moved.main(["--before", "nonsense"], book.root)


def test_another_machine_runs_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(moved, "python", lambda *args: ran.append(1) or '{"a": "0x1p0"}')
    values, place = moved.Values(tmp_path / "v.jsonl"), moved.Place(tmp_path, "m", "f", "c")
    assert values.of(place, 0, []) == values.of(place, 0, []) == {"a": "0x1p0"}
    assert len(ran) == 1
    values.of(place, 1, [])
    assert len(ran) == 2
    here = moved.machine()
    monkeypatch.setattr(moved, "machine", lambda: here | {"torch": "0"})
    values.of(place, 0, [])
    assert len(ran) == 3


def with_changes(book, source, other, file, changes):
    """Return the experiment of a source in the book, and in a copy with changes in one file."""
    book.write(source)
    shutil.copytree(book.root, other)
    path = other / "fromfound" / file
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    before, now = (moved.Place.find(tree, "trial.trial") for tree in (book.root, other))
    assert before.code != now.code
    return before, now


READER = """
from fromfound.data import load_mnist
from fromfound.matmul import matmul_einsum
from fromfound.record import experiment


@experiment(data=("mnist",))
def trial(seed):
    x = load_mnist().x_train[0]
    return {"mean": matmul_einsum(x, x).mean().item()}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, old, new, alike",
    [
        ("data.py", ".float().div_(255)", ".float().mul(1).div_(255)", True),
        ("data.py", ".float().div_(255)", ".float().div_(256)", False),
        ("matmul.py", '"ik,kj->ij"', '"ki,kj->ij"', False),
    ],
)
def test_code_that_reads_the_same_tensors_needs_no_run(book, tmp_path, file, old, new, alike):
    before, now = with_changes(book, READER, tmp_path / "other", file, {old: new})
    assert moved.reads_alike(before, now, ["mnist"]) is alike


AUGMENTING = """
import torch
from fromfound.augment import Compose, Flip, RandomErasing
from fromfound.matmul import matmul_einsum
from fromfound.record import experiment


@experiment()
def trial(seed):
    transform = Compose(Flip(), RandomErasing(), seed=seed)
    return {"mean": matmul_einsum(*transform(torch.ones(1, 2, 4, 4))[0]).mean().item()}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, old, new, alike",
    [
        ("augment.py", "images.clone()", "images.clone().clone()", True),
        ("augment.py", "images.clone()", "images.clone() + 1e-6", False),
        ("augment.py", "result = images.flip(-1)", "result = images.flip(-2)", False),
        ("augment.py", "place = (self.seed, self.name", "place = (self.name, self.seed", False),
        ("matmul.py", '"ik,kj->ij"', '"ki,kj->ij"', False),
    ],
)
def test_transforms_that_make_the_same_tensors_need_no_run(book, tmp_path, file, old, new, alike):
    before, now = with_changes(book, AUGMENTING, tmp_path / "other", file, {old: new})
    assert moved.augments_alike(before, now) is alike


LAYER = """
from fromfound.norm import RunningBatchNorm2d
from fromfound.record import experiment


@experiment()
def trial(seed):
    return {"mean": RunningBatchNorm2d(3).weight.mean().item()}
"""
MEAN = 'self._keep("running_mean", stats[0].detach().flatten())'


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, alike",
    [
        ({MEAN: "self.running_mean.copy_(stats[0].detach().flatten())"}, "RunningBatchNorm2d"),
        ({MEAN: "self.running_mean.copy_(stats[0].detach().flatten() + 1e-6)"}, ""),
        ({MEAN: "raise ZeroDivisionError"}, ""),
        ({MEAN: "pass", "step = new[0] - old[0]": "step = -(old[0] - new[0])"}, ""),  # two places
    ],
)
def test_a_layer_that_trains_the_same_needs_no_run(book, tmp_path, changes, alike):
    before, now = with_changes(book, LAYER, tmp_path / "other", "norm.py", changes)
    assert moved.trains_alike(before, now) == alike


def test_what_is_read_is_compared_only_where_it_can_be(book):
    place = moved.Place.find(book.root, "trial.trial")
    assert not moved.reads_alike(place, place, [])
    assert not moved.reads_alike(place, place, ["mnist", "imdb"])
