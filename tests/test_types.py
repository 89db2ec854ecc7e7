"""The public surface in the eyes of a type checker: no error in a user's first script."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.press.book import Finding, modules
from tests.press.to_rewrite import unlisted

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "typed_user.py"


SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def install(folder: Path) -> Path:
    """Copy the package to where programs that run in `folder` import it from."""
    ignore = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(
        ROOT / "fromfound", folder / "site-packages" / "fromfound", ignore=ignore
    )


def pyright(folder: Path, *args: str) -> dict:
    """Run basedpyright in a folder in which the package is installed."""
    mode = SETTINGS["tool"]["basedpyright"]["typeCheckingMode"]
    settings = {"typeCheckingMode": mode, "exclude": ["site-packages"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    beside = Path(sys.executable).parent
    paths = {
        "PATH": os.pathsep.join([str(beside), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(folder / "site-packages"),
    }
    done = subprocess.run(
        [shutil.which("basedpyright", path=str(beside)), "--outputjson", *args],
        cwd=folder,
        env=os.environ | paths,
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
    "a name that is not public": ("Callback, Learner", "Callback, Learner, torch", "Private"),
    "a result": ("predict(x).shape", "predict(x).shapes", "Attribute"),
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What basedpyright says of the script, and of it with each fault, by file name."""
    folder = tmp_path_factory.mktemp("types")
    install(folder)
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


# --- the signatures of the package ----------------------------------------------------------------

# A class whose attributes a checker infers is good enough; a type that is not written is not.
OPEN = re.compile("is unknown|Unknown|annotation is missing")


PLANTED = """
__all__ += ["first", "second"]
def first(x: dict[str, object]) -> list: ...
def second(x: dict[str, object]) -> list[object]: ...
"""


def open_signatures(folder: Path) -> list[tuple[str, str, Finding]]:
    """The public signatures that leave a type open: chapter, the word for it, finding."""
    complete = pyright(folder, "--verifytypes", "fromfound", "--ignoreexternal")
    homes = {f"fromfound.{module.name}": module for module in modules(ROOT)}
    found = []
    for symbol in complete["typeCompleteness"]["symbols"]:
        said = [d["message"] for d in symbol["diagnostics"] if OPEN.search(d["message"])]
        if symbol["isExported"] and symbol["category"] in ("function", "method") and said:
            home = max((h for h in homes if symbol["name"].startswith(f"{h}.")), key=len)
            exercises = "exercises/" if ".exercises." in home else ""
            what = f"{symbol['name']}: {' '.join(said[0].split())}"
            cure = "write what is inside: dict[str, object], Callable[..., Tensor]"
            finding = Finding(homes[home].file, None, what, cure)
            found.append((exercises + homes[home].notebook, "types", finding))
    return found


def test_public_signatures_are_complete(tmp_path: Path) -> None:
    with open(install(tmp_path) / "files.py", "a", encoding="utf-8") as module:
        module.write(PLANTED)
    found = open_signatures(tmp_path)
    planted = [one for one in found if "fromfound.files.first" in str(one[-1])]
    assert len(planted) == 1, "basedpyright does not see a signature that leaves a type open"
    assert not [one for one in found if "fromfound.files.second" in str(one[-1])]
    findings = unlisted(ROOT, "types", [one for one in found if one not in planted])
    if findings:
        pytest.fail("\n".join(map(str, findings)), pytrace=False)
