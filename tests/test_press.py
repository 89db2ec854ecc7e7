"""The press itself: each fault planted here must be caught, with a message that says what to do."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fromfound.check import ALARM
from book import env
from book.reader import runs
from book.reader.contents import contents
from book.reader.notebooks import QUOTE, notebooks, read
from tests.press import chapters, colab, lint_cells, lint_prose, lint_reading, lint_tools
from tests.press import machines, new, prove, rerun, sizes
from tests.press.compare import (
    SPREAD,
    Rules,
    compare_json,
    compare_text,
    parts_of,
    rules_of,
    spread_of,
)
from tests.press.turns import Turns


def text(value: str) -> list:
    """Return the stored outputs of a cell that printed `value`."""
    return [new_output("stream", name="stdout", text=value)]


def shows(**data: object) -> list:
    """Return the stored outputs of a cell that displayed `data`, by MIME type with `_` for `/`."""
    return [
        new_output(
            "display_data", data={kind.replace("_", "/"): value for kind, value in data.items()}
        )
    ]


def quotes(**values: object) -> list:
    """Return the stored outputs of a quote."""
    return [new_output("display_data", data={QUOTE: values})]


def write_notebook(path: Path, *cells: tuple[str, list]) -> None:
    """Write a notebook of code cells with stored outputs.

    It has no execution counts, as nbdev leaves it.
    """
    code = [new_code_cell(source, outputs=outputs) for source, outputs in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A chapter"), *code]), path)


def run_chapters(folder: Path, data: str, *options: str) -> dict:
    """Re-execute the notebooks in `folder` with the plugin.

    Return its report with exit code and output.
    """
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = folder / "report.json"
    plugins = ("no:nbval", "no:randomly", "no:cacheprovider", "tests.press.nbval_plugin")
    command = [sys.executable, "-m", "pytest"]
    command += [part for plugin in plugins for part in ("-p", plugin)]
    command += ["-c", folder / "pytest.ini", "--rootdir", folder, "--report", report]
    done = subprocess.run(
        [*map(str, command), *options, str(folder / "nbs")],
        cwd=chapters.ROOT,
        env=dict(os.environ, FROMFOUND_DATA=data),
        capture_output=True,
        text=True,
    )
    return json.loads(report.read_text()) | {
        "code": done.returncode,
        "output": done.stdout + done.stderr,
    }


# A cell, what is stored for it, and what its failure must say: on real data, and on synthetic
# stand-ins (None: it passes).
SHOW_QUOTE = f"display({{'{QUOTE}': {{'acc': 0.9, 'n': 60000}}}}, raw=True)"
SHOW_SPREAD = f"display({{'{QUOTE}': {{'acc': {{'mean': 0.9, 'sd': 0.02, 'n': 5}}}}}}, raw=True)"
SHOW_SVG = (
    "from IPython.display import SVG, display\n"
    'display(SVG(\'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>\'))'
)
CELLS = {
    "as stored": ("print('acc', 0.974)", text("acc 0.974\n"), None, None),
    "within tolerance": ("print('acc 0.9741')", text("acc 0.9740\n"), None, None),
    "padding of numbers": ("print('[ 9.9999, 1.0]')", text("[10.0001, 1.0]\n"), None, None),
    "wrong number": (
        "print('acc 0.912')",
        text("acc 0.974\n"),
        "stored 0.974, got 0.912, allowed ±0.0015",
        None,
    ),
    "integer off by one": (
        "print('60001 images')",
        text("60000 images\n"),
        "whole numbers must agree",
        None,
    ),
    "float for integer": ("print('[1., 2.]')", text("[1, 2]\n"), "one is a whole number", None),
    "wrong text": ("print('loss 0.5')", text("cost 0.5\n"), "stored  cost 0.5", "stored  cost#"),
    "a line more": ("print('a\\nb')", text("a\n"), "(no such line)", "stored  a"),
    "missing output": (
        "x = 1",
        text("x is 1\n"),
        "missing output: stdout",
        "missing output: stdout",
    ),
    "new output": ("print('x')", [], "new output", "new output"),
    "tolerance": (
        "#| tolerance: 0.1\nprint('acc 0.93, step 105')",
        text("acc 0.97, step 100\n"),
        None,
        None,
    ),
    "outside tolerance": (
        "#| tolerance: 0.02\nprint('acc 0.912')",
        text("acc 0.974\n"),
        "0.02, as the cell says",
        None,
    ),
    "timing": (
        "#| timing\nprint('matmul  1.5 ms, 12.0 times')",
        text("matmul 830 µs, 9.1 times\n"),
        None,
        None,
    ),
    "one run": (
        "#| varies\nprint('accuracy 0.912 after 37 steps')",
        text("accuracy 0.974 after 41 steps\n"),
        None,
        None,
    ),
    "one run, wrong text": (
        "#| varies\nprint('loss 0.9')",
        text("accuracy 0.9\n"),
        "stored  accuracy#",
        "stored  accuracy#",
    ),
    "spread": ("print('0.971 ± 0.004 (n=5)')", text("0.974 ± 0.003 (n=5)\n"), None, None),
    "spread, other deviation": (
        "print('97.4% ± 1.9% (n=5)')",
        text("97.4% ± 0.3% (n=5)\n"),
        None,
        None,
    ),
    "spread, wrong mean": (
        "print('0.912 ± 0.004 (n=5)')",
        text("0.974 ± 0.003 (n=5)\n"),
        "the means differ by more than chance allows",
        None,
    ),
    "spread, other number": (
        "print('0.974 ± 0.003 (n=4)')",
        text("0.974 ± 0.003 (n=5)\n"),
        "the number of runs must agree",
        None,
    ),
    "spread, lost": (
        "print('0.974')",
        text("0.974 ± 0.003 (n=5)\n"),
        "one is a spread, the other is not",
        "stored  #±",
    ),
    "timing, wrong text": (
        "#| timing\nprint('matmul 1.5 ms')",
        text("einsum 1.5 ms\n"),
        "stored  einsum#",
        "stored  einsum#",
    ),
    "bad magic": ("%nosuch", [], "`%nosuch` not found", "`%nosuch` not found"),
    "warning": (
        "import warnings; warnings.warn('old')",
        [],
        "mend the cause of the warning",
        "wrote to stderr",
    ),
    "progress bar": (
        "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass",
        [],
        "wrote to stderr",
        "wrote to stderr",
    ),
    "suppressed by ;": ("1 + 1;", [], None, None),
    "address": ("print(object())", text("<object object at 0x7f0000000000>\n"), None, None),
    "colors": ("print('\\x1b[31mred\\x1b[0m')", text("red\n"), None, None),
    "picture": (
        SHOW_SVG,
        shows(**{"image_svg+xml": "<svg/>", "text_plain": "<IPython.core.display.SVG object>"}),
        None,
        None,
    ),
    "missing picture": (
        "print('x')",
        text("x\n") + shows(image_png="aaaa"),
        "missing output: image/png",
        "missing output: image/png",
    ),
    "quote": (SHOW_QUOTE, quotes(acc=0.9001, n=60000), None, None),
    "quoted spread": (SHOW_SPREAD, quotes(acc={"mean": 0.904, "sd": 0.02, "n": 5}), None, None),
    "quoted spread, wrong mean": (
        SHOW_SPREAD,
        quotes(acc={"mean": 0.6, "sd": 0.02, "n": 5}),
        "acc: stored 0.600 ± 0.020 (n=5), got 0.900",
        None,
    ),
    "quote, wrong number": (SHOW_QUOTE, quotes(acc=0.8, n=60000), "acc: stored 0.8, got 0.9", None),
    "quote, wrong count": (SHOW_QUOTE, quotes(acc=0.9, n=60001), "n: stored 60001", None),
    "quote, wrong key": (
        SHOW_QUOTE,
        quotes(accuracy=0.9, n=60000),
        "has the keys ['acc', 'n']",
        "has the keys",
    ),
    "html": (
        "from IPython.display import HTML\nHTML('<b>0.5</b>')",
        shows(text_html="<b>0.7</b>", text_plain="<IPython.core.display.HTML object>"),
        "text/html of output 1 differs",
        None,
    ),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Run the cells above on real data and on stand-ins, and two chapters that break off."""
    folder = tmp_path_factory.mktemp("planted")
    write_notebook(
        folder / "nbs" / "01_cells.ipynb",
        *[(source, outputs) for source, outputs, *_ in CELLS.values()],
    )
    write_notebook(
        folder / "nbs" / "02_raises.ipynb",
        ("x = 1 / 0", []),
        ("print('later')", text("something else\n")),
    )
    write_notebook(
        folder / "nbs" / "exercises" / "03_dies.ipynb", ("import os; os._exit(1)", []), ("1;", [])
    )
    return {"real": run_chapters(folder, str(folder)), "standin": run_chapters(folder, "standin")}


