"""Rules about notebook cells.

They are clean, small, have their outputs, and use the closed list of directives.
"""

import ast
import io
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

from book.reader.modules import code_lines
from book.reader.notebooks import Cell, Finding, Notebook, notebooks
from book.reader.runs import COSTS, costs
from book.reader.settings import settings
from tests.press.chapters import (
    ALL_SECONDS,
    BUDGET_MIB,
    BUDGET_SECONDS,
    REASONS,
    WITHOUT_REASON,
    name_of,
)
from tests.press.turns import LANES

MAX_MEGABYTES = 1.5
MAX_OUTPUT_LINES = 10
MAX_LINES = 25  # STYLE: most have 12; this is where "most" ends
MAX_EXPORTED_LINES = 40  # a screen; a class may be longer, each of its methods not

COLAB_CELL = """#| hide
import importlib.util
if importlib.util.find_spec("fromfound") is None:  # a fresh Colab machine
    get_ipython().run_line_magic("pip", "install -q git+{git_url}")"""

DIRECTIVES = {
    "default_exp": r"[a-z][\w.]*",
    "export": "",
    "hide": "",
    "fold": "",
    "timing": "",
    "varies": "",
    "tolerance": r"0?\.\d+|\d+e-\d+",
    "fig-alt": r"\S.*",
    "fig-cap": r"\S.*",
}
KNOWN = (
    "default_exp NAME, export, hide, fold, timing, varies, tolerance: 0.02, "
    "fig-alt: TEXT, fig-cap: TEXT"
)
MAX_TOLERANCE = 0.05


def nbdev(command: str, folder: Path) -> None:
    """Run one of nbdev's commands in a folder, with the nbdev of this Python."""
    program = shutil.which(command, path=str(Path(sys.executable).parent)) or command
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} failed in a copy of the tree:\n{done.stdout}{done.stderr}")


