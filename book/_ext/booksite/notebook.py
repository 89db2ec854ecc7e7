"""A notebook as the website shows it: no directives, no hidden cells, figures with their words."""

from nbformat import NotebookNode

from book.reader.folds import caption
from book.reader.notebooks import QUOTE, directives

from .book import Book
from .symbols import exported

# Said below the output.
KINDS = {"varies": "differs from machine to machine", "timing": "times of one machine"}
PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "image/gif")


def shown(docname: str, book: Book) -> dict:
    """The notebook of a page, without what only programs read.

    Each remaining code cell says in its metadata, under `book`, what it exports, what its fold is
    called (nothing where it is open), and the words for a drawing that is HTML.
    """
    notebook, cells = book.chapters[docname].notebook.node, []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        marks, code = directives(cell.source)
        if "hide" in marks or "default_exp" in marks:
            continue
        cells.append(_code_cell(cell, marks, code, docname, book))
    return notebook | {"cells": cells}


def _code_cell(
    cell: NotebookNode, marks: dict[str, str], code: str, docname: str, book: Book
) -> dict:
    outputs = [o for o in cell.outputs if QUOTE not in o.get("data", {})]
    module = book.chapters[docname].module
    drawn = any(kind in o.get("data", {}) for o in outputs for kind in PICTURES)
    facts = {"fold": caption(marks, code), "alt": "" if drawn else marks.get("fig-alt", "")}
    facts["kind"] = next((KINDS[mark] for mark in marks if mark in KINDS and outputs), "")
    if "export" in marks:
        facts |= {"module": module, "names": [s.name for s in exported(code, module, docname, {})]}
    metadata = {"book": facts, "tags": ["export"] if "export" in marks else []}
    words = {}
    if "fig-alt" in marks:
        words["image"] = {"alt": marks["fig-alt"]}
    elif drawn:
        book.problems.append(
            f"{docname}: a figure without alt text; write `#| fig-alt: what it shows, in one "
            f"line` at the top of its cell, which begins {code.splitlines()[0]!r}"
        )
    if "fig-cap" in marks:
        words["figure"] = {"caption": marks["fig-cap"]}
    if words:
        metadata["mystnb"] = words
    return cell | {"source": code, "outputs": outputs, "metadata": metadata}