@pytest.mark.parametrize("mode", ["real", "standin"])
@pytest.mark.parametrize("name", CELLS)
def test_cell(reports: dict, name: str, mode: str) -> None:
    number = 2 + list(CELLS).index(name)
    messages = [
        f["message"]
        for f in reports[mode]["chapters"]["01_cells"]["failures"]
        if f["cell"] == number
    ]
    expected = CELLS[name][2 if mode == "real" else 3]
    if expected is None:
        assert messages == []
    else:
        assert len(messages) == 1
        assert expected in messages[0]
        assert f"01_cells, cell {number}:" in messages[0]
        assert "make chapter N=01" in messages[0]


def test_failing_run_has_exit_code_1_and_tells_why(reports: dict) -> None:
    report = reports["real"]
    assert report["code"] == 1
    assert not report["chapters"]["01_cells"]["ok"]
    assert "stored 0.974, got 0.912" in report["output"]


def test_chapter_stops_at_its_first_error(reports: dict) -> None:
    chapter = reports["real"]["chapters"]["02_raises"]
    assert chapter["cells"] == 1
    assert not chapter["ok"]
    assert ["ZeroDivisionError" in failure["message"] for failure in chapter["failures"]] == [True]


def test_dead_kernel_is_reported_at_once(reports: dict) -> None:
    [failure] = reports["real"]["chapters"]["exercises/03_dies"]["failures"]
    assert "the kernel died" in failure["message"]