def clean_notebooks(root: Path) -> list[Finding]:
    """nbdev_clean changes nothing, and a second time nothing more."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for name in ("settings.ini", "pyproject.toml"):
            shutil.copy(root / name, copy / name)
        shutil.copytree(
            root / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
        stored = [(root / n.file).read_bytes() for n in notebooks(root)]
        nbdev("nbdev_clean", copy)
        once = [(copy / n.file).read_bytes() for n in notebooks(root)]
        nbdev("nbdev_clean", copy)
        for notebook, before, first in zip(notebooks(root), stored, once, strict=True):
            if before != first:
                found.append(
                    Finding(
                        notebook.file,
                        None,
                        "the notebook is not clean",
                        "run nbdev_clean and commit what it leaves",
                    )
                )
            if first != (copy / notebook.file).read_bytes():
                found.append(
                    Finding(
                        notebook.file,
                        None,
                        "cleaning it twice changes it twice",
                        "find the metadata that nbdev_clean keeps rewriting and remove it",
                    )
                )
    return found


def notebook_files(root: Path) -> list[Finding]:
    """Size, kernel, stored outputs at all."""
    found = []
    for notebook in notebooks(root):
        megabytes = notebook.path.stat().st_size / 1e6
        if megabytes >= MAX_MEGABYTES:
            found.append(
                Finding(
                    notebook.file,
                    None,
                    f"{megabytes:.1f} MB; expected less than {MAX_MEGABYTES}",
                    "draw fewer points, or use PNG for image-like panels",
                )
            )
        if notebook.kernel != "python3":
            found.append(
                Finding(
                    notebook.file,
                    None,
                    f"its kernel is {notebook.kernel!r}; expected 'python3'",
                    "set metadata.kernelspec.name to python3, so that it opens everywhere",
                )
            )
        if notebook.is_chapter and not any(c.outputs for c in notebook.code):
            found.append(
                Finding(
                    notebook.file,
                    None,
                    "no cell has stored outputs",
                    (
                        "execute it (make chapter N=…) and keep the outputs: the website is "
                        "built from them"
                    ),
                )
            )
    return found


def chapter_costs(root: Path) -> list[Finding]:
    """What each chapter takes is recorded, and all of them keep to the time a run may take."""
    place, known = f"book/runs/{COSTS}", costs(root)
    names = [name_of(n.path, root / "nbs") for n in notebooks(root)]
    found = [
        Finding(
            place, None, f"no cost of {name}", f"execute it: make chapter N={name.split('_')[0]}"
        )
        for name in names
        if name not in known
    ]
    found += [
        Finding(place, None, f"a cost of {name}, which does not exist", "take the entry out")
        for name in known
        if name not in names
    ]
    for name, cost in known.items():
        if cost["seconds"] > BUDGET_SECONDS or cost["peak_mb"] > BUDGET_MIB:
            found.append(
                Finding(
                    place,
                    None,
                    (
                        f"{name} takes {cost['seconds']:.0f} s and {cost['peak_mb']} MiB; its "
                        f"budget is {BUDGET_SECONDS} s and {BUDGET_MIB} MiB"
                    ),
                    "do less in it, or record the run",
                )
            )
        elif cost["seconds"] > WITHOUT_REASON and name not in REASONS:
            found.append(
                Finding(
                    place,
                    None,
                    f"{name} takes {cost['seconds']:.0f} s; over {WITHOUT_REASON} s needs a reason",
                    "do less in it, or write the reason into REASONS of tests/press/chapters.py",
                )
            )
    total = sum(cost["seconds"] for cost in known.values()) / LANES
    if total > ALL_SECONDS:
        found.append(
            Finding(
                place,
                None,
                (
                    f"all chapters take {total:.0f} s, {LANES} at a time; expected at most "
                    f"{ALL_SECONDS}"
                ),
                "do less in the longest",
            )
        )
    return found


def _owes_output(cell: Cell) -> bool:
    """Whether running the cell certainly prints or shows something.

    It prints or quotes at top level, or ends in a plain value.
    """
    statements = cell.tree.body if cell.tree else []
    calls = [
        s.value.func.id
        for s in statements
        if isinstance(s, ast.Expr)
        and isinstance(s.value, ast.Call)
        and isinstance(s.value.func, ast.Name)
    ]
    if "print" in calls or calls[-1:] == ["quote"]:
        return True
    values = (ast.Tuple, ast.BinOp, ast.Compare, ast.Subscript, ast.List, ast.Dict, ast.JoinedStr)
    return (
        bool(statements)
        and isinstance(statements[-1], ast.Expr)
        and isinstance(statements[-1].value, values)
        and not cell.source.rstrip().endswith(";")
    )


def missing_outputs(root: Path) -> list[Finding]:
    """A cell that shows something has its output stored."""
    return [
        c.finding(
            "it shows a value, but no output is stored",
            "execute the chapter (make chapter N=…) and keep its outputs",
        )
        for n in notebooks(root)
        for c in n.code
        if _owes_output(c) and not c.outputs
    ]


def _text(output: dict) -> str:
    """What an output says in words: a stream, or the text form of a result."""
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return text if isinstance(text, str) else "".join(text)


LITTER = (
    (
        r"\r(?!\n)|\b(?:it|s|batch|batches)/(?:s|it|batch)\b|\d+%\|",
        "the remains of a progress bar",
        "show a final table instead, and let the bar be quiet where nobody watches",
    ),
    (r"\x1b\[", "terminal colors", "print plain text"),
    (
        r"\bat 0x[0-9a-f]{6,}",
        "the address of an object, which is another one each time",
        "show a value, or end the cell with plt.show() or an assignment",
    ),
)
MACHINE_PATH = r"(?<![\w.~])/(?:home|root|tmp|Users|mnt|var/folders)/\w|\b[A-Z]:\\\\?\w"


def output_text(root: Path) -> list[Finding]:
    """No errors, warnings, litter or machine paths in outputs.

    Nor are there more than ten lines of text.
    """
    found = []
    for cell in (c for n in notebooks(root) for c in n.code):
        lines = 0
        for output in cell.outputs:
            if output["output_type"] == "error":
                found.append(
                    cell.finding(
                        f"a stored error, {output['ename']}: {output['evalue'][:80]}",
                        (
                            "mend the cell and execute the chapter again; to show a failure, "
                            "catch it and print it"
                        ),
                    )
                )
            if output.get("name") == "stderr":
                found.append(
                    cell.finding(
                        f"output on stderr: {_text(output).strip()[:80]!r}",
                        "cure the warning, or print what the reader should see",
                    )
                )
            text = _text(output)
            lines += len(text.rstrip("\n").splitlines())
            for pattern, what, cure in LITTER:
                if re.search(pattern, text):
                    found.append(cell.finding(f"the output holds {what}", cure))
            # The workshop may show one.
            if "STAND-IN" in text and not Path(cell.file).name.startswith("00"):
                found.append(
                    cell.finding(
                        "the output comes from stand-in data",
                        (
                            "let FROMFOUND_DATA name the folder of the real data and execute the "
                            "chapter again"
                        ),
                    )
                )
            if path := re.search(MACHINE_PATH, text):
                found.append(
                    cell.finding(
                        (
                            "the output shows a path of this machine, "
                            f"{text[path.start() : path.start() + 40].split()[0]!r}"
                        ),
                        "print the file's name, or the path relative to a folder of the book",
                    )
                )
        if lines > MAX_OUTPUT_LINES:
            found.append(
                cell.finding(
                    f"{lines} lines of output; expected at most {MAX_OUTPUT_LINES}",
                    "show the part that the text talks about",
                )
            )
    return found


def _longest_part(cell: Cell) -> tuple[int, int]:
    """The code lines that count for a cell, and its limit.

    An exported class may be long, its methods may not.
    """
    lines = code_lines(cell.source, cell.tree)
    if not cell.exported:
        return len(lines), MAX_LINES
    parts = [
        set(range(f.lineno, f.end_lineno + 1)) & lines
        for f in ast.walk(cell.tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    classes = [
        set(range(c.lineno, c.end_lineno + 1))
        for c in cell.tree.body
        if isinstance(c, ast.ClassDef)
    ]
    loose = lines.difference(*parts, *classes)
    return max(len(part) for part in (loose, *parts)), MAX_EXPORTED_LINES


def cell_source(root: Path) -> list[Finding]:
    """Code cells parse, are short, use ASCII names and no paths of a machine."""
    found = []
    for cell in (c for n in notebooks(root) for c in n.code):
        if cell.tree is None:
            found.append(cell.finding("the cell is not Python", "mend the syntax"))
            continue
        count, limit = _longest_part(cell)
        if count > limit:
            found.append(
                cell.finding(
                    (
                        f"{count} lines of code in one "
                        f"{'exported function or table' if cell.exported else 'cell'}; expected "
                        f"at most {limit}"
                    ),
                    "split it: one idea a cell, about 12 lines",
                )
            )
        names = {
            t.string
            for t in tokenize.generate_tokens(io.StringIO(ast.unparse(cell.tree)).readline)
            if t.type == tokenize.NAME
        }
        if odd := sorted(n for n in names if not n.isascii()):
            found.append(
                cell.finding(
                    f"names that are not ASCII: {', '.join(odd)}", "spell them out, as sigma for σ"
                )
            )
        if path := re.search(MACHINE_PATH, cell.source):
            found.append(
                cell.finding(
                    (
                        "a path of one machine, "
                        f"{cell.source[path.start() : path.start() + 40].split()[0]!r}"
                    ),
                    "use fetch, tempfile or a path relative to the book",
                )
            )
    return found


# --- directives -----------------------------------------------------------------------------------


def _check_directive(cell: Cell, line: str) -> Finding | None:
    name, colon, value = re.match(r"([\w-]*)\s*(:?)\s*(.*)", line).groups()
    if name not in DIRECTIVES:
        return cell.finding(
            f"unknown directive '#| {line}'", f"use one of the closed list ({KNOWN}), or none"
        )
    needs_colon = name in ("tolerance", "fig-alt", "fig-cap")
    if not re.fullmatch(DIRECTIVES[name], value) or bool(colon) != needs_colon:
        return cell.finding(
            f"directive '#| {line}' does not have its form",
            f"write it as in the closed list: {KNOWN}",
        )
    return None


def kinds_of_numbers(root: Path) -> list[Finding]:
    """A cell's numbers are of one kind; a tolerance is small; what varies is not quoted."""
    cure = (
        "measure over seeds and print a spread, or mark the cell `#| varies` "
        "(nbs/00d_record.ipynb, 'Four kinds of numbers')"
    )
    found = []
    for cell in (c for n in notebooks(root) for c in n.code):
        kinds = [name for name in cell.marks if name in ("tolerance", "timing", "varies")]
        if len(kinds) > 1:
            found.append(
                cell.finding(
                    f"two kinds of numbers in one cell, {' and '.join(kinds)}", "split the cell"
                )
            )
        for line in cell.directives:
            value = line.removeprefix("tolerance:").strip()
            if (
                line.startswith("tolerance:")
                and re.fullmatch(DIRECTIVES["tolerance"], value)
                and float(value) > MAX_TOLERANCE
            ):
                found.append(
                    cell.finding(
                        f"a tolerance of {value}; at most {MAX_TOLERANCE} proves anything", cure
                    )
                )
        if "varies" in kinds and (re.search(r"\bquote\(", cell.source) or cell.shows_quote):
            found.append(
                cell.finding("it quotes a number that varies from machine to machine", cure)
            )
    return found


