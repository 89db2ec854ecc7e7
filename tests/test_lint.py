"""The book against its own rules: one test for each rule and notebook, one for each rule and everything else."""
from functools import lru_cache
from pathlib import Path

import pytest

from tests.press.book import Finding, modules, notebooks
from tests.press.lint import RULES

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = "the rest"
FILES = [n.file for n in notebooks(ROOT)]


@lru_cache(maxsize=None)
def findings(rule: str) -> tuple[Finding, ...]:
    return tuple(RULES[rule](ROOT))


def report(lines: list[str]) -> None:
    "Fail with the findings alone: a trace would only hide them."
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_there_is_a_book() -> None:
    assert "nbs/00_start.ipynb" in FILES and modules(ROOT), "no notebooks or no modules: the rules would pass over nothing"


@pytest.mark.parametrize("file", [*FILES, ELSEWHERE])
@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str, file: str) -> None:
    broken = [str(f) for f in findings(rule) if f.file == file or (file == ELSEWHERE and f.file not in FILES)]
    report(broken)