@pytest.mark.slow
def test_budget(tmp_path: Path) -> None:
    write_notebook(
        tmp_path / "nbs" / "01_slow.ipynb", ("import time; time.sleep(2.5)", []), ("1;", [])
    )
    write_notebook(tmp_path / "nbs" / "02_large.ipynb", ("x = b'1' * 300_000_000", []), ("1;", []))
    write_notebook(
        tmp_path / "nbs" / "03_hangs.ipynb", ("time = __import__('time').sleep(60)", []), ("1;", [])
    )
    write_notebook(tmp_path / "nbs" / "04_fits.ipynb", ("1;", []))
    report = run_chapters(tmp_path, "standin", "--budget-seconds", "2", "--budget-mib", "200")
    messages = {
        name: [f["message"] for f in chapter["failures"]]
        for name, chapter in report["chapters"].items()
    }
    assert report["code"] == 1
    assert messages["04_fits"] == []
    assert len(messages["01_slow"]) == 1
    assert "its budget is 2 s" in messages["01_slow"][0]
    assert len(messages["02_large"]) == 1
    assert "its budget is 200 MiB" in messages["02_large"][0]
    assert len(messages["03_hangs"]) == 1
    assert "Timeout" in messages["03_hangs"][0]
    assert report["chapters"]["01_slow"]["cells"] == 1


@given(st.text())
def test_text_agrees_with_itself(value: str) -> None:
    for rules in (Rules(), Rules(masked=True), Rules(tolerance=0.1)):
        assert compare_text(value, value, rules)[0] is None


@given(st.floats(-1e6, 1e6), st.integers(1, 8))
def test_rounding_is_within_tolerance(value: float, decimals: int) -> None:
    near = value + 0.9 * 10.0**-decimals
    assert compare_text(f"{value:.{decimals}f}", f"{near:.{decimals}f}", Rules())[0] is None


@pytest.mark.parametrize(
    ("stored", "got", "agree"),
    [
        # Torch prints whole floats so: no last digit to be off by.
        ("tensor([1., 2.])", "tensor([1., 3.])", False),
        ("tensor([1., 2.])", "tensor([1, 2])", False),
        ("1,234 steps", "1,235 steps", False),
        ("1.19e-07", "1.20e-07", True),
        ("1.19e-07", "2.38e-07", False),
        ("loss nan", "loss nan", True),
        ("loss nan", "loss 0.5", False),
        ("loss inf", "loss -inf", False),
        ("float32", "float64", False),
        ("shape (3, 28)", "shape (3,28)", True),
        ("0.0001", "-0.0000", True),
        ("-0.5", "0.5", False),
        ("conv1 0.5", "conv2 0.5", False),
        ("a  b", "a b", False),
    ],
)
def test_compare_text(stored: str, got: str, agree: bool) -> None:
    assert (compare_text(stored, got, Rules())[0] is None) == agree


@pytest.mark.parametrize(
    ("stored", "got", "agree"),
    [
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": "loss 0.5"}, {"a": "loss 0.50001"}, True),
        ({"a": None}, {"a": None}, True),
        ({"a": 1}, {"b": 1}, False),
        (1e-8, 2e-8, False),
    ],
)
def test_compare_json(stored: object, got: object, agree: bool) -> None:
    assert (compare_json(stored, got, Rules())[0] is None) == agree


