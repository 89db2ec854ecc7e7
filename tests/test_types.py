"""The public surface in the eyes of a type checker: no error in a user's first script."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "typed_user.py"


def pyright(folder: Path, *args: str) -> dict:
    """Run basedpyright in a folder where the package is installed, as a user would have it."""
    installed = folder / "site-packages"
    if not installed.exists():
        shutil.copytree(
            ROOT / "fromfound",
            installed / "fromfound",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        settings = {"typeCheckingMode": "standard", "exclude": ["site-packages"]}
        (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    program = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable, *args],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=str(installed)),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


# What is planted in the script, and the rule that must see it.
WRONG = {
    "an attribute of the learner": ("self.learn.loss.item", "self.learn.los.item", "Attribute"),
    "an attribute of the optimizer": ("opt.param_groups", "opt.param_group", "Attribute"),
    "an argument": ("lr=0.1", 'lr="0.1"', "Argument"),
    "an argument that is not there": ("metrics=", "metric=", "Call"),
    "a callback that is none": ("cbs=[Watch()", "cbs=[Watch", "Argument"),
    "a name that is not public": ("Callback, Learner", "Callback, Learner, Metric", "Private"),
    "a result": ("predict(x).shape", "predict(x).shapes", "Attribute"),
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What basedpyright says of the script, and of it with each fault, by file name."""
    folder = tmp_path_factory.mktemp("types")
    text = SCRIPT.read_text(encoding="utf-8")
    (folder / "right.py").write_text(text, encoding="utf-8")
    for i, (old, new, _) in enumerate(WRONG.values()):
        assert old in text
        (folder / f"wrong{i}.py").write_text(text.replace(old, new), encoding="utf-8")
    said: dict[str, list[str]] = {}
    for item in pyright(folder)["generalDiagnostics"]:
        if item["severity"] == "error":
            said.setdefault(Path(item["file"]).stem, []).append(
                f"line {item['range']['start']['line'] + 1}: {item['message']} ({item.get('rule')})"
            )
    return said


def test_a_users_first_script_shows_no_error(reported: dict[str, list[str]]) -> None:
    assert reported.get("right", []) == []


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_use_is_reported(fault: str, reported: dict[str, list[str]]) -> None:
    i, rule = list(WRONG).index(fault), WRONG[fault][-1]
    assert any(rule in line for line in reported.get(f"wrong{i}", [])), reported


def test_the_script_runs(capsys: pytest.CaptureFixture) -> None:
    runpy.run_path(str(SCRIPT))
    assert "are wrong, 3 classes" in capsys.readouterr().out
