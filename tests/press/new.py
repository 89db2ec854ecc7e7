"""`make new N=08_data_block`: a new chapter that passes every rule, to be filled with its content.

It makes the notebook, its exercises and its test, and enters the chapter in the table of contents,
on the front page, among the layers and in the sweep of tests/test_pairs.py. Then it exports and
executes both, so that outputs and costs are stored.

`make new N=experiments/08_data_block` makes the page for the recorded runs of a chapter that
exists. Most chapters need none, so it comes on demand.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from book.reader.contents import contents
from book.reader.modules import modules
from book.reader.notebooks import order, read
from book.reader.settings import settings
from tests.press.chapters import NOTEBOOKS, ROOT
from tests.press.lint_cells import COLAB_CELL

KERNEL = {"display_name": "python3", "language": "python", "name": "python3"}
PROMISE = (
    "At the end of this chapter stands one function, compared with PyTorch's own. Replace this "
    "by what yours builds."
)

CARD = """### Exercise {number} · {title}
*kind: {kind} · difficulty 1/5 · importance 2/5 · 5 minutes · needs: multiplication*

{statement}"""
FOLDS = """<details><summary>A question</summary>

What is 2 times 3?

</details>
<details><summary>An idea</summary>

Multiply.

</details>
<details><summary>A template</summary>

`… * x`

</details>
<details><summary>The solution</summary>

```python
{solution}
```

</details>
<details><summary>Why this check</summary>

Negative numbers and fractions tell doubling from squaring.

</details>"""

FUNCTION = '''#| export
def {stem}_twice(x: Tensor) -> Tensor:
    """Double a tensor.

    Args:
        x: tensor of any shape.

    Returns:
        A new tensor of the same shape.
    """
    return 2 * x'''

EXERCISES = """#| export
from fromfound.check import Exercise, MutantHunt, Prediction


def _twice(x: float) -> float:
    return 2 * x


def _squared(x: float) -> float:
    return x * x


def _negated(x: float) -> float:
    return -2 * x


_CASES = [(1.5,), (-3.0,)]
_WRONG = {{"you square": _squared, "the sign is wrong": _negated}}
ex_{key}_1 = Prediction(
    "{number}.1", right=6, wrong={{"That is the square.": 9}}, because="2 times 3 is 6."
)
ex_{key}_2 = Exercise("{number}.2", _twice, _CASES, _WRONG)
ex_{key}_3 = Exercise("{number}.3", _twice, _CASES, _WRONG)
ex_{key}_4 = MutantHunt("{number}.4", _twice, _WRONG)"""

EXPERIMENT = '''#| export
@experiment()
def {stem}_trial(seed: int) -> dict[str, float]:
    """Double a random number.

    Args:
        seed: seeds the number; the caller has set it.

    Returns:
        The doubled number.
    """
    return {{"double": {stem}_twice(torch.randn(())).item()}}'''

TEST = '''"""{title}: against torch, over random shapes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fromfound.{stem} import {stem}_twice


@given(st.lists(st.integers(0, 4), max_size=4))
def test_twice(shape):
    x = torch.randn(shape)
    assert torch.equal({stem}_twice(x), x + x)
