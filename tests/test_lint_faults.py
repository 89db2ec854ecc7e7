"""Plants each fault in a small book and sees the rule report it.

The message says what to do.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book.reader.notebooks import QUOTE
from tests.press.lint import RULES
from tests.press.lint_cells import COLAB_CELL, nbdev
from tests.press.to_rewrite import STILL

SETTINGS = """[DEFAULT]
user = someone
repo = book
lib_name = fromfound
lib_path = fromfound
nbs_path = nbs
doc_path = _docs
branch = main
version = 0.1.0
author = someone
copyright = someone
git_url = https://github.com/%(user)s/%(repo)s
doc_host = https://%(user)s.github.io
doc_baseurl = /%(repo)s
recursive = True
update_pyproject = False
put_version_in_init = True
"""
SETUP = """[project]
name = "fromfound"

[tool.importlinter]
root_package = "fromfound"
exclude_type_checking_imports = true

[[tool.importlinter.contracts]]
name = "imports go down only"
type = "layers"
containers = ["fromfound"]
layers = ["exercises", "halves", "tools"]
"""
BIBLIOGRAPHY = """@article{Kaiming2015,
  author = {Kaiming, He},
  title = {Delving deep},
  year = {2015},
  eprint = {1502.01852}, archiveprefix = {arXiv}
}
@article{Rumelhart1986,
  author = {Rumelhart, David E.},
  title = {Learning representations},
  year = {1986},
  doi = {10.1038/323533a0}
}
"""


def shown(text: str, **data: object) -> list:
    return [new_output("execute_result", {"text/plain": text, **data}, execution_count=None)]


COLAB = COLAB_CELL.format(git_url="https://github.com/someone/book")

START = [
    ("m", "# How to read\n\nIn this book every number is checked by a program that you can run."),
    ("c", COLAB),
    ("c", "1 + 1", shown("2")),
]

TOOLS = [
    (
        "m",
        (
            "# A small tool\n\n"
            "At the end of this page stands one function, and you know what it is for."
        ),
    ),
    ("c", COLAB),
    ("c", "#| default_exp tools"),
    (
        "c",
        (
            "#| export\n"
            "def double(x: float) -> float:\n"
            '    """Twice `x`.\n\n    Source: torch.mul\n    """\n'
            "    return 2 * x"
        ),
    ),
    ("c", "double(2) + 0", shown("4")),
]

CARD = """### Exercise 1.{n} · Halve it

*kind: {kind} · difficulty 1/5 · importance 2/5 · 5 minutes · needs: division*

Half of 6 is 3. What is half of 7?"""
FOLDED = """<details><summary>A question</summary>

What undoes doubling?
</details>
<details><summary>An idea</summary>

Division.
</details>
<details><summary>A template</summary>

`x / …`
</details>
<details><summary>The solution</summary>

```python
def half(x):
    return x / 2
```
</details>
<details><summary>Why this check</summary>

An odd number shows rounding.
</details>"""


def card(n: int, kind: str = "complete") -> list:
    return [
        ("m", CARD.format(n=n, kind=kind)),
        ("c", f"def half(x):\n    return x\n\ncheck.ex_1_{n}(half)"),
        ("m", FOLDED),
    ]


LESSON = [
    ("m", "# Halves\n\nWe build division by two, and measure that it is right."),
    ("c", COLAB),
    ("c", "#| default_exp halves"),
    (
        "m",
        "## Two ways\n\n"
        "The dearest way takes <!-- v slow:.1f -->2.5<!-- /v --> ms, and "
        "[Kaiming et al.](https://arxiv.org/abs/1502.01852) report "
        "<!-- c Kaiming2015 -->6.6%<!-- /c -->; see [the tool](00a_tools.ipynb#a-small-tool)."
        " A 3×3 table costs $2n$ and `5 ms` is code, see [below](#exercises), "
        "[1986](https://doi.org/10.1038/323533a0).",
    ),
    (
        "c",
        "#| export\nfrom fromfound.record import quote\nfrom fromfound.tools import double",
    ),
    (
        "c",
        (
            "#| export\n"
            "class Halver:\n"
            '    """Halves what it is given.\n\n'
            "    Source: Kaiming2015 §2.2\n"
            '    """\n'
            "    def __init__(self, by: float = 2) -> None:\n"
            "        self.by = double(by) / 2\n\n"
            "    def __call__(self, x: float) -> float:\n"
            '        """Half of `x`."""\n'
            "        return x / self.by"
        ),
    ),
    ("c", "#| timing\nquote(slow=2.5)", shown("slow = 2.5", **{QUOTE: {"slow": 2.5}})),
    (
        "c",
        (
            "#| fig-alt: a falling line from 4 to 1, halved at each step\n"
            "#| fig-cap: Each step halves.\n"
            "print(Halver())"
        ),
        shown("Picture", **{"image/png": "aGVsbG8="}),
    ),
    ("m", "## From the papers\n\nNothing."),
    ("m", "## What goes wrong\n\nRounding."),
    ("m", "## Exercises\n\nFour."),
    ("c", "from fromfound.exercises import halves as check"),
    *card(1),
    *card(2),
    *card(3),
    *card(4, "kill the mutants"),
    ("m", "## What we built\n\n- `Halver` halves."),
]

CHECKS = [
    (
        "m",
        (
            "# Checks of chapter 1\n\n"
            "Right answers, wrong answers, and the inputs that tell them apart."
        ),
    ),
    ("c", COLAB),
    ("c", "#| default_exp exercises.halves"),
    (
        "c",
        (
            "#| export\n"
            "import torch\n\n"
            "from fromfound.check import Exercise\n\n"
            'ex_1_1 = Exercise("1.1", lambda x: x / 2, [(torch.randn(3),)], wrong={})'
        ),
    ),
]


def write_notebook(path: Path, cells: list) -> None:
    made = []
    for i, (kind, source, *outputs) in enumerate(cells):
        cell = (
            new_markdown_cell(source)
            if kind == "m"
            else new_code_cell(source, outputs=outputs[0] if outputs else [])
        )
        cell.id = f"cell{i:04}"
        made.append(cell)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)