def directives(root: Path) -> list[Finding]:
    """Only the closed list, only at the top of a cell; `export` and `default_exp` stand alone."""
    found = []
    for cell in (c for n in notebooks(root) for c in n.code):
        found += [problem for line in cell.directives if (problem := _check_directive(cell, line))]
        below = cell.source.splitlines()[len(cell.directives) :]
        if late := [line.strip() for line in below if re.match(r"\s*#\s?\|", line)]:
            found.append(
                cell.finding(
                    f"a directive below the top of the cell: '{late[0]}'",
                    "move it to the first lines, written `#| name`",
                )
            )
        for alone in ("export", "default_exp"):
            named = [d for d in cell.directives if d.split()[:1] == [alone]]
            if named and (
                len(cell.directives) > 1
                or (alone == "default_exp" and any(line.strip() for line in below))
            ):
                found.append(
                    cell.finding(
                        f"'#| {named[0]}' is not alone",
                        "keep it as the only directive: others would leak into the package"
                        if alone == "export"
                        else "give it a cell of its own",
                    )
                )
    return found


def cleared_outputs(root: Path) -> list[Finding]:
    """No cell calls `clear_output`.

    What runs a cell to store its outputs obeys it, what compares them later does not: the two
    never agree.
    """
    found = []
    for cell in (c for n in notebooks(root) for c in n.code if c.tree):
        nodes = list(ast.walk(cell.tree))
        used = {getattr(n, "id", None) or getattr(n, "attr", None) for n in nodes}
        used |= {a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names}
        if "clear_output" in used:
            cure = "print less, or draw once at the end: its stored outputs can't be compared"
            found.append(cell.finding("it uses `clear_output`", cure))
    return found


