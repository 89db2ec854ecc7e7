"""Exercise cards, read from a chapter and put to work.

The stub fails, the printed solution passes, every known mistake is named.
"""

import ast
import contextlib
import io
import re
from dataclasses import dataclass
from typing import Any

from book.reader.notebooks import Cell, Notebook

FOLDS = ("A question", "An idea", "A template", "The solution", "Why this check")
_CARD = re.compile(r"### Exercise (?P<chapter>\d+[a-z]?)\.(?P<count>\d+) · (?P<title>[^\n]+)")
_FACTS = re.compile(
    r"^\*kind: (?P<kind>[^·*]+?) · difficulty (?P<difficulty>[1-5])/5"
    r" · importance (?P<importance>[1-5])/5 · (?P<minutes>\d+) minutes"
    r" · needs: (?P<needs>[^*]+)\*$",
    re.M,
)

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
MAX_FEEDBACK = 6


@dataclass(frozen=True)
class Card:
    """An exercise as a chapter prints it: statement, stub, folds."""

    statement: Cell
    number: str  # "1.3"
    facts: dict[str, str] | None  # None: the line of facts does not have the agreed form
    stub: Cell | None
    folds: dict[str, str]

    @property
    def check(self) -> str:
        """The name of its check: `ex_1_3`."""
        return "ex_" + self.number.replace(".", "_")

    @property
    def solutions(self) -> list[str]:
        """The Python blocks in the fold with the solution."""
        return re.findall(r"^```python\n(.*?)^```", self.folds.get("The solution", ""), re.S | re.M)