@pytest.fixture(scope="session")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book of four notebooks in which all is well."""
    root = tmp_path_factory.mktemp("book")
    files = {
        "settings.ini": SETTINGS,
        "pyproject.toml": SETUP,
        "README.md": "# A book\n",
        "book/references.bib": BIBLIOGRAPHY,
        "fromfound/__init__.py": '__version__ = "0.1.0"\n',
        "book/runs/chapters.json": json.dumps(
            {
                name: {"seconds": 1.0, "peak_mb": 100}
                for name in ("00_hello", "00a_tools", "01_halves", "exercises/01_halves")
            }
        ),
        "fromfound/py.typed": "",
        "_toc.yml": (
            "format: jb-book\n"
            "root: book/intro\n"
            "chapters:\n"
            "  - file: nbs/00_hello\n"
            "  - file: nbs/00a_tools\n"
            "  - file: nbs/01_halves\n"
        ),
        "book/intro.md": (
            "# Hello\n\n"
            "It takes <!-- v 01_halves.slow:.1f -->2.5<!-- /v --> ms "
            "([tool](../nbs/00a_tools.ipynb), [halves](../nbs/01_halves.ipynb)).\n"
        ),
        "tests/test_halves.py": "def test_half():\n    assert 1 / 2\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for name, cells in {
        "00_hello": START,
        "00a_tools": TOOLS,
        "01_halves": LESSON,
        "exercises/01_halves": CHECKS,
    }.items():
        write_notebook(root / "nbs" / f"{name}.ipynb", cells)
    nbdev("nbdev_clean", root)
    nbdev("nbdev_export", root)
    return root


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_found_where_all_is_well(rule: str, small_book: Path) -> None:
    assert [str(f) for f in RULES[rule](small_book)] == []


# --- how to plant ---------------------------------------------------------------------------------

Plant = Callable[[Path], None]
LESSON_FILE, CHECKS_FILE, MODULE = (
    "nbs/01_halves.ipynb",
    "nbs/exercises/01_halves.ipynb",
    "fromfound/halves.py",
)


def write(file: str, text: str) -> Plant:
    def plant(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text, encoding="utf-8")

    return plant


def costs_of(name: str, seconds: float, megabytes: int = 100) -> Plant:
    """Record another cost of one chapter."""

    def plant(root: Path) -> None:
        path = root / "book" / "runs" / "chapters.json"
        costs = json.loads(path.read_text()) | {name: {"seconds": seconds, "peak_mb": megabytes}}
        path.write_text(json.dumps(costs))

    return plant


def rename(file: str, other: str) -> Plant:
    return lambda root: (root / file).rename(root / other)


def remove(file: str) -> Plant:
    return lambda root: (root / file).unlink()


def replace(file: str, old: str, new: str) -> Plant:
    """Change a text, in a notebook within the JSON strings."""

    def plant(root: Path) -> None:
        text = (root / file).read_text(encoding="utf-8")
        a, b = (
            (json.dumps(old, ensure_ascii=False)[1:-1], json.dumps(new, ensure_ascii=False)[1:-1])
            if file.endswith(".ipynb")
            else (old, new)
        )
        assert a in text, f"the small book does not hold {old!r}"
        (root / file).write_text(text.replace(a, b), encoding="utf-8")

    return plant


def add(*cells: tuple, file: str = LESSON_FILE, at: int = 9) -> Plant:
    """Put cells into a notebook."""

    def plant(root: Path) -> None:
        book = nbformat.read(root / file, as_version=4)
        made = [
            new_markdown_cell(c[1])
            if c[0] == "m"
            else new_code_cell(c[1], outputs=c[2] if len(c) > 2 else [])
            for c in cells
        ]
        book.cells[at:at] = made
        nbformat.write(book, root / file)

    return plant


def say(text: str) -> Plant:
    return add(("m", f"Words. {text}"))


def drop_cell(beginning: str, file: str = LESSON_FILE) -> Plant:
    def plant(root: Path) -> None:
        book = nbformat.read(root / file, as_version=4)
        kept = [c for c in book.cells if not c.source.startswith(beginning)]
        assert len(kept) < len(book.cells), f"no cell begins with {beginning!r}"
        book.cells = kept
        nbformat.write(book, root / file)

    return plant


def empty_metadata_kept(root: Path) -> None:
    book = json.loads((root / LESSON_FILE).read_text(encoding="utf-8"))
    book["cells"][0]["metadata"]["tags"] = ["forgotten"]
    (root / LESSON_FILE).write_text(json.dumps(book), encoding="utf-8")


def without_outputs(root: Path) -> None:
    book = nbformat.read(root / LESSON_FILE, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    nbformat.write(book, root / LESSON_FILE)


def said(text: str, name: str = "stdout") -> list:
    return [new_output("stream", name=name, text=text)]


DEF = 'def half_of(x: float) -> float:\n    "Doc."\n    return x / 2\n'


def module_with(code: str, names: str = "'half_of'") -> Plant:
    """Replace the exported module, as if a notebook had exported this."""
    return write(
        MODULE,
        (
            "# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/01_halves.ipynb.\n\n"
            f"__all__ = [{names}]\n\n"
            "# %% ../nbs/01_halves.ipynb #cell0005\n"
            f"{code}"
        ),
    )


# --- the faults: rule, what is planted, words of the message: what is wrong, what to do -----------

FAULTS: list[tuple[str, str, Plant, list[str]]] = [
    (
        "clean_notebooks",
        "metadata",
        empty_metadata_kept,
        [LESSON_FILE, "not clean", "Run nbdev_clean"],
    ),
    (
        "notebook_files",
        "too large",
        add(("c", "x", shown("y", **{"image/png": "a" * 1_600_000}))),
        ["1.6 MB", "less than 1.5", "PNG"],
    ),
    (
        "notebook_files",
        "kernel",
        replace(LESSON_FILE, "python3", "my-env"),
        ["'my-env'", "python3"],
    ),
    (
        "notebook_files",
        "no outputs",
        without_outputs,
        ["no cell has stored outputs", "make chapter"],
    ),
    ("missing_outputs", "value", add(("c", "(1, 2)")), ["no output is stored", "make chapter"]),
    ("missing_outputs", "print", add(("c", "print(1)\nx = 2")), ["no output is stored"]),
    ("missing_outputs", "quote", add(("c", "quote(acc=1)")), ["no output is stored"]),
    (
        "output_text",
        "error",
        add(
            (
                "c",
                "1/0",
                [
                    new_output(
                        "error", ename="ZeroDivisionError", evalue="division by zero", traceback=[]
                    )
                ],
            )
        ),
        ["ZeroDivisionError", "catch it"],
    ),
    (
        "output_text",
        "stderr",
        add(("c", "x", said("UserWarning: old", "stderr"))),
        ["stderr", "UserWarning", "Cure the warning"],
    ),
    (
        "output_text",
        "progress bar",
        add(("c", "x", said(" 10%|#  | 1/10 [00:01<00:09, 12.3it/s]"))),
        ["progress bar", "final table"],
    ),
    ("output_text", "carriage return", add(("c", "x", said("epoch 1\repoch 2"))), ["progress bar"]),
    ("output_text", "colors", add(("c", "x", said("\x1b[31mred\x1b[0m"))), ["terminal colors"]),
    (
        "output_text",
        "address",
        add(("c", "x", shown("<Thing at 0x7f12345678>"))),
        ["address of an object"],
    ),
    (
        "output_text",
        "machine path",
        add(("c", "x", shown("PosixPath('/home/me/data')"))),
        ["/home/me", "relative"],
    ),
    (
        "output_text",
        "windows path",
        add(("c", "x", shown("WindowsPath('C:\\\\data')"))),
        ["path of this machine"],
    ),
    (
        "output_text",
        "stand-in",
        add(("c", "mnist", shown("ImageData(STAND-IN for mnist)"))),
        ["stand-in data", "FROMFOUND_DATA"],
    ),
    (
        "output_text",
        "too long",
        add(("c", "x", said("line\n" * 11))),
        ["11 lines of output", "at most 10"],
    ),
    ("cell_source", "syntax", add(("c", "def f(:")), ["not Python"]),
    (
        "cell_source",
        "too long",
        add(("c", "\n".join(f"x{i} = {i}" for i in range(26)))),
        ["26 lines of code", "at most 25", "Split it"],
    ),
    (
        "cell_source",
        "long method",
        add(("c", "#| export\nclass A:\n    def f(self):\n" + "        x = 1\n" * 41)),
        ["42 lines", "at most 40"],
    ),
    ("cell_source", "greek", add(("c", "σ = 1")), ["σ", "sigma"]),
    ("cell_source", "path", add(("c", "p = '/tmp/me/x'")), ["/tmp/me", "tempfile"]),
    (
        "directives",
        "unknown",
        add(("c", "#| echo: false\nx = 1")),
        ["unknown directive '#| echo: false'", "closed list"],
    ),
    (
        "cleared_outputs",
        "imported",
        add(("c", "from IPython.display import clear_output as wipe\nwipe()")),
        ["`clear_output`", "draw once at the end"],
    ),
    (
        "cleared_outputs",
        "an attribute",
        add(("c", "import IPython.display as d\nd.clear_output(wait=True)")),
        ["`clear_output`"],
    ),
    ("directives", "below", add(("c", "x = 1\n#| hide")), ["below the top", "first lines"]),
    ("directives", "spaced", add(("c", "# | hide\nx = 1")), ["#| name"]),
    (
        "directives",
        "with export",
        add(("c", "#| export\n#| hide\nx = 1")),
        ["'#| export' is not alone", "leak"],
    ),
    (
        "directives",
        "default_exp with code",
        add(("c", "#| default_exp other\nx = 1")),
        ["cell of its own"],
    ),
    (
        "directives",
        "tolerance",
        add(("c", "#| tolerance: lots\nx = 1")),
        ["does not have its form"],
    ),
    (
        "directives",
        "tolerance of everything",
        add(("c", "#| tolerance: 2\nx = 1")),
        ["does not have its form"],
    ),
    ("directives", "empty alt", add(("c", "#| fig-alt:\nx = 1")), ["does not have its form"]),
    (
        "directives",
        "export to a second module",
        add(("c", "#| export other\nx = 1")),
        ["does not have its form"],
    ),
    (
        "default_exp",
        "twice",
        replace("nbs/00a_tools.ipynb", "default_exp tools", "default_exp halves"),
        ["already the module of nbs/00a_tools.ipynb", "append for ever"],
    ),
    (
        "default_exp",
        "another stem",
        replace(LESSON_FILE, "default_exp halves", "default_exp thirds"),
        ["module 'thirds'", "stem is 'halves'", "one stem"],
    ),
    (
        "default_exp",
        "another stem of exercises",
        replace(CHECKS_FILE, "default_exp exercises.halves", "default_exp exercises.half"),
        ["Write `#| default_exp exercises.halves`"],
    ),
    ("default_exp", "none", drop_cell("#| default_exp"), ["to no module", "default_exp NAME"]),
    (
        "kinds_of_numbers",
        "wide",
        add(("c", "#| tolerance: 0.2\n1.5 + 0", shown("1.5"))),
        ["a tolerance of 0.2", "at most 0.05", "print a spread"],
    ),
    (
        "kinds_of_numbers",
        "exponent",
        add(("c", "#| tolerance: 9e-1\n1.5 + 0", shown("1.5"))),
        ["a tolerance of 9e-1"],
    ),
    (
        "kinds_of_numbers",
        "two",
        add(("c", "#| varies\n#| tolerance: 0.02\n1.5 + 0", shown("1.5"))),
        ["varies and tolerance", "Split the cell"],
    ),
    (
        "kinds_of_numbers",
        "quoted",
        add(("c", "#| varies\nquote(acc=0.9)", shown("acc = 0.9", **{QUOTE: {"acc": 0.9}}))),
        ["quotes a number that varies"],
    ),
    (
        "kinds_of_numbers",
        "quoted by another name",
        add(("c", "#| varies\noffer(acc=0.9)", shown("acc = 0.9", **{QUOTE: {"acc": 0.9}}))),
        ["quotes a number that varies"],
    ),
    (
        "directives",
        "varies with a value",
        add(("c", "#| varies: 0.1\nx = 1")),
        ["does not have its form"],
    ),
    (
        "chapter_costs",
        "none",
        write("book/runs/chapters.json", "{}"),
        ["no cost of 01_halves", "make chapter N=01"],
    ),
    (
        "chapter_costs",
        "of nothing",
        costs_of("02_thirds", 1),
        ["a cost of 02_thirds", "Take the entry out"],
    ),
    (
        "chapter_costs",
        "too long",
        costs_of("01_halves", 121),
        ["01_halves takes 121 s", "budget is 120 s"],
    ),
    (
        "chapter_costs",
        "long",
        costs_of("01_halves", 61),
        ["01_halves takes 61 s", "needs a reason"],
    ),
    (
        "chapter_costs",
        "all",
        costs_of("01_halves", 3600),
        ["all chapters take 1802 s, 2 at a time"],
    ),
    ("chapter_costs", "memory", costs_of("01_halves", 1, 3001), ["3001 MiB"]),
    ("colab_cell", "missing", drop_cell("#| hide"), ["not the Colab cell", "git_url"]),
    (
        "colab_cell",
        "other owner",
        replace("settings.ini", "someone", "another"),
        ["git+https://github.com/another/book"],
    ),
    (
        "figures",
        "no alt",
        replace(LESSON_FILE, "#| fig-alt: a falling line from 4 to 1, halved at each step\n", "\n"),
        ["picture without a description", "fig-alt"],
    ),
    (
        "figures",
        "short alt",
        replace(LESSON_FILE, "a falling line from 4 to 1, halved at each step", "a plot"),
        ["picture without a description"],
    ),
    (
        "figures",
        "alt without picture",
        add(("c", "#| fig-alt: a line that rises from 1 to 4\nx = 1")),
        ["no picture is stored"],
    ),
    ("figures", "Markdown", say("![](a.png)"), ["![what it shows]"]),
    *[
        ("measured_numbers", text, say(text), ["unmarked number", m, "quote("])
        for text, m in (
            ("It reaches 97.4% now.", "97.4%"),
            ("It is 50× faster.", "50×"),
            ("It is 50 × faster.", "50 ×"),
            ("It took 12 ms.", "12 ms"),
            ("It took 1.5s.", "1.5s"),
            ("It took 3 s.", "3 s"),
            ("It took 254 µs.", "254 µs"),
            ("It needs 2 GB.", "2 GB"),
            ("It does 182 GFLOP/s.", "182 GFLOP"),
            ("It is 2,000 times faster.", "2,000 times faster"),
            ("It takes **1,300** ms.", "1,300** ms"),
            ("| way | 3 seconds |", "3 seconds"),
            ("<details><summary>It took 5 ms</summary>\n\nwell\n</details>", "5 ms"),
            ("A range of 2–3 ms.", "3 ms"),
            ("It reaches 97.4 percent.", "97.4 percent"),
        )
    ],
    *[
        ("measured_numbers", text, say(text), ["in mathematics", "Write it in the text", "quote("])
        for text in ("It is $50\\times$ faster.", "A share of $5\\%$.", "In $3\\,\\text{ms}$.")
    ],
    (
        "measured_numbers",
        "a page",
        write("book/intro.md", "# Hello\n\nIt takes 5 ms.\n"),
        ["book/intro.md", "5 ms"],
    ),
    (
        "measured_numbers",
        "caption",
        replace(LESSON_FILE, "Each step halves.", "Each step saves 50%."),
        ["captions are not rewritten"],
    ),
    *[
        ("marks", text, add(("m", text)), ["start of a line", "Put a word before it"])
        for text in (
            "<!-- v slow:.1f -->2.5<!-- /v --> ms",
            "so\n<!-- v slow -->2.5<!-- /v -->",
            "- <!-- v slow -->2.5<!-- /v -->",
            "> <!-- v slow -->2.5<!-- /v -->",
            "1. <!-- v slow -->2.5<!-- /v -->",
            "> - <!-- c Kaiming2015 -->2.5<!-- /c -->",
        )
    ],
    (
        "marks",
        "mathematics",
        say("$x = <!-- v slow -->2.5<!-- /v -->$"),
        ["inside mathematics", "End the mathematics"],
    ),
    ("marks", "code", say("`<!-- v slow -->2.5<!-- /v -->`"), ["inside code", "Take it out"]),
    (
        "marks",
        "code block",
        say("so:\n\n```\n<!-- v slow -->2.5<!-- /v -->\n```\n"),
        ["inside code"],
    ),
    (
        "marks",
        "summary",
        say("<details><summary>It took <!-- v slow -->2.5<!-- /v --></summary>\n\nok</details>"),
        ["<summary>", "body of the fold"],
    ),
    ("marks", "unknown letter", say("a <!-- x slow -->2.5<!-- /x -->"), ["no number mark"]),
    ("marks", "no space at its end", say("a <!-- v slow:.1f-->2.5<!-- /v -->"), ["no number mark"]),
    ("marks", "not closed", say("a <!-- v slow -->2.5"), ["no number mark"]),
    (
        "marks",
        "unknown key",
        say("a <!-- c Nobody1999 -->5%<!-- /c -->"),
        ["Nobody1999", "references.bib"],
    ),
    (
        "prose_figures",
        "stale",
        replace(LESSON_FILE, "-->2.5<", "-->2.4<"),
        ["'2.4'", "'2.5'", "Run make sync"],
    ),
    (
        "prose_figures",
        "stale page",
        replace("book/intro.md", "-->2.5<", "-->9<"),
        ["book/intro.md", "Run make sync"],
    ),
    (
        "prose_figures",
        "unknown name",
        say("a <!-- v slows -->2.5<!-- /v -->"),
        ["'slows'", "near to it: slow", "Quote the value"],
    ),
    (
        "prose_figures",
        "twice",
        add(("c", "quote(slow=3)", shown("slow = 3", **{QUOTE: {"slow": 3}}))),
        ["quoted twice", "Rename"],
    ),
    (
        "citations",
        "arXiv",
        say("[x](https://arxiv.org/abs/1706.03762)"),
        ["1706.03762", "references.bib", "Add the paper"],
    ),
    ("citations", "pdf", say("[x](https://arxiv.org/pdf/1706.03762v5)"), ["1706.03762"]),
    ("citations", "bare", say("see <https://arxiv.org/abs/1706.03762>"), ["1706.03762"]),
    ("citations", "doi", say("[x](https://doi.org/10.1000/xyz)"), ["10.1000/xyz"]),
    ("citations", "no bibliography", remove("book/references.bib"), ["missing or empty"]),
    (
        "citations",
        "half an entry",
        replace("book/references.bib", "  year = {1986},\n", ""),
        ["Rumelhart1986 lacks", "Complete"],
    ),
    (
        "citations",
        "one paper twice",
        replace("book/references.bib", "10.1038/323533a0", "10.48550/x}, eprint = {1502.01852"),
        ["Kaiming2015 and Rumelhart1986 are one paper", "merge"],
    ),
    (
        "internal_links",
        "file",
        say("[x](03_more.ipynb)"),
        ["dead link, '03_more.ipynb'", "no such file"],
    ),
    (
        "internal_links",
        "anchor",
        say("[x](00a_tools.ipynb#a-small-boat)"),
        ["no heading", "a-small-tool"],
    ),
    ("internal_links", "own anchor", say("[x](#exercise)"), ["no heading", "exercises"]),
    ("internal_links", "outside", say("[x](../../../etc)"), ["dead link"]),
    ("internal_links", "html", say('<a href="gone.md">x</a>'), ["gone.md"]),
    (
        "contents",
        "not listed",
        replace("_toc.yml", "  - file: nbs/01_halves\n", ""),
        ["not in _toc.yml", "List it"],
    ),
    (
        "contents",
        "form",
        replace("_toc.yml", "chapters:", "pages:"),
        ["_toc.yml", "pages", "Mend its form"],
    ),
    (
        "contents",
        "front page",
        replace("book/intro.md", ", [halves](../nbs/01_halves.ipynb)", ""),
        ["does not name nbs/01_halves", "Enter it"],
    ),
    (
        "contents",
        "listed",
        replace("_toc.yml", "nbs/01_halves\n", "nbs/01_halves\n  - file: nbs/02_more\n"),
        ["nbs/02_more", "does not exist"],
    ),
    (
        "tables",
        "a bar",
        add(("m", "| a | b |\n|---|---|\n| `#| timing` | c |")),
        ["row of 3 cells under a head of 2", "Write \\|"],
    ),
    (
        "tables",
        "a cell short",
        add(("m", "Words.\n\n| a | b |\n|---|---|\n| c | d |\n| e |\n")),
        ["row of 1 cells"],
    ),
    *[
        ("portable_markdown", text, add(("m", text)), ["item 12 of a list", "Begin it with a word"])
        for text in ("12. It keeps what came last.", "It is:\n\n12) Too much.")
    ],
    *[
        ("portable_markdown", text, add(("m", text)), ["Write portable Markdown"])
        for text in (
            "As {cite}`Kaiming2015` says.",
            "See {cite:t}`Kaiming2015`.",
            "See {ref}`here`.",
            ":::{note}\nx\n:::",
            "```{note}\nx\n```",
            "Words.\n\n(label)=\n",
            "A {{ substitution }}.",
        )
    ],
    *[
        ("words", text, say(text), [m])
        for text, m in (
            ("You simply call it.", "simply"),
            ("It works!", "exclamation"),
            ("It works \U0001f389", "emoji"),
            ("Done \u2705", "emoji"),
        )
    ],
    *(
        ("words", text, say(f"It says {text} here."), [text, "Write:"])
        for text in ("nobody", "trainings", "anew", "mended", "in every bit", "cannot be had")
    ),
    ("words", "docstring", add(("c", 'def f():\n    "It simply is."')), ["simply"]),
    ("words", "comment", add(("c", "x = 1  # simply one")), ["simply"]),
    (
        "lesson_shape",
        "promise",
        replace(LESSON_FILE, "We build division by two, and measure that it is right.", "Halves."),
        ["title and a promise"],
    ),
    *[
        ("lesson_shape", part, drop_cell(f"## {part}"), [f"no section '{part}'", "Write one"])
        for part in ("From the papers", "What goes wrong", "Exercises", "What we built")
    ],
    ("exercise_cards", "too few", drop_cell("### Exercise 1.4"), ["3 exercise cards", "4 to 8"]),
    (
        "exercise_cards",
        "numbers",
        replace(LESSON_FILE, "### Exercise 1.3", "### Exercise 1.5"),
        ["1.1, 1.2, 1.5, 1.4", "Number them"],
    ),
    (
        "exercise_cards",
        "no mutants",
        replace(LESSON_FILE, "kill the mutants", "repair"),
        ["kill the mutants"],
    ),
    (
        "exercise_cards",
        "facts",
        replace(LESSON_FILE, "difficulty 1/5", "difficulty 7/5"),
        ["line of facts", "*kind: complete"],
    ),
    (
        "exercise_cards",
        "no check",
        replace(LESSON_FILE, "check.ex_1_2(half)", "half(1)"),
        ["check.ex_1_2", "stub"],
    ),
    (
        "exercise_cards",
        "fold",
        replace(LESSON_FILE, "<summary>An idea", "<summary>A hint"),
        ["A hint", "in this order"],
    ),
    (
        "exercise_cards",
        "no solution",
        replace(LESSON_FILE, "```python", "```"),
        ["0 Python blocks", "exactly one"],
    ),
    (
        "fresh_export",
        "edited package",
        replace(MODULE, "x / self.by", "x / self.by + 0"),
        [MODULE, "Run nbdev_export"],
    ),
    (
        "fresh_export",
        "edited notebook",
        replace(LESSON_FILE, "x / self.by", "x / self.by + 0"),
        [MODULE, "Run nbdev_export"],
    ),
    ("fresh_export", "removed module", remove(MODULE), [MODULE, "Run nbdev_export"]),
    ("package_files", "py.typed", remove("fromfound/py.typed"), ["typed", "Create"]),
    (
        "package_files",
        "by hand",
        write("fromfound/extra.py", "__all__ = ['x']\nx = 1\n"),
        ["no notebook exports it"],
    ),
    ("package_files", "__all__", replace(MODULE, "__all__ = ['Halver']", ""), ["no __all__"]),
    (
        "layers",
        "upward",
        replace("fromfound/tools.py", "def double", "from .halves import Halver\ndef double"),
        ["imports fromfound.halves", "nbs/00a_tools.ipynb, cell id", "Move the definition down"],
    ),
    (
        "layers",
        "exercises",
        module_with("from .exercises.halves import ex_1_1\n" + DEF),
        ["imports fromfound.exercises.halves"],
    ),
    (
        "layers",
        "not listed",
        write("fromfound/extra.py", "__all__ = ['x']\nx = 1\n"),
        ["'halves' where the book has 'extra'", "List the modules"],
    ),
    (
        "layers",
        "another order",
        replace("pyproject.toml", '"halves", "tools"', '"tools", "halves"'),
        ["'tools' where the book has 'halves'"],
    ),
    (
        "layers",
        "another contract",
        replace("pyproject.toml", '"tools"]', '"tools", "more"]'),
        ["'more' where the book has ''"],
    ),
    (
        "cells_import_down",
        "whole module",
        add(("c", "#| export\nfrom fromfound import tools")),
        ["whole module", "explicit name"],
    ),
    (
        "experiments_room",
        "in a chapter",
        add(("c", '@experiment(data=("mnist",))\ndef trial(seed):\n    return {"a": 1.0}')),
        ["trial is an experiment", "nbs/experiments/01_halves.ipynb"],
    ),
    (
        "experiments_room",
        "without a chapter",
        rename(CHECKS_FILE, "nbs/exercises/02_thirds.ipynb"),
        ["belongs to no chapter", "nbs/02_thirds.ipynb does not exist"],
    ),
    (
        "cells_import_down",
        "a later chapter",
        add(("c", "from fromfound.halves import Halver"), file="nbs/00a_tools.ipynb", at=4),
        ["imports halves", "later chapter"],
    ),
    (
        "cells_import_down",
        "a later module",
        add(("c", "from fromfound import halves"), file="nbs/00a_tools.ipynb", at=4),
        ["later chapter"],
    ),
    (
        "defined_once",
        "two modules",
        module_with(DEF.replace("half_of", "double"), "'double'"),
        ["already defined in fromfound/tools.py", "Subclass or compose"],
    ),
    ("defined_once", "one module", module_with(DEF + DEF), ["twice"]),
    (
        "signatures",
        "docstring",
        module_with("def half_of(x: float) -> float:\n    return x\n"),
        ["no docstring"],
    ),
    (
        "signatures",
        "stump",
        module_with(
            (
                "class A:\n"
                '    "A thing."\n'
                "    def f(self, x: float) -> float:\n"
                '        """Doc\n'
                '        """\n'
                "        return x\n"
            ),
            "'A'",
        ),
        ["the docstring of f does not begin with a sentence: 'Doc'"],
    ),
    (
        "signatures",
        "argument",
        module_with(DEF.replace("x: float", "x")),
        ["no type for x", "Annotate"],
    ),
    ("signatures", "result", module_with(DEF.replace(" -> float", "")), ["its result"]),
    (
        "signatures",
        "method",
        module_with('class A:\n    "Doc."\n    def f(self, x): return x\n', "'A'"),
        ["A.f: no type for x, its result"],
    ),
    (
        "signatures",
        "mutable",
        module_with(DEF.replace("x: float", "x: list = []")),
        ["mutable default"],
    ),
    (
        "signatures",
        "bare except",
        module_with("try:\n    pass\nexcept:\n    pass\n" + DEF),
        ["bare except"],
    ),
    (
        "module_size",
        "long",
        module_with(DEF + "".join(f"x{i} = {i}\n" for i in range(248))),
        ["251 formatted lines", "at most 250"],
    ),
    (
        "module_size",
        "dense",
        module_with(DEF + "".join(f"x{i} = {i}; y{i} = {i}\n" for i in range(124))),
        ["251 formatted lines"],
    ),
    (
        "module_size",
        "shrunk",
        rename("fromfound/tools.py", "fromfound/hooks.py"),
        ["still on the list"],
    ),
    (
        "sources",
        "unknown key",
        module_with(DEF.replace('"Doc."', '"Doc.\\n\\n    Source: Kaim2016 eq. 2"')),
        ["Kaim2016", "Kaiming2015"],
    ),
    (
        "sources",
        "not in torch",
        module_with(DEF.replace('"Doc."', '"Doc.\\n\\n    Source: torch.nn.BatchNorm9d"')),
        ["torch.nn.BatchNorm9d", "torch has"],
    ),
    (
        "torch_counterparts",
        "silent",
        module_with(DEF.replace("half_of", "relu"), "'relu'"),
        ["relu", "Source: torch.nn.functional.relu"],
    ),
    (
        "sources",
        "neither",
        module_with(DEF.replace('"Doc."', '"Doc.\\n\\n    Source: numpy.divide"')),
        ["numpy.divide", "torch.NAME"],
    ),
    *[
        ("blind_probes", code, add(("c", code), file=CHECKS_FILE, at=4), ["blind probe", cure])
        for code, cure in (
            ("y.sum().backward()", "random cotangent"),
            ("y.mean().backward()", "random cotangent"),
            ("torch.sum(y).backward()", "random cotangent"),
            ("loss = y.sum()\nloss.backward()", "random cotangent"),
            ("(y ** 2).sum().backward()", "random cotangent"),
            ("torch.autograd.grad(y.sum(), x)", "random cotangent"),
            ("y.backward(torch.ones_like(y))", "random cotangent"),
            ("torch.autograd.grad(y, x, grad_outputs=torch.ones(3))", "random cotangent"),
            ('ex_1_2 = Exercise("1.2", f, [(torch.ones(3, 3),)], wrong={})', "random or distinct"),
            (
                'ex_1_2 = Exercise("1.2", f, cases=[(torch.full((3,), 2.),)], wrong={})',
                "random or distinct",
            ),
            ("same_as(f, g, torch.ones(4, 4))", "random or distinct"),
            ("gradient_check(f, torch.ones(4))", "random or distinct"),
            (
                "bn = nn.BatchNorm2d(3)\nassert f(bn)(x).allclose(bn(x))",
                "make its parameters random",
            ),
        )
    ],
    (
        "blind_probes",
        "a test",
        write("tests/test_halves.py", "def test_half():\n    f(x).sum().backward()\n"),
        ["tests/test_halves.py", "line 2", "random cotangent"],
    ),
    (
        "ruff",
        "a test",
        write(
            "tests/test_halves.py", "def test_half():\n    assert half(2) == 1 and half(4) == 2\n"
        ),
        ["tests/test_halves.py", "line 2: PT018"],
    ),
    (
        "ruff",
        "a long line",
        write("tests/test_halves.py", f"def test_half():\n    assert 1 / 2  # {'long ' * 20}\n"),
        ["tests/test_halves.py", "line 2: E501"],
    ),
    (
        "ruff",
        "a tool without a docstring",
        write("tests/press/tool.py", '"""A tool."""\n\n\ndef tool() -> None:\n    pass\n'),
        ["tests/press/tool.py", "line 4: D103"],
    ),
    (
        "ruff",
        "a chapter",
        add(("c", "assert half(2) == 1 and half(4) == 2")),
        ["nbs/01_halves.ipynb, cell 10", "PT018"],
    ),
    (
        "ruff",
        "a long line in a chapter",
        add(("c", f"x = 1  # {'long ' * 20}")),
        ["nbs/01_halves.ipynb, cell 10", "line 1: E501"],
    ),
    ("ruff", "two statements", add(("c", "x = 1; y = 2")), ["E702"]),
    ("ruff", "a body on its line", add(("c", "if x: y = 2")), ["E701"]),
    ("ruff", "star", add(("c", "from torch import *")), ["F403"]),
    (
        "ruff",
        "an exported function",
        add(("c", "#| export\ndef half_of(x: float) -> float:\n    return x / 2")),
        ["D103"],
    ),
    *[
        ("spelling", wrong, say(f"The {wrong} of it."), [f"cell 10: the spelling '{wrong}'", right])
        for wrong, right in (
            ("initialisation", "'initialization'"),  # codespell:ignore
            ("behaviour", "'behavior'"),  # codespell:ignore
            ("grey", "'gray'"),  # codespell:ignore
            ("occurence", "'occurrence'"),  # codespell:ignore
        )
    ],
    *[
        ("spelling", code, add(("c", code)), ["cell 10: the spelling 'colour'"])  # codespell:ignore
        for code in (
            'def f():\n    "The colour of it."',  # codespell:ignore
            "x = 1  # its colour",  # codespell:ignore
            "#| fig-alt: the colour of it\nx = 1",  # codespell:ignore
        )
    ],
    *[
        ("spelling", file, write(file, text), [file, "line 2: the spelling 'colour'"])
        for file in ("book/page.md", "tests/test_halves.py", "README.md")
        for text in ("\n# The colour\n",)  # codespell:ignore
    ],
    (
        "docstring_arguments",
        "missing",
        module_with(DEF.replace('"Doc."', '"Doc.\\n\\n    Args:\\n        y: what?"')),
        ["DOC103", "fromfound/halves.py", "one a line"],
    ),
    (
        "docstring_arguments",
        "not all",
        module_with(
            DEF.replace("x: float", "x: float, y: float").replace(
                '"Doc."', '"Doc.\\n\\n    Args:\\n        x: what?"'
            )
        ),
        ["DOC101"],
    ),
    (
        "docstring_arguments",
        "raised",
        module_with(
            DEF.replace('"Doc."', '"Doc.\\n\\n    Args:\\n        x: what?"').replace(
                "return x / 2", "raise ValueError"
            )
        ),
        ["DOC501"],
    ),
    (
        "main_track",
        "an hour",
        add(("m", "Words. " * 12_000)),
        ["minutes to read", "Keep to 60"],
    ),
    (
        "main_track",
        "a long cell",
        add(("c", "# a comment\n" * 26 + "x = 1")),
        ["cell 10: 27 open lines", "at most 25", "#| fold"],
    ),
    (
        "dense_code",
        "the book",
        add(*[("c", f"x = [{', '.join(map(str, range(20)))}]")] * 19),
        ["tokens a line over all notebooks; at most 10"],
    ),
    (
        "main_track",
        "dense",
        add(("c", f"x = [{', '.join(map(str, range(200)))}]")),
        ["tokens a line of code", "at most 10"],
    ),
    (
        "plain_expressions",
        "a chapter",
        add(("c", "x = 1 if a else 2 if b else 3")),
        ["cell 10: line 1: a conditional expression inside another", "Write if and else"],
    ),
    (
        "plain_expressions",
        "a tool",
        write("tests/press/tool.py", '"""A tool."""\n\nx = 1 if (2 if a else b) else 3\n'),
        ["tests/press/tool.py: line 3"],
    ),
    # The texts are added up, or this file would be found, too.
    (
        "hygiene",
        "machine path",
        write("book/notes.md", "# Notes\n\nin /wor" + "k/main\n"),
        ["book/notes.md", "line 3", "path of one machine"],
    ),
    (
        "hygiene",
        "scratch path",
        write("Makefile", "all:\n\tcp /tmp" + "/w/x .\n"),
        ["Makefile", "path of one machine"],
    ),
    (
        "hygiene",
        "beside the project",
        write("Makefile", "all:\n\tcp ../sha" + "red/x .\n"),
        ["Makefile", "path of one machine"],
    ),
    (
        "hygiene",
        "registry",
        write("Makefile", "all:\n\tcurl https://pypi" + ".org/simple\n"),
        ["host of a package registry"],
    ),
]