def test_rules_come_from_the_directives_and_the_mode() -> None:
    assert rules_of("#| tolerance: 0.02\nx", "real") == Rules(tolerance=0.02)
    assert rules_of("#| fold\n#| timing\nx", "real") == Rules(masked=True)
    assert rules_of("#| varies\nx", "real") == Rules(masked=True)
    assert rules_of("x", "standin") == Rules(masked=True)
    assert rules_of("x = '#| timing'", "real") == Rules()


def test_what_a_chapter_owes_is_read_from_its_stored_outputs(tmp_path: Path) -> None:
    path = tmp_path / "01_a.ipynb"
    cells = [
        ("print('n 3, acc 0.5 ± 0.1 (n=5)')", text("n 3, acc 0.5 ± 0.1 (n=5)\n")),
        ("#| varies\nprint(0.3)", text("0.3\n")),
        ("quote(acc=accuracies, n=3)", quotes(acc={"mean": 0.5, "sd": 0.1, "n": 5}, n=3)),
        ("x = 1", []),
        ("", []),
    ]
    write_notebook(path, *cells)
    real = {"cells": 4, "comparisons": 3, "numbers": 2, "spreads": 2, "shown": 1}
    assert prove.owed(path, "real") == real
    masked = prove.owed(path, "standin")
    assert masked == real | {"numbers": 0, "spreads": 0, "shown": masked["shown"]}


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ({"01_matmul": {"cells": 10, "comparisons": 9}}, []),
        ({"01_matmul": {"cells": 9, "comparisons": 8}}, ["01_matmul: 9 cells, stored are 10"]),
        (
            {"01_matmul": {"cells": 10, "comparisons": 7}},
            ["01_matmul: 7 comparisons, stored are 8"],
        ),
        ({}, ["01_matmul: stored, but not run"]),
    ],
)
def test_a_run_that_proves_less_is_reported(report: dict, says: list[str]) -> None:
    assert prove.shortfall({"01_matmul": {"cells": 10, "comparisons": 8}}, report) == says


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small clone that stands in for the book's."""
    (tmp_path / "page.md").write_text("one\n")
    (tmp_path / ".gitignore").write_text("_build/\n.venv*/\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.org", "commit", "-q", "-m", "one"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(prove, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("dirt", ["page.md", "new.txt", "_build/index.html"])
def test_a_run_that_leaves_the_tree_dirty_fails(repository: Path, dirt: str) -> None:
    before = prove.tree()
    proof = prove.Proof(repository, fast=False)
    (repository / ".venv-run").mkdir()
    (repository / ".venv-run" / "stamp").write_text("made by the run")
    assert proof.tree(before) == "as it was before"
    (repository / dirt).parent.mkdir(exist_ok=True)
    (repository / dirt).write_text("two\n")
    with pytest.raises(prove.StageError, match=dirt.split("/")[0]):
        proof.tree(before)


@pytest.mark.parametrize(
    "broken",
    [None, "set_up", "package", "chapters", "website", "sizes", "suite", "device", "tree"],
)
def test_exit_code_and_last_lines_say_what_failed(
    repository: Path,
    broken: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def stage(name: str):
        def run(*_args: object) -> str:
            if name == broken:
                raise prove.StageError("a planted fault")
            return "fine"

        return run

    for name in ("set_up", "package", "chapters", "website", "sizes", "suite", "device", "tree"):
        monkeypatch.setattr(prove.Proof, name, stage(name))
    monkeypatch.setattr(sys, "argv", ["prove", "test"])
    assert prove.main() == (0 if broken is None else 1)
    *lines, last = capsys.readouterr().out.strip().splitlines()
    assert ("everything passed" in last) == (broken is None)
    failed = [line.split()[1] for line in lines if line.startswith("FAILED")]
    assert failed == ([] if broken is None else [broken.replace("_", "-")])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_proof_on_a_gpu_does_not_do_without(tmp_path: Path) -> None:
    with pytest.raises(prove.StageError, match="PyTorch sees none"):
        prove.Proof(tmp_path, fast=False).gpu(Path(sys.executable))


def test_on_colab_the_first_cell_installs_the_wheel() -> None:
    paths = colab.chosen()
    assert [path.stem[:2] for path in paths[:2]] == ["01", "05"]
    assert paths[-1] == [n.path for n in notebooks(chapters.ROOT) if n.is_lesson][-1]
    for path in paths:
        cells = colab.with_wheel(nbformat.read(path, as_version=4), Path("x.whl")).cells
        first = next(cell for cell in cells if cell.cell_type == "code")
        assert first.source.endswith('"install -q x.whl")')
    with pytest.raises(SystemExit, match="0 cells install git"):
        colab.with_wheel(new_notebook(), Path("x.whl"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Return a book of one chapter with the press beside it."""
    shutil.copytree(
        chapters.ROOT / "tests" / "press",
        tmp_path / "tests" / "press",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "tests" / "__init__.py").touch()
    shutil.copy(chapters.ROOT / "settings.ini", tmp_path)
    (tmp_path / "fromfound").mkdir()
    (tmp_path / "fromfound" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    shutil.copy(chapters.PACKAGE / "check.py", tmp_path / "fromfound")
    (tmp_path / "book" / "runs").mkdir(parents=True)
    shutil.copy(chapters.ROOT / "book" / "env.py", tmp_path / "book")
    shutil.copytree(chapters.ROOT / "book" / "reader", tmp_path / "book" / "reader")
    return tmp_path


def execute(book: Path, number: str, data: str) -> subprocess.CompletedProcess:
    """Run what `make chapter N=number` runs."""
    command = [sys.executable, "-m", "tests.press.execute", number]
    return subprocess.run(
        command, cwd=book, env=dict(os.environ, FROMFOUND_DATA=data), capture_output=True, text=True
    )


@pytest.mark.slow
def test_make_chapter_stores_outputs_and_costs(book: Path) -> None:
    path = book / "nbs" / "04a_loader.ipynb"
    write_notebook(
        path, ("print('new')", text("old\n")), ("import fromfound; fromfound.__version__", [])
    )
    done = execute(book, "04a", "standin")
    assert done.returncode == 0, done.stdout + done.stderr
    stored = nbformat.read(path, as_version=4).cells[1:]
    assert stored[0].outputs[0].text == "new\n"
    assert stored[1].outputs[0].data["text/plain"] == "'0.1.0'"
    assert {cell.execution_count for cell in stored} == {None}
    costs = json.loads((book / "book" / "runs" / "chapters.json").read_text())
    assert costs["04a_loader"].keys() == {"peak_mb", "seconds"}
    assert "cell   2  print('new')" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("1 / 0", "its file was left as it was"),
        ("import warnings; warnings.warn('old')", "wrote to stderr"),
        ("from fromfound.data import fetch", "set FROMFOUND_DATA"),
    ],
)
def test_make_chapter_refuses(book: Path, source: str, says: str) -> None:
    (book / "fromfound" / "data.py").write_text("")
    path = book / "nbs" / "01_matmul.ipynb"
    write_notebook(path, (source, []))
    before = path.read_bytes()
    done = execute(book, "01", "standin")
    assert done.returncode == 1
    assert says in done.stderr
    assert path.read_bytes() == before
    assert not (book / "book" / "runs" / "chapters.json").exists()


def test_make_chapter_names_the_chapters_there_are(book: Path) -> None:
    write_notebook(book / "nbs" / "01_matmul.ipynb", ("1", []))
    done = execute(book, "9", "standin")
    assert done.returncode == 1
    assert "01_matmul" in done.stderr


def test_fingerprint_follows_the_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "PACKAGE", tmp_path)
    (tmp_path / "exercises").mkdir()
    modules = {
        "files": "x = 0",
        "data": "from .files import x",
        "matmul": "from fromfound.data import (\n    fetch,\n)",
        "module": "def f():\n    from fromfound import matmul",
    }
    for name, code in modules.items() | {("exercises/matmul", ""), ("other", "")}:
        (tmp_path / f"{name}.py").write_text(code)
    path = tmp_path / "03_module.ipynb"
    write_notebook(
        path, ("import fromfound.module\nfrom fromfound.exercises import matmul as check", [])
    )
    assert chapters.used_modules(path).keys() == {
        "files",
        "data",
        "matmul",
        "module",
        "exercises.matmul",
    }
    first = chapters.fingerprint(path)
    (tmp_path / "files.py").write_text("# %% ../nbs/00_files.ipynb 4\nx = 0")
    (tmp_path / "other.py").write_text("x = 2")
    assert chapters.fingerprint(path) == first, "comments and other modules do not count"
    (tmp_path / "files.py").write_text("x = 2")
    assert chapters.fingerprint(path) != first


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 15, 0), (2, 7, 18)])
def test_other_pythons_get_a_clear_answer(version: tuple) -> None:
    with pytest.raises(SystemExit, match=r"3\.11 to 3\.14.*make test PYTHON="):
        env.check_python(version, "python3")


def test_environments() -> None:
    assert not any("torch" in name for name in env.requirements("book"))
    assert any(name.startswith("torch") for name in env.requirements("run"))
    assert not any("nbdev" in name for name in env.requirements("run"))
    for supported in ((3, 11), (3, 14)):
        env.check_python(supported, "python3")


def test_stamp_follows_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = env.stamp_of("run")
    (tmp_path / "pins.txt").write_text("torch==2.4.1\n")
    monkeypatch.setenv("CONSTRAINTS", str(tmp_path / "pins.txt"))
    assert env.stamp_of("run") != first
    monkeypatch.setenv("CONSTRAINTS", str(tmp_path / "nowhere.txt"))
    with pytest.raises(SystemExit, match="CONSTRAINTS names"):
        env.stamp_of("run")


def test_notebooks_have_one_reader() -> None:
    """It names the notebook that is broken, and what runs and checks chapters goes through it."""
    for file in (chapters.ROOT / "tests" / "press").glob("*.py"):
        said = f"{file.name} reads a notebook by itself: use node_of of book/reader/notebooks.py"
        assert "nbformat.read(" not in file.read_text(encoding="utf-8"), said


@pytest.mark.parametrize("read_them", [runs.costs, runs.runs])
def test_a_broken_record_is_named(tmp_path: Path, read_them: Callable) -> None:
    folder = tmp_path / "book" / "runs"
    folder.mkdir(parents=True)
    for name in ("chapters.json", "norm.one_epoch.json"):
        (folder / name).write_text("<<<<<<< HEAD")
    with pytest.raises(ValueError, match=r"\.json: not JSON .*merge\?"):
        read_them(tmp_path)


@pytest.mark.slow
def test_the_plugin_names_a_broken_notebook(tmp_path: Path) -> None:
    path = tmp_path / "nbs" / "01_matmul.ipynb"
    path.parent.mkdir()
    path.write_text('{\n<<<<<<< HEAD\n "cells": []}')
    assert "01_matmul.ipynb: not a notebook" in run_chapters(tmp_path, "standin")["output"]


WORKFLOWS = sorted((chapters.ROOT / ".github" / "workflows").glob("*.yml"))


def test_workflows_go_through_the_makefile() -> None:
    targets = set(
        re.findall(r"^(\w+):", (chapters.ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    )
    commands = [
        step["run"]
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert len(commands) >= 4
    assert {command.split()[0] for command in commands} == {"make"}
    assert {command.split()[1] for command in commands} <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_trust_little(path: Path) -> None:
    """Actions are named by commit and version; what runs our code has no right to publish."""
    said = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(said)
    assert workflow["permissions"] == {"contents": "read"}
    for used in re.findall(r"uses: (.*)", said):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
    for name, job in workflow["jobs"].items():
        rights = job.get("permissions", {"contents": "read"})
        runs_code = any("run" in step or "checkout" in step["uses"] for step in job["steps"])
        assert not (runs_code and "write" in rights.values()), f"{name} may publish, and runs code"
        for step in job["steps"]:
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False, f"{name} keeps a token"


def test_pinned_actions_are_kept_up_to_date() -> None:
    said = (chapters.ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8")
    kinds = [update["package-ecosystem"] for update in yaml.safe_load(said)["updates"]]
    assert "github-actions" in kinds


def test_readme_names_every_command() -> None:
    makefile, readme = (
        (chapters.ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "README.md")
    )
    for target in set(re.findall(r"^(\w+):.*##", makefile, re.M)):
        assert f"`make {target}" in readme, f"README.md does not say what `make {target}` does"


@pytest.mark.parametrize("alone", [False, True])
def test_a_timing_cell_has_the_machine_alone(tmp_path: Path, alone: bool) -> None:
    inside, seen, ready = [], [], threading.Barrier(2)

    def run(lane: int) -> None:
        turns = Turns(str(tmp_path), lane)
        ready.wait()
        for _ in range(20):
            with turns.turn(alone=alone and lane == 0):
                inside.append(lane)
                time.sleep(0.002)
                seen.append(len(inside))
                inside.remove(lane)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert max(seen) == (1 if alone else 2)


def test_without_a_folder_there_is_nothing_to_wait_for() -> None:
    with Turns(None, 0).turn(alone=True), Turns(None, 1).turn(alone=True):
        pass


def test_lanes_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"01_a": 100.0, "02_b": 60.0, "03_c": 50.0, "04_d": 1.0}
    monkeypatch.setattr(
        rerun, "costs", lambda root: {name: {"seconds": s} for name, s in seconds.items()}
    )
    paths = [chapters.NOTEBOOKS / f"{name}.ipynb" for name in seconds]
    dealt = rerun.lanes(paths)
    assert sorted(sum(dealt, [])) == sorted(paths)
    assert [[path.stem for path in lane] for lane in dealt] == [["01_a", "04_d"], ["02_b", "03_c"]]
    assert rerun.lanes(paths[:1]) == [paths[:1]]
    assert rerun.lanes([]) == []


# A number that another processor rounds to something else, and an assert that holds on this
# machine alone.
ELSEWHERE = "import os\nelsewhere = os.environ.get('ATEN_CPU_CAPABILITY') == 'avx2'\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("print('accuracy', 0.91 if elsewhere else 0.97)", "avx2: 01_matmul, cell 2:"),
        ("assert not elsewhere", "avx2: 01_matmul, cell 2:"),
        ("print('37 steps' if elsewhere else '36 steps')", "whole numbers must agree"),
        (
            "print('0.91 ± 0.01 (n=5)' if elsewhere else '0.97 ± 0.01 (n=5)')",
            "more than chance allows",
        ),
        ("#| varies\nprint(0.91 if elsewhere else 0.97)", None),
        ("print('0.968 ± 0.01 (n=5)' if elsewhere else '0.970 ± 0.01 (n=5)')", None),
    ],
)
def test_make_chapter_stores_only_what_holds_elsewhere(
    book: Path, source: str, says: str | None
) -> None:
    path = book / "nbs" / "01_matmul.ipynb"
    directives = "".join(f"{line}\n" for line in source.splitlines() if line.startswith("#|"))
    code = "\n".join(line for line in source.splitlines() if not line.startswith("#|"))
    write_notebook(path, (directives + ELSEWHERE + code, []))
    before = path.read_bytes()
    done = execute(book, "01", "standin")
    refused = book / "_build" / "refused" / "01_matmul.ipynb"
    if says is None:
        assert done.returncode == 0, done.stdout + done.stderr
        assert path.read_bytes() != before
    else:
        assert done.returncode == 1
        assert says in done.stderr
        assert "holds on this machine only" in done.stderr
        assert path.read_bytes() == before
        assert refused.exists()


@pytest.mark.slow
def test_make_machines_goes_on_where_it_stopped(book: Path) -> None:
    write_notebook(book / "nbs" / "01_holds.ipynb", ("print(0.97)", text("0.97\n")))
    write_notebook(
        book / "nbs" / "02_fails.ipynb",
        (ELSEWHERE + "print(0.91 if elsewhere else 0.97)", text("0.97\n")),
    )

    def machines(*options: str) -> str:
        command = [sys.executable, "-m", "tests.press.machines", *options]
        environment = dict(os.environ, FROMFOUND_DATA=str(book))
        done = subprocess.run(command, cwd=book, env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return f"exit {done.returncode}\n{done.stdout}"

    first = machines()
    assert "exit 1" in first
    assert "avx2: 02_fails, cell 2:" in first
    assert "1 cells do not hold under default, avx2; 4 executions" in first
    again = machines()
    assert "exit 1" in again
    assert "1 executions" in again, "what held is not executed again"
    write_notebook(book / "nbs" / "02_fails.ipynb", ("print(0.97)", text("0.97\n")))
    assert "everything holds under default, avx2; 2 executions" in machines()
    assert "everything holds under default, avx2, mkl, onednn; 4 executions" in machines("--all")
    assert "everything holds under mkl; 0 executions" in machines("--setting", "mkl")


def test_what_held_with_another_pytorch_is_not_known_to_hold(tmp_path: Path) -> None:
    ledger = tmp_path / "machines.jsonl"
    entry = {"setting": "avx2", "chapter": "01_matmul", "fingerprint": "f", "ok": True}
    kinds = [entry, entry | {"torch": "2.4.0"}, entry | {"torch": version("torch"), "ok": False}]
    ledger.write_text("\n".join(map(json.dumps, kinds)) + "\n", encoding="utf-8")
    assert machines.held(ledger) == set()
    with ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry | {"torch": version("torch")}) + "\n")
    assert machines.held(ledger) == {("avx2", "01_matmul", "f")}


def measured_again(path: Path) -> set[tuple]:
    """Return the spreads that a chapter measures when it is executed: mean and number of runs.

    One that is printed twice counts once, and recorded runs are not measured again.
    """
    found = set()
    for cell in read(path).code:
        if "show_run" in cell.source or rules_of(cell.source, "real").masked:
            continue
        for (kind, _), shown in parts_of(cell.outputs).items():
            for match in SPREAD.finditer(shown if kind in ("stdout", "text/plain") else ""):
                one = spread_of(match)[0]
                found.add((f"{one.mean / (100 if match['percent'] else 1):.2g}", one.n))
    return found


def test_a_whole_run_raises_no_false_alarm() -> None:
    """Each spread may call equal programs different with the chance ALARM, if nothing is shared."""
    compared = sum(len(measured_again(path)) for path in chapters.notebooks())
    assert compared > 100
    assert compared * ALARM < 0.01


def test_sizes_count_lines_as_ruff_lays_them_out_and_tokens_as_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "fromfound").mkdir()
    header = "# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/01_a.ipynb.\n"
    (tmp_path / "fromfound" / "a.py").write_text(
        header + 'def f(x):\n    "Doc."\n    return x; y = 1\n'
    )
    assert sizes.sizes(tmp_path) == [("a", 3, 12 / 2)]
    assert sizes.report(tmp_path) == "1 modules, 3 formatted lines, 6.0 tokens a line on average"
    assert (
        "a                           3 formatted lines   6.0 tokens a line"
        in capsys.readouterr().out
    )


def test_a_kernel_is_not_told_to_use_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FROMFOUND_DATA")
    assert "FROMFOUND_DATA" not in rerun.tree_environment(), "make chapter would store stand-ins"
    monkeypatch.setenv("FROMFOUND_DATA", ".")
    assert rerun.tree_environment()["FROMFOUND_DATA"] == str(Path.cwd())


# --- make new -------------------------------------------------------------------------------------


def test_a_page_for_experiments_is_made_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new, "NOTEBOOKS", tmp_path)
    write_notebook(tmp_path / "08a_halves.ipynb", ("1", []))
    chapter = nbformat.read(tmp_path / "08a_halves.ipynb", as_version=4)
    chapter.cells.insert(0, nbformat.v4.new_markdown_cell("# Halves of things\n\nA promise."))
    nbformat.write(chapter, tmp_path / "08a_halves.ipynb")
    new.make_experiments("08a_halves")
    page = nbformat.read(tmp_path / "experiments" / "08a_halves.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in page.cells)
    assert text.startswith("# Experiments of chapter 8a\n\nWhat [Halves of things](../08a_halves.")
    assert "#| default_exp experiments.halves\n" in text
    assert "@experiment()\ndef halves_trial(seed: int)" in text
    for cell in page.cells[3:]:
        if cell.cell_type == "code":
            compile(cell.source, "cell", "exec")
    with pytest.raises(SystemExit, match="08a_halves: it is there already"):
        new.make_experiments("08a_halves")
    with pytest.raises(SystemExit, match="09_none.ipynb does not exist"):
        new.make_experiments("09_none")


UNTIL_EXECUTED = {"notebook_files", "chapter_costs", "missing_outputs"}


def test_a_new_chapter_keeps_every_rule_of_the_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[1]
    for folder in ("nbs", "fromfound", "book"):
        shutil.copytree(root / folder, tmp_path / folder)
    for file in filter(Path.is_file, root.iterdir()):
        shutil.copy2(file, tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy2(root / "tests" / "test_pairs.py", tmp_path / "tests")
    monkeypatch.setattr(new, "ROOT", tmp_path)
    monkeypatch.setattr(new, "NOTEBOOKS", tmp_path / "nbs")
    monkeypatch.setattr(sys, "argv", ["new", "97_quartered"])  # a name that nobody needs
    with monkeypatch.context() as patch:
        patch.setattr(new.subprocess, "run", lambda *args, **options: None)  # nothing is executed
        new.main()
    rules = {*lint_cells.RULES, *lint_prose.RULES, *lint_reading.RULES, lint_tools.ruff}
    for rule in rules:
        if rule.__name__ not in UNTIL_EXECUTED:
            found = [str(finding) for finding in rule(tmp_path)]
            assert not [line for line in found if "quartered" in line], rule.__name__
    chapters = [page for page in contents(tmp_path) if re.fullmatch("nbs/[^/]+", page)]
    assert "nbs/97_quartered" in chapters[-2:]
    sweep = (tmp_path / "tests" / "test_pairs.py").read_text(encoding="utf-8")
    assert '"quartered.*"' in sweep.partition("OTHERS = {")[2].splitlines()[1]
