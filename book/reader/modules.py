"""The package and its Python: modules, imports, definitions, docstrings, lines of code."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from book.reader.notebooks import Finding, order

PACKAGE = "fromfound"


@dataclass(frozen=True)
class Module:
    """An exported module and the notebook it comes from."""

    file: str
    name: str  # "matmul", "exercises.matmul"
    notebook: str  # "01_matmul"
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.source)

    @property
    def order(self) -> tuple[int, str, str]:
        """The place of its notebook, as a key to sort by."""
        return order(self.notebook)

    @property
    def public(self) -> list[str]:
        """The names in `__all__`."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                return ast.literal_eval(node.value)
        return []

    def origin(self, line: int) -> str:
        """Which notebook cell a line comes from, in the words of nbdev's comments."""
        marks = [
            m[1]
            for m in re.finditer(
                r"^# %% \S*?(nbs/\S+ \S+)$", "\n".join(self.source.splitlines()[:line]), re.M
            )
        ]
        return marks[-1].replace(" #", ", cell id ") if marks else f"nbs/{self.notebook}.ipynb"

    def finding(self, line: int, found: str, do: str) -> Finding:
        """A finding about a line of this module: what is wrong, and what to do."""
        return Finding(self.file, None, f"line {line} ({self.origin(line)}): {found}", do)


def modules(root: Path) -> list[Module]:
    """The exported modules of the package in the order of their notebooks."""
    found = []
    for path in sorted((root / "fromfound").rglob("*.py")):
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        source = path.read_text(encoding="utf-8")
        header = re.search(r"File to edit: \S*?([^/\s]+)\.ipynb", source)
        name = path.relative_to(root / "fromfound").with_suffix("").as_posix().replace("/", ".")
        found.append(
            Module(
                path.relative_to(root).as_posix(), name, header[1] if header else path.stem, source
            )
        )
    return sorted(found, key=lambda m: (m.order, m.name))


def docstrings(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """Modules, classes and functions that have a docstring, with it."""
    nodes = (
        n
        for n in ast.walk(tree)
        if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    )
    return [(n, text) for n in nodes if (text := ast.get_docstring(n)) is not None]


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """The numbers of the lines that hold code: no blanks, comments or docstrings.

    A string over several lines counts once.
    """
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in silent:
                lines |= {token.start[0], token.end[0]}
    except (tokenize.TokenError, IndentationError):
        return {
            i
            for i, line in enumerate(source.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#")
        }
    for node, _ in docstrings(tree):
        lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def imports(tree: ast.AST, module: str = "") -> Iterator[tuple[ast.stmt, str, list[str]]]:
    """Imports of our own modules.

    Each is the statement, the module ('matmul', 'exercises.matmul') and the names.

    Args:
        tree: the code.
        module: the module it stands in, which relative imports start from; none for a notebook.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                (node, a.name.removeprefix(PACKAGE).lstrip("."), [])
                for a in node.names
                if a.name.split(".")[0] == PACKAGE
            )
        elif isinstance(node, ast.ImportFrom):
            absolute = node.module or ""
            if node.level:
                home = [PACKAGE, *module.split(".")][: -node.level]
                absolute = ".".join([*home, *([node.module] if node.module else [])])
            if absolute.split(".")[0] == PACKAGE:
                names = [a.name for a in node.names]
                yield node, absolute.removeprefix(PACKAGE).lstrip("."), names


def only_imports(source: str) -> bool:
    """Whether a cell only imports, for running or for type checking."""
    return all(
        isinstance(n, (ast.Import, ast.ImportFrom))
        or (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
        for n in ast.parse(source).body
    )


def defined(source: str) -> list[str]:
    """The functions and classes that a cell defines."""
    return [
        n.name for n in ast.parse(source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
    ]
