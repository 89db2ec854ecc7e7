"""The rules of the book: functions of a repository root that return their findings.

`python -m tests.press.lint [ROOT]` prints every finding; tests/test_lint.py runs the same rules.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.press import lint_cells, lint_library, lint_prose
from book.reader.notebooks import Finding

Rule = Callable[[Path], list[Finding]]
RULES: dict[str, Rule] = {
    rule.__name__: rule for rule in (*lint_cells.RULES, *lint_prose.RULES, *lint_library.RULES)
}


def main(root: Path) -> int:
    """Print what every rule finds; returns the exit code."""
    count = 0
    for name, rule in RULES.items():
        for finding in rule(root):
            print(f"[{name}] {finding}")
            count += 1
    print(
        f"{count} findings of {len(RULES)} rules" if count else f"{len(RULES)} rules, nothing found"
    )
    return 1 if count else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