'''


def parts(name: str) -> tuple[str, str]:
    """Return number and stem of a chapter's name: `08a_augment` gives ("8a", "augment").

    Raises:
        SystemExit: the name does not have its form, or the chapter exists.
    """
    found = re.fullmatch(r"(\d\d)([a-z]?)_([a-z][a-z0-9_]*)", name)
    if not found:
        raise SystemExit(f"make new expected a name like N=08_data_block, got {name!r}")
    number, letter, stem = found.groups()
    taken = [
        p
        for p in NOTEBOOKS.glob("*.ipynb")
        if p.stem.startswith(f"{number}{letter}_") or p.stem.partition("_")[2] == stem
    ]
    if taken:
        raise SystemExit(
            f"make new: {taken[0].name} has that number or that name; choose another one"
        )
    return f"{int(number)}{letter}", stem


def colab_cell() -> str:
    """Return the cell that installs the package where it is missing."""
    return COLAB_CELL.format(git_url=settings(ROOT)["git_url"])


def chapter_cells(name: str, number: str, stem: str, title: str) -> list:
    """Return the cells of a chapter that is complete in form."""
    key = number.replace(".", "_")
    solution = "def twice(x):\n    return 2 * x"
    statements = [
        (
            "Predict",
            "predict",
            "What is twice 3?",
            f"answer_{key}_1 = 9\ncheck.ex_{key}_1(answer_{key}_1)",
            f"answer_{key}_1 = 6",
        ),
        (
            "Double",
            "complete",
            "Write `twice(x)`; twice 3 is 6.",
            f"def twice(x):\n    return x * x\n\ncheck.ex_{key}_2(twice)",
            solution,
        ),
        (
            "Double again",
            "repair",
            "Repair `twice(x)`; twice -1 is -2.",
            f"def twice(x):\n    return -2 * x\n\ncheck.ex_{key}_3(twice)",
            solution,
        ),
        (
            "Kill the mutants",
            "kill the mutants",
            "Write a check of `twice`; it returns `True` for a right one.",
            f"def is_twice(twice):\n    return twice(2) == 4\n\ncheck.ex_{key}_4(is_twice)",
            "def is_twice(twice):\n    return twice(-1.5) == -3",
        ),
    ]
    cells = [
        new_markdown_cell(f"# {title}\n\n{PROMISE}"),
        new_code_cell(colab_cell()),
        new_code_cell(f"#| default_exp {stem}"),
        new_code_cell("#| export\nimport torch\nfrom torch import Tensor"),
        new_markdown_cell(
            "## The question\n\nWhat is twice a tensor? The simplest code that answers it:"
        ),
        new_code_cell(FUNCTION.format(stem=stem)),
        new_markdown_cell("PyTorch has addition, and both ways agree."),
        new_code_cell(
            "from fromfound.check import same_as\n\n"
            f"same_as({stem}_twice, lambda x: x + x, torch.randn(3, 4))"
        ),
        new_markdown_cell(
            "## From the papers\n\nWhat does the paper claim, and what do we measure?"
        ),
        new_markdown_cell("## What goes wrong\n\nBreak the code on purpose: symptom, check, cure."),
        new_markdown_cell("## Exercises\n\nPredict before you run."),
        new_code_cell(f"from fromfound.exercises import {stem} as check"),
    ]
    for count, (heading, kind, statement, stub, answer) in enumerate(statements, 1):
        card = CARD.format(
            number=f"{number}.{count}", title=heading, kind=kind, statement=statement
        )
        cells += [
            new_markdown_cell(card),
            new_code_cell(stub),
            new_markdown_cell(FOLDS.format(solution=answer)),
        ]
    built = (
        "## What we built\n\n"
        f"- `{stem}_twice` doubles a tensor.\n\n"
        "What is missing, and which chapter builds it?"
    )
    return [*cells, new_markdown_cell(built)]


def exercise_cells(name: str, number: str, stem: str, title: str) -> list:
    """Return the cells of the notebook that holds the answers to a chapter's exercises."""
    said = (
        f"# Exercise checks for chapter {number}\n\n"
        f"What [{title}](../{name}.ipynb) calls as `check.ex_{number}_1(...)`: right "
        "answers, "
        "inputs on which mistakes show, and the mistakes that the checks can name. Do the "
        "exercises first."
    )
    return [
        new_markdown_cell(said),
        new_code_cell(colab_cell()),
        new_code_cell(f"#| default_exp exercises.{stem}"),
        new_code_cell(EXERCISES.format(key=number, number=number)),
    ]


def experiment_cells(name: str, stem: str, number: str, title: str) -> list:
    """Return the cells of the notebook that holds a chapter's experiments."""
    said = (
        f"# Experiments of chapter {number}\n\n"
        f"What [{title}](../{name}.ipynb) shows as recorded runs, as code. "
        f"`python -m fromfound.record run {stem}.NAME` records one of these functions again."
    )
    imports = (
        f"#| export\nimport torch\n\nfrom fromfound.{stem} import {stem}_twice\n"
        "from fromfound.record import experiment"
    )
    return [
        new_markdown_cell(said),
        new_code_cell(COLAB_CELL.format(git_url=settings(ROOT)["git_url"])),
        new_code_cell(f"#| default_exp experiments.{stem}"),
        new_code_cell(imports),
        new_markdown_cell("## The question\n\nWhat is compared, with what, and what must it cost?"),
        new_code_cell(EXPERIMENT.format(stem=stem)),
    ]


def make_experiments(name: str) -> None:
    """Make the page for the experiments of a chapter.

    Raises:
        SystemExit: there is no such chapter, or it has its page.
    """
    chapter, page = (NOTEBOOKS / folder / f"{name}.ipynb" for folder in ("", "experiments"))
    if not chapter.is_file() or page.exists():
        why = "it is there already" if page.exists() else f"nbs/{chapter.name} does not exist"
        raise SystemExit(f"make new: no page for the experiments of {name}: {why}")
    digits, letter, stem = re.fullmatch(r"(\d\d)([a-z]?)_(\w+)", name).groups()
    first = read(chapter).cells[0].source
    title = first.splitlines()[0].removeprefix("# ")
    write(page, experiment_cells(name, stem, f"{int(digits)}{letter}", title))


def write(path: Path, cells: list) -> None:
    """Write a notebook with fresh cell ids."""
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)


def enter_in_contents(name: str, number: str, title: str) -> None:
    """Enter a chapter into _toc.yml, after the chapter before it."""
    path = ROOT / "_toc.yml"
    chapters = [page for page in contents(ROOT) if re.fullmatch("nbs/[^/]+", page)]
    before = [page for page in chapters if order(Path(page).name) < order(name)][-1]
    entry = rf"(      - file: {re.escape(before)}\n(?:        title: [^\n]*\n)?)"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        re.sub(entry, rf"\g<1>      - file: nbs/{name}\n        title: {number} {title}\n", text),
        encoding="utf-8",
    )


def enter_on_front_page(name: str, number: str, title: str) -> None:
    """Enter a chapter into the list of the front page.

    It follows the last chapter that comes before it.
    """
    path = ROOT / "book" / "intro.md"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    entries = [
        (i, found[1])
        for i, line in enumerate(lines)
        if (found := re.match(r"- Chapter .*\(\.\./nbs/(\w+)\.ipynb\)", line))
    ]
    at = [i for i, stem in entries if order(stem) < order(name)][-1]
    lines.insert(
        at + 1,
        f"- Chapter {number}, [{title}](../nbs/{name}.ipynb): what it builds, in one line.\n",
    )
    path.write_text("".join(lines), encoding="utf-8")


def enter_in_layers(name: str, stem: str) -> None:
    """Enter a chapter's module into the layers of pyproject.toml, above the one before it."""
    path = ROOT / "pyproject.toml"
    before = [m.name for m in modules(ROOT) if "." not in m.name and m.order < order(name)][-1]
    text = path.read_text(encoding="utf-8")
    entry = f'    "{before}",\n'
    path.write_text(text.replace(entry, f'    "{stem}",\n{entry}'), encoding="utf-8")


def enter_in_sweep(stem: str) -> None:
    """Say in tests/test_pairs.py that a module's functions are no parts; its classes still are."""
    path = ROOT / "tests" / "test_pairs.py"
    head, table, rest = path.read_text(encoding="utf-8").partition("OTHERS = {")
    comment, end, rest = rest.partition("\n")
    entry = f'    "functions of {stem}": "{stem}.*",\n'
    path.write_text(head + table + comment + end + entry + rest, encoding="utf-8")


def main() -> None:
    """Make the chapter that the command line names."""
    name = "".join(sys.argv[1:])
    if name.startswith("experiments/"):
        make_experiments(name.removeprefix("experiments/"))
        subprocess.run([sys.executable, "-m", "tests.press.execute", name], cwd=ROOT, check=True)
        print(f"\nnbs/{name}.ipynb stands. Write, then: make chapter N={name}")
        return
    number, stem = parts(name)
    title = stem.replace("_", " ").capitalize()
    write(NOTEBOOKS / f"{name}.ipynb", chapter_cells(name, number, stem, title))
    write(NOTEBOOKS / "exercises" / f"{name}.ipynb", exercise_cells(name, number, stem, title))
    (ROOT / "tests" / f"test_{stem}.py").write_text(
        TEST.format(title=title, stem=stem), encoding="utf-8"
    )
    enter_in_contents(name, number, title)
    enter_on_front_page(name, number, title)
    enter_in_layers(name, stem)
    enter_in_sweep(stem)
    prefix = name.partition("_")[0]
    for chapter in (f"exercises/{prefix}", prefix):
        subprocess.run([sys.executable, "-m", "tests.press.execute", chapter], cwd=ROOT, check=True)
    print(
        "\n"
        f"nbs/{name}.ipynb stands, with its exercises, its test and its entries. Write, "
        f"then: make chapter N={prefix}"
    )


if __name__ == "__main__":
    main()