@pytest.mark.parametrize(
    "rule, plant, words", [pytest.param(r, p, w, id=f"{r}: {n}") for r, n, p, w in FAULTS]
)
def test_a_planted_fault_is_found(
    rule: str, plant: Plant, words: list[str], small_book: Path, tmp_path: Path
) -> None:
    root = tmp_path / "book"
    shutil.copytree(small_book, root)
    plant(root)
    findings = RULES[rule](root)
    assert any(all(w in str(f) for w in words) for f in findings), (
        f"expected {words} in one of:\n" + "\n".join(map(str, findings))
    )


def test_every_rule_has_a_planted_fault() -> None:
    assert {rule for rule, *_ in FAULTS} == set(RULES)


@pytest.mark.parametrize(
    "rule, word, plant",
    [
        ("main_track", "minutes", add(("m", "Words. " * 12_000))),
        ("plain_expressions", "nested", add(("c", "x = 1 if a else 2 if b else 3"))),
        ("ruff", "E702", add(("c", "x = 1; y = 2"))),
        (
            "docstring_arguments",
            "DOC103",
            module_with(DEF.replace('"Doc."', '"Doc.\\n\\n    Args:\\n        y: what?"')),
        ),
    ],
)
def test_the_list_of_what_is_to_be_rewritten_only_shrinks(
    rule: str, word: str, plant: Plant, small_book: Path, tmp_path: Path, monkeypatch: object
) -> None:
    root = tmp_path / "book"
    shutil.copytree(small_book, root)
    monkeypatch.setitem(STILL, "01_halves", f"{word} E999 DOC199 other")
    [idle] = [f for f in RULES[rule](root) if word in str(f)]
    assert "01_halves no longer breaks" in str(idle)
    assert "other" not in str(idle), "a rule speaks of what it does not check"
    plant(root)
    assert not [f for f in RULES[rule](root) if word in str(f)]


