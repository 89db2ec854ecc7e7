"""The mutants: mistakes of every kind are planted, and a test that sees nothing is found out."""

import ast
import json
import shutil
from pathlib import Path

import pytest

from tests.press import mutants

CODE = """
def f(x: int, flag: bool = True) -> float:
    "Twice 1 + 1."
    with torch.no_grad():
        y = x.detach() @ w + x.sum(dim=0)
    if x < 3 and flag:
        raise ValueError(f"{x + 1} is small")
    try:
        return torch.where(x, y, -y) * 2
    finally:
        handle.remove()
"""
WANTED = {
    "no_grad forgotten": "with __import__('contextlib').nullcontext():",
    "factors of a product exchanged": "w @ x.detach()",
    "detach forgotten": "y = x @ w",
    "Add becomes Sub": "@ w - x.sum",
    "off by one": "x.sum(dim=1)",
    "Lt becomes LtE": "x <= 3",
    "And becomes Or": "x < 3 or flag",
    "condition negated": "if not (x < 3 and flag):",
    "refusal forgotten": "        pass\n    try",
    "first two arguments exchanged": "torch.where(y, x, -y)",
    "USub becomes UAdd": "+y",
    "Mult becomes Div": "-y) / 2",
    "finally forgotten": "    finally:\n        pass",
    "remove forgotten": "    finally:\n        pass",
    "flag flipped": "flag: bool=False",
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "f.py"
    path.write_text(CODE, encoding="utf-8")
    monkeypatch.setattr(mutants, "source_of", lambda module: path)
    return path


@pytest.mark.parametrize("mistake", WANTED)
def test_each_mistake_is_made(planted: Path, mistake: str) -> None:
    made = [mutants.mutated("f", m["at"]) for m in mutants.mutants("f") if m["mistake"] == mistake]
    assert any(WANTED[mistake] in source for source in made)


def test_a_mutant_differs_in_one_place(planted: Path) -> None:
    before = ast.unparse(ast.parse(CODE)).splitlines()
    for mutant in mutants.mutants("f"):
        after = mutants.mutated("f", mutant["at"]).splitlines()
        assert len(before) == len(after), mutant["mistake"]
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1, mutant["mistake"]


def test_messages_and_annotations_are_left_alone(planted: Path) -> None:
    assert {m["mistake"] for m in mutants.mutants("f")} == set(WANTED)
    assert all(
        "x + 1} is small" in mutants.mutated("f", m["at"])
        for m in mutants.mutants("f")
        if m["mistake"] != "refusal forgotten"
    )


OTHER_MACHINES = """
@experiment(data=("mnist",))
def trial(seed):
    return {"score": seed + 1}

def device():
    if torch.cuda.is_available():
        return 2 ** 20
    elif sys.platform == "win32":
        return first(1, 2)
    return (
        "cuda" if torch.cuda.is_available()
        else "mps" if torch.backends.mps.is_available()
        else names[3]
    )

def known(text):
    return "cuda" in text
"""


def test_what_other_machines_run_and_experiments_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f.py").write_text(OTHER_MACHINES, encoding="utf-8")
    monkeypatch.setattr(mutants, "source_of", lambda module: tmp_path / "f.py")
    made = {mutants.mutated("f", m["at"]) for m in mutants.mutants("f")}
    same = ast.unparse(ast.parse(OTHER_MACHINES))
    assert made == {
        same.replace("names[3]", "names[4]"),
        same.replace("'cuda' in text", "'cuda' not in text"),
    }


def test_a_sample_is_the_same_each_time_and_has_each_kind(planted: Path) -> None:
    assert mutants.sample("f", 99) == mutants.sample("f", 99)
    assert {m["mistake"] for m in mutants.sample("f", len(WANTED))} == set(WANTED)
    assert len(mutants.sample("f", 4)) == 4


@pytest.mark.slow
def test_a_blind_test_lets_mutants_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "STORED", tmp_path / "mutants.json")
    monkeypatch.setattr(mutants, "TESTS", {"rule": ["rule"]})
    folder = tmp_path / "tree"
    (folder / "fromfound").mkdir(parents=True)
    (folder / "tests").mkdir()
    shutil.copy(mutants.ROOT / "pyproject.toml", folder)
    (folder / "fromfound" / "__init__.py").write_text("", encoding="utf-8")
    rule = folder / "fromfound" / "rule.py"
    (tmp_path / "rule.py").write_text(
        "def rule(x):\n    return x - 1 if x > 0 else 0\n", encoding="utf-8"
    )
    shutil.copy(tmp_path / "rule.py", rule)
    monkeypatch.setattr(mutants, "source_of", lambda module: tmp_path / "rule.py")
    (folder / "tests" / "test_rule.py").write_text(
        "from fromfound.rule import rule\n\ndef test_rule():\n    assert rule(5) == 4\n",
        encoding="utf-8",
    )
    mutants.store("rule", mutants.trial("rule", 9, folder))
    done = mutants.stored()
    alive = {s["mistake"] for s in done["survivors"]}
    assert "Gt becomes GtE" in alive
    assert "Sub becomes Add" not in alive
    assert "condition negated" not in alive
    assert done["modules"]["rule"]["tried"] - done["modules"]["rule"]["killed"] == len(
        done["survivors"]
    )
    done["survivors"][0]["reason"] = "equal at zero"
    mutants.STORED.write_text(json.dumps(done), encoding="utf-8")
    mutants.store("rule", mutants.trial("rule", 9, folder))
    assert mutants.stored()["survivors"][0]["reason"] == "equal at zero", "reasons are kept"
    assert rule.read_text(encoding="utf-8").count("x - 1") == 1, "the module is put back"


def test_a_library_that_fails_without_a_mutant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "tested", lambda *args: (True, 1.0))
    with pytest.raises(SystemExit, match="fail on the library as it is"):
        mutants.trial("matmul", 1, mutants.ROOT)


def test_every_module_is_tried_or_says_why_not() -> None:
    modules = {p.stem for p in (mutants.ROOT / "fromfound").glob("*.py")} - {"__init__", "_modidx"}
    assert modules == mutants.TESTS.keys() | mutants.NOT_TRIED.keys()
    files = {f"test_{name}.py" for names in mutants.TESTS.values() for name in names}
    missing = [file for file in sorted(files) if not (mutants.ROOT / "tests" / file).is_file()]
    assert not missing, "write the tests, or name others in ELSE_TESTED"