def default_exp(root: Path) -> list[Finding]:
    """One module a notebook, one notebook a module; what exports has a module to export to."""
    found, seen = [], {}
    for notebook in notebooks(root):
        named = [
            (c, d.split()[-1])
            for c in notebook.code
            for d in c.directives
            if d.startswith("default_exp")
        ]
        for cell, module in named:
            stem = notebook.path.stem.partition("_")[2]
            wanted = f"{notebook.room}.{stem}" if notebook.room else stem
            if module != wanted:
                found.append(
                    cell.finding(
                        f"module {module!r} in a notebook whose stem is {stem!r}",
                        f"write `#| default_exp {wanted}`, or rename the notebook: "
                        "a chapter has one stem",
                    )
                )
            if module in seen:
                found.append(
                    cell.finding(
                        f"module {module!r} is already the module of {seen[module]}",
                        "choose another name: nbdev would append for ever",
                    )
                )
            seen[module] = notebook.file
        if not named and any(c.exported for c in notebook.code):
            found.append(
                Finding(
                    notebook.file,
                    None,
                    "cells are exported, but to no module",
                    "add a cell with `#| default_exp NAME`",
                )
            )
    return found


def colab_cell(root: Path) -> list[Finding]:
    """Each notebook opens with the cell that installs the package where it is missing.

    The address is the one in settings.ini.
    """
    expected = COLAB_CELL.format(git_url=settings(root)["git_url"])
    found = []
    for notebook in notebooks(root):
        if not notebook.code or notebook.code[0].source.strip() != expected:
            cell = notebook.code[0].number if notebook.code else None
            found.append(
                Finding(
                    notebook.file,
                    cell,
                    "the first code cell is not the Colab cell",
                    f"make it exactly:\n{expected}\n(the address is git_url of settings.ini)",
                )
            )
    return found


def _has_picture(cell: Cell) -> bool:
    forms = [form for o in cell.outputs for form in o.get("data", {}).items()]
    return any(
        k.startswith("image/")
        or (k == "text/html" and re.search(r"<(?:svg|img|canvas)\b", "".join(v)))
        for k, v in forms
    )


def figures(root: Path) -> list[Finding]:
    """Every picture says in words what it shows."""
    found = []
    for notebook in notebooks(root):
        for cell in notebook.code:
            said = {name: text for name, text in cell.marks.items() if name.startswith("fig-")}
            if _has_picture(cell) and len(said.get("fig-alt", "")) < 20:
                found.append(
                    cell.finding(
                        "a picture without a description",
                        (
                            "add `#| fig-alt: …` at the top: one line that tells a reader who "
                            "cannot see it what it shows"
                        ),
                    )
                )
            if said and not _has_picture(cell):
                found.append(
                    cell.finding(
                        "a description, but no picture is stored",
                        "execute the chapter, or remove `#| fig-alt` and `#| fig-cap`",
                    )
                )
        found += _markdown_pictures(notebook)
    return found


def _markdown_pictures(notebook: Notebook) -> list[Finding]:
    bare = r"!\[\s*\]\(|<img\b(?![^>]*\balt=[\"'][^\"'])"
    return [
        c.finding("a picture without a description", "write one: ![what it shows](address)")
        for c in notebook.markdown
        if re.search(bare, c.source)
    ]


RULES = (
    clean_notebooks,
    notebook_files,
    chapter_costs,
    missing_outputs,
    output_text,
    cell_source,
    kinds_of_numbers,
    directives,
    cleared_outputs,
    default_exp,
    colab_cell,
    figures,
)