# --- what must not be reported --------------------------------------------------------------------

INNOCENT = {
    "measured_numbers": [
        "A 3×3 matrix.",
        "Shapes 784×10 and 5 × 784.",
        "In the 1990s.",
        "Rows of 0s and 1s.",
        "Takes 10 minutes.",
        "Twice: 2×n of them.",
        "`5 ms`",
        "$5 \\times 3$",
        "$n = 5$",
        "```\n5 ms\n```",
        "[x](https://a.org/5%20ms)",
        "Step 3 shows it.",
        "torch 2.13 says so.",
        "A mark: <!-- v slow:.1f -->2.5<!-- /v --> ms and **<!-- v slow:.1f -->2.5<!-- /v -->**×.",
    ],
    "marks": [
        "Write `<!-- v acc:.1% -->?<!-- /v -->` there.",
        "| a | <!-- v slow -->2.5<!-- /v --> |",
        "# A <!-- v slow -->2.5<!-- /v -->",
    ],
    "portable_markdown": [
        "1. one\n2. two\n\nIt is 12. Too much.",
        "1. one\n\n    two",
        '`f"{acc}"` and `{name}` are code.',
        "```python\nx = {}\n```",
        "A set {a, b} of things.",
    ],
    "tables": [
        "| a | b |\n|---|---|\n| `#\\| timing` | c |",
        "```\n| a |\n|---|\n| b | c |\n```",
        "Either a | b holds.",
    ],
    "words": [
        "An exercise is otherwise precise; we promise and advise.",
        "![a picture](x.png)",
        "$n!$ grows.",
        "Programmers realize that.",
    ],
    "internal_links": [
        "[x](https://github.com/someone/book)",
        "[x](mailto:a@b.org)",
        "[x](../README.md)",
        "[x](exercises/01_halves.ipynb)",
    ],
}


