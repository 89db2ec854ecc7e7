"""Every exercise: its stub fails, its solution passes, every known mistake is named.

Faults planted in each are reported.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fromfound.check import Exercise, MutantHunt, Prediction
from book.reader.notebooks import Cell, Notebook, notebooks
from tests.press.exercises import (
    Card,
    cards,
    frame_problems,
    mistake_problems,
    namespace,
    solution_problems,
    stub_problems,
)

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = [n for n in notebooks(ROOT) if n.is_chapter]
DECK = [pytest.param(n, c, id=f"{n.path.stem} {c.number}") for n in CHAPTERS for c in cards(n)]


@pytest.mark.parametrize("notebook, card", DECK)
def test_exercise(notebook: Notebook, card: Card) -> None:
    names = namespace(notebook, card)
    check = getattr(names.get("check"), card.check, None)
    if check is None or card.stub is None or len(card.solutions) != 1:
        pytest.fail(
            (
                f"{card.number} is not complete: it needs a stub, one solution, and "
                f"check.{card.check} in nbs/exercises/{notebook.path.name}"
            ),
            pytrace=False,
        )
    problems = frame_problems(card, check) or stub_problems(card, names) + solution_problems(
        card, names
    ) + mistake_problems(card, check)
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.mark.parametrize("notebook", [n for n in CHAPTERS if cards(n)], ids=lambda n: n.path.stem)
def test_each_check_has_its_card(notebook: Notebook) -> None:
    deck = cards(notebook)
    module = namespace(notebook, deck[-1])["check"]
    checks = {name for name in dir(module) if name.startswith("ex_")}
    assert checks == {card.check for card in deck}, (
        f"{notebook.file} and {module.__name__} do not hold the same exercises"
    )
    misnamed = [
        name
        for name in checks
        if getattr(getattr(module, name), "name", None)
        != name.removeprefix("ex_").replace("_", ".")
    ]
    assert not misnamed, f"{module.__name__}: {misnamed} print another number than their own"


# --- planted faults -------------------------------------------------------------------------------

STUB = "def half(x):\n    return x\n\ncheck.ex_1_1(half)"
SOLUTION = "def half(x):\n    return x / 2\n"


def make_card(stub: str = STUB, solution: str = SOLUTION) -> Card:
    statement = Cell("x.ipynb", 1, "markdown", "", "### Exercise 1.1 · Halve", ())
    return Card(
        statement,
        "1.1",
        None,
        Cell("x.ipynb", 2, "code", "", stub, ()),
        {"The solution": f"\n```python\n{solution}```\n"},
    )


def make_names(check: object) -> dict:
    return {"check": SimpleNamespace(ex_1_1=check)}


def right(x: float) -> float:
    return x / 2


def floored(x: float) -> float:
    return x // 2


def doubled(x: float) -> float:
    return x * 2


HALVE = Exercise("1.1", right, [(4.0,), (3.0,)], {"you round down": floored, "you double": doubled})


def test_a_sound_exercise_has_no_problems() -> None:
    card, names = make_card(), make_names(HALVE)
    assert (
        stub_problems(card, names) + solution_problems(card, names) + mistake_problems(card, HALVE)
        == []
    )


def test_a_check_without_a_frame_is_reported() -> None:
    assert (
        "has no .name, .judge, .wrong. Build it with Exercise"
        in frame_problems(make_card(), print)[0]
    )
    assert frame_problems(make_card(), HALVE) == []


def test_a_stub_that_passes_is_reported() -> None:
    assert (
        "passes its own check"
        in stub_problems(make_card(stub=SOLUTION + "check.ex_1_1(half)"), make_names(HALVE))[0]
    )


def test_a_stub_that_does_not_print_is_reported() -> None:
    class Silent:
        judge = HALVE.judge

        def __call__(self, fn: object) -> None:
            pass

    assert "does not print" in stub_problems(make_card(), make_names(Silent()))[0]


def test_a_stub_that_raises_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        stub_problems(make_card(stub="1 / 0\n" + STUB), make_names(HALVE))


def test_a_wrong_solution_is_reported() -> None:
    assert (
        "solution of 1.1 in its fold fails"
        in solution_problems(
            make_card(solution="def half(x):\n    return x // 2\n"), make_names(HALVE)
        )[0]
    )


def test_a_solution_of_something_else_is_reported() -> None:
    assert (
        "fold fails" in solution_problems(make_card(solution="other = 1\n"), make_names(HALVE))[0]
    )


def test_a_mistake_that_is_not_named_is_reported() -> None:
    twins = Exercise(
        "1.1",
        right,
        [(3.0,)],
        {"you round down": floored, "you drop the fraction": lambda x: x // 2},
    )
    assert mistake_problems(make_card(), twins) == [
        "1.1 does not name the mistake 'you drop the fraction', it says "
        "['1.1: not yet', '  called with  3.0', '  yours        1.0', '  expected     1.5', "
        "'  It looks as if you round down.']. Give it a case that tells it from the others."
    ]


def test_an_exercise_without_mistakes_is_reported() -> None:
    assert (
        "knows no mistake" in mistake_problems(make_card(), Exercise("1.1", right, [(3.0,)], {}))[0]
    )


def test_a_reply_that_never_comes_is_reported() -> None:
    prediction = Prediction(
        "1.1", 4.0, {"That is the mean.": 2.0, "That is the median.": 2.0}, "because"
    )
    assert "'That is the median.'" in mistake_problems(make_card(), prediction)[0]


def test_a_hunt_names_every_mutant() -> None:
    mutants = {"rounds": floored, "doubles": doubled, "negates": lambda x: -x}
    for need in (3, 2):
        assert mistake_problems(make_card(), MutantHunt("1.1", right, mutants, need)) == []


def test_a_hunt_that_hides_a_mutant_is_reported() -> None:
    class Discreet(MutantHunt):
        def judge(self, check: object) -> SimpleNamespace:
            return SimpleNamespace(passed=False, lines=["one of your mutants lives"])

    assert (
        "does not name the mistake 'rounds'"
        in mistake_problems(make_card(), Discreet("1.1", right, {"rounds": floored}))[0]
    )


def test_a_check_that_accepts_a_mistake_is_reported() -> None:
    class Lenient(Prediction):
        def judge(self, answer: object) -> SimpleNamespace:
            return SimpleNamespace(passed=True, lines=["1.1: correct"])

    assert (
        "accepts the mistake 'That is the mean.'"
        in mistake_problems(
            make_card(), Lenient("1.1", 4.0, {"That is the mean.": 2.0}, "because")
        )[0]
    )


def test_a_solution_may_call_the_check_itself() -> None:
    card = make_card(stub="check.ex_1_1(1.0)", solution="check.ex_1_1(4.0)\n")
    names = make_names(Prediction("1.1", 4.0, {"That is the mean.": 2.0}, "because"))
    assert stub_problems(card, names) + solution_problems(card, names) == []


def test_long_feedback_is_reported() -> None:
    class Talker:
        wrong = {"it": 1}

        def judge(self, answer: object) -> SimpleNamespace:
            return SimpleNamespace(passed=False, lines=["it"] * 7)

    assert "7 lines; expected at most 6" in mistake_problems(make_card(), Talker())[0]


def test_the_cells_above_give_names_but_do_not_run() -> None:
    above = Cell(
        "x.ipynb", -1, "code", "", "import math\ntable = 1 / 0\ndef third(x):\n    return x / 3", ()
    )
    exported = Cell("x.ipynb", 0, "code", "", "#| export\nTHREE = 3", ())
    card = make_card()
    names = namespace(
        Notebook("x.ipynb", Path("x.ipynb"), (above, exported, card.statement, card.stub), None),
        card,
    )
    assert names["third"](3) == 1
    assert "math" in names
    assert "table" not in names
    assert names["THREE"] == 3
