"""The book against its own rules: one test a rule."""

from pathlib import Path

import pytest

from tests.press.book import modules, notebooks
from tests.press.lint import RULES
from tests.press.to_rewrite import LONG_MODULES, STILL, chapter_of

ROOT = Path(__file__).resolve().parents[1]


def test_there_is_a_book() -> None:
    files = [notebook.file for notebook in notebooks(ROOT)]
    assert "nbs/00_start.ipynb" in files
    assert modules(ROOT), "no modules: the rules would pass over nothing"


def test_what_is_to_be_rewritten_exists() -> None:
    assert set(STILL) <= {chapter_of(notebook.file) for notebook in notebooks(ROOT)}
    assert set(LONG_MODULES) <= {module.name for module in modules(ROOT)}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    findings = "\n".join(map(str, RULES[rule](ROOT)))
    if findings:  # a trace would only hide them
        pytest.fail(findings, pytrace=False)