@pytest.mark.parametrize(
    "rule, text", [(rule, text) for rule, texts in INNOCENT.items() for text in texts]
)
def test_the_innocent_pass(rule: str, text: str, small_book: Path, tmp_path: Path) -> None:
    root = tmp_path / "book"
    shutil.copytree(small_book, root)
    add(("m", f"So: {text}" if not re.match(r"[#|`]", text) else text))(root)
    assert [str(f) for f in RULES[rule](root)] == []


TYPED = (
    "from typing import TYPE_CHECKING\n\n"
    "if TYPE_CHECKING:\n"
    "    from fromfound.halves import Halver\n"
)
SILENT = [
    ("spelling", "an output", add(("c", "x = 1", shown("'the colour'")))),  # codespell:ignore
    ("spelling", "an address", say("[x](https://a.org/the-colour)")),  # codespell:ignore
    ("ruff", "a long directive", add(("c", f"#| fig-alt: {'long ' * 30}\nx = 1"))),
    ("ruff", "a function of the chapter", add(("c", "def third(x):\n    return x / 3"))),
    (
        "ruff",
        "late, again, and shown",
        add(("c", "import os\n\nx = 1\nos"), ("c", "import os\nos")),
    ),
    ("cells_import_down", "a type", add(("c", TYPED), file="nbs/00a_tools.ipynb", at=4)),
    ("layers", "a type", replace("fromfound/tools.py", "def double", f"{TYPED}\n\ndef double")),
    (
        "defined_once",
        "two experiments",
        write("fromfound/experiments/halves.py", "__all__ = ['double']\n\n\ndef double(): ...\n"),
    ),
    ("plain_expressions", "one", add(("c", "x = [1 if a else 2, 3 if b else 4]"))),
    (
        "main_track",
        "a fold",
        add(("m", "<details><summary>More</summary>\n\n" + "Words. " * 12_000 + "\n</details>")),
    ),
    ("dense_code", "a short page", add(("c", "x = [1, 2, 3, 4, 5, 6]"))),
    (
        "docstring_arguments",
        "stars",
        module_with(
            DEF.replace("x: float", "*x: float").replace(
                '"Doc."', '"Doc.\\n\\n    Args:\\n        x: what?"'
            )
        ),
    ),
]


@pytest.mark.parametrize(
    "rule, plant", [pytest.param(rule, plant, id=f"{rule}: {name}") for rule, name, plant in SILENT]
)
def test_what_is_meant_so_passes(rule: str, plant: Plant, small_book: Path, tmp_path: Path) -> None:
    root = tmp_path / "book"
    shutil.copytree(small_book, root)
    plant(root)
    assert [str(f) for f in RULES[rule](root)] == []


SEEING = [
    "(g * y).sum().backward()",
    "y.backward(torch.randn_like(y))",
    "same_as(nn.BatchNorm1d(5), Mine(5), torch.randn(64, 5))",
    "bn = nn.BatchNorm1d(5)\nnn.init.normal_(bn.weight)",
    "mask = torch.ones(3)\nf(mask)",
    "with pytest.raises(RuntimeError):\n    x.sum().backward()",
]


@pytest.mark.parametrize("code", SEEING)
def test_probes_that_see_pass(code: str, small_book: Path, tmp_path: Path) -> None:
    root = tmp_path / "book"
    shutil.copytree(small_book, root)
    add(("c", code), file=CHECKS_FILE, at=4)(root)
    assert RULES["blind_probes"](root) == []