def cards(notebook: Notebook) -> list[Card]:
    """The exercise cards of a chapter."""
    starts = [
        i for i, c in enumerate(notebook.cells) if c.kind == "markdown" and _CARD.match(c.source)
    ]
    found = []
    for start in starts:
        rest = notebook.cells[start + 1 :]
        end = next(
            (
                i
                for i, c in enumerate(rest)
                if c.kind == "markdown" and re.match(r"#{1,3} ", c.source)
            ),
            len(rest),
        )
        head, facts = (
            _CARD.match(notebook.cells[start].source),
            _FACTS.search(notebook.cells[start].source),
        )
        stub = next((c for c in rest[:end] if c.kind == "code" and "check.ex_" in c.source), None)
        folded = "\n".join(c.source for c in rest[:end] if c.kind == "markdown")
        folds = dict(
            re.findall(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", folded, re.S)
        )
        found.append(
            Card(
                notebook.cells[start],
                f"{head['chapter']}.{head['count']}",
                facts and facts.groupdict(),
                stub,
                folds,
            )
        )
    return found


# --- at work --------------------------------------------------------------------------------------


def namespace(notebook: Notebook, card: Card) -> dict[str, Any]:
    """What a reader has at hand before a card, as far as it is cheap.

    Of the cells above, the exported ones run whole; of the others, imports, functions and classes.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in (c for c in notebook.code if c.tree and c.number < card.statement.number):
        for statement in cell.tree.body:
            if cell.exported or isinstance(statement, DEFINITIONS):
                # A default or decorator that needs data: an exercise that wants it will say so.
                with contextlib.suppress(NameError):
                    exec(
                        compile(
                            ast.Module([statement], []), f"{cell.file}, cell {cell.number}", "exec"
                        ),
                        names,
                    )
    return names


def _split(card: Card, source: str) -> tuple[list[ast.stmt], ast.Call | None]:
    """The statements of a stub or solution, and the call of the check that may stand last."""
    body = ast.parse(source).body
    call = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    if (
        isinstance(call, ast.Call)
        and ast.unparse(call.func) == f"check.{card.check}"
        and len(call.args) == 1
    ):
        return body[:-1], call
    return body, None


def _answer(card: Card, names: dict[str, Any], solution: str = "") -> tuple[Any, Any]:
    """Run the stub, then the solution, in `names`.

    Returns:
        The check, and what the solution hands to it, or the stub where the solution does not
        call the check.
    """
    stub, stub_call = _split(card, card.stub.source)
    solved, call = _split(card, solution)
    if stub_call is None:
        raise ValueError(f"the stub of {card.number} must end with check.{card.check}(answer)")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(ast.Module(stub, []), f"stub {card.number}", "exec"), names)
        exec(compile(ast.Module(solved, []), f"solution {card.number}", "exec"), names)
    check, answer = (
        eval(compile(ast.Expression(e), f"check {card.number}", "eval"), names)
        for e in (stub_call.func, (call or stub_call).args[0])
    )
    return check, answer


def frame_problems(card: Card, check: Any) -> list[str]:
    """A check has a name, known mistakes and a verdict."""
    missing = [f".{part}" for part in ("name", "judge") if not hasattr(check, part)] + (
        [] if hasattr(check, "wrong") or hasattr(check, "mutants") else [".wrong"]
    )
    return (
        [
            f"check.{card.check} has no {', '.join(missing)}. Build it with Exercise, "
            "Prediction, Search or MutantHunt, or give it a name, a dictionary of named "
            "wrong answers, and judge(answer) -> Verdict."
        ]
        if missing
        else []
    )


def _feedback(check: Any, answer: Any) -> tuple[bool, list[str]]:
    verdict = check.judge(answer)
    return verdict.passed, "\n".join(verdict.lines).splitlines()


def stub_problems(card: Card, names: dict[str, Any]) -> list[str]:
    """The stub runs, is judged wrong, and the cell prints that verdict instead of raising."""
    check, answer = _answer(card, dict(names))
    passed, lines = _feedback(check, answer)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(card.stub.source, f"stub {card.number}", "exec"), dict(names))
    problems = []
    if passed:
        problems.append(
            f"the stub of {card.number} passes its own check. Let it run and give a wrong answer."
        )
    if not passed and "\n".join(lines) not in printed.getvalue():
        problems.append(
            f"the stub of {card.number} does not print its verdict {lines}. End it with "
            f"check.{card.check}(…)."
        )
    return problems + _too_long(card, lines)


def _too_long(card: Card, lines: list[str]) -> list[str]:
    return (
        [
            f"{card.number} answers in {len(lines)} lines; expected at most {MAX_FEEDBACK}. "
            f"Say less: {lines}"
        ]
        if len(lines) > MAX_FEEDBACK
        else []
    )


def solution_problems(card: Card, names: dict[str, Any]) -> list[str]:
    """The solution printed in the fold passes."""
    check, answer = _answer(card, dict(names), card.solutions[0])
    passed, lines = _feedback(check, answer)
    return (
        []
        if passed
        else [
            f"the solution of {card.number} in its fold fails: {lines}. Mend the fold or the check."
        ]
    )


def mistakes(check: Any) -> dict[str, Any]:
    """The known wrong answers of an exercise, by the sentence that names them.

    For a mutant hunt they are checks that let this mutant and too many others live.
    """
    if not hasattr(check, "mutants"):
        return check.wrong
    spare, found = len(check.mutants) - check.need, {}
    for name, mutant in check.mutants.items():
        others = [m for m in check.mutants.values() if m is not mutant]
        found[name] = _accepting(check.right, mutant, *others[len(others) - spare :])
    return found


def _accepting(*accepted: Any) -> Any:
    return lambda candidate: any(candidate is a for a in accepted)


def mistake_problems(card: Card, check: Any) -> list[str]:
    """Each known mistake fails, and reads its own name in the feedback."""
    known, problems = mistakes(check), []
    if not known:
        problems.append(
            f"{card.number} knows no mistake. List at least one wrong answer with its name."
        )
    for name, wrong in known.items():
        passed, lines = _feedback(check, wrong)
        if passed:
            problems.append(
                f"{card.number} accepts the mistake '{name}'. Give its check a case that shows it."
            )
        elif name not in "\n".join(lines):
            problems.append(
                f"{card.number} does not name the mistake '{name}', it says {lines}. Give it "
                "a case that tells it from the others."
            )
        problems += _too_long(card, lines)
    return problems
