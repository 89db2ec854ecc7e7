"""The book against its own rules: one test a rule."""

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


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    findings = "\n".join(map(str, RULES[rule](ROOT)))
    if findings:  # a trace would only hide them
        pytest.fail(findings, pytrace=False)
