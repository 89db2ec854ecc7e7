"""The book against its own rules: one test a rule."""

import ast
from pathlib import Path

import pytest

from book.reader.modules import modules
from book.reader.notebooks import notebooks
from tests.press.lint import RULES

ROOT = Path(__file__).resolve().parents[1]


def test_there_is_a_book() -> None:
    files = [notebook.file for notebook in notebooks(ROOT)]
    assert "nbs/00_start.ipynb" in files
    assert modules(ROOT), "no modules: the rules would pass over nothing"


READERS = {"configparser", "pybtex", "markdown_it", "mdit_py_plugins", "sphinx_external_toc"}


def test_each_format_has_one_reader() -> None:
    """Site and proof read notebooks, Markdown, papers, contents and settings by `book.reader`."""
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "book" / "_ext").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            second = READERS & {name.partition(".")[0] for name in names}
            assert not second, f"{path.name} reads with {second}: let book/reader do it"


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    findings = "\n".join(map(str, RULES[rule](ROOT)))
    if findings:  # a trace would only hide them
        pytest.fail(findings, pytrace=False)
