"""The package as users get it: what the archives hold, what an import costs and touches."""

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from book.reader.modules import modules
from tests.press.wheel import build

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["fromfound", *(f"fromfound.{m.name}" for m in modules(ROOT))]


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the sdist.

    It is the one that FROMFOUND_DIST names, or they are built here from a copy of the tree.
    """
    if "FROMFOUND_DIST" in os.environ:
        return Path(os.environ["FROMFOUND_DIST"])
    return build(tmp_path_factory.mktemp("archives")).parent


def records(folder: str) -> set[str]:
    """The recorded runs, as if they lay in a folder."""
    return {f"{folder}/{p.name}" for p in (ROOT / "book" / "runs").glob("*.*.json")}


def expected_files() -> set[str]:
    """Every file of the package, as named in the archives."""
    return {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "fromfound").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    held = {n for n in names if ".dist-info/" not in n}
    wanted = expected_files() | records("fromfound/runs")
    assert held == wanted, f"missing: {wanted - held}; too much: {held - wanted}"
    assert "fromfound/runs/norm.one_epoch.json" in held
    assert "fromfound/py.typed" in held
    assert any(n.endswith("LICENSE") for n in names), "the license is not in the wheel"


@pytest.mark.slow
def test_the_sdist_holds_the_package_and_its_papers(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    missing = expected_files() | records("book/runs") | {"LICENSE", "README.md", "pyproject.toml"}
    assert not missing - names, f"missing: {missing - names}"


# --- imports --------------------------------------------------------------------------------------

# Importing torch alone loads a good deal; what counts is what our modules add, and what they do to
# the process. (TORCHINDUCTOR_CACHE_DIR is torch's: it sets it when an optimizer is first used, as
# the checks of exercises do.)
PROBE = """
import contextlib, importlib, io, json, os, sys, threading
import torch
torch.manual_seed(0)
def state():
    return {
        "threads": threading.active_count(),
        "rng": torch.get_rng_state().sum().item(),
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "torch threads": torch.get_num_threads(),
        "environment": {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"},
        "folder": os.getcwd(),
        "files": sorted(os.listdir(".")),
        "cuda": torch.cuda.is_initialized(),
    }
report = {}
for module in sys.argv[1:]:
    before, loaded, said = state(), set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        importlib.import_module(module)
    changed = [k for k, v in state().items() if v != before[k]]
    changed += ["the screen"] if said.getvalue() else []
    report[module] = {"added": sorted(set(sys.modules) - loaded), "changed": changed}
print(json.dumps(report))
"""


def probe(modules: list[str], folder: Path, home: Path = ROOT) -> dict[str, dict]:
    """Import modules that lie in `home`, one after the other, in a fresh Python.

    It starts in an empty folder. Return what each loads and changes.
    """
    environment = os.environ | {"PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, *modules],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"importing {', '.join(modules)} fails:\n{done.stderr}"
    return json.loads(done.stdout)


def test_the_probe_sees_side_effects(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "empty"
    home.mkdir(), folder.mkdir()
    (home / "meddling.py").write_text(
        "import os, pandas_of_ours, torch\n"
        "os.environ['A_NAME'] = '1'\n"
        "torch.rand(1)\n"
        "torch.set_default_dtype(torch.float64)\n"
        "open('left.txt', 'w').close()\n"
    )
    (home / "pandas_of_ours.py").write_text("print('hello')")
    report = probe(["meddling"], folder, home)["meddling"]
    assert sorted(report["changed"]) == ["dtype", "environment", "files", "rng", "the screen"]
    assert "pandas_of_ours" in report["added"]


@pytest.mark.slow
def test_imports_have_no_side_effects(tmp_path: Path) -> None:
    changed = {
        module: report["changed"]
        for module, report in probe(MODULES, tmp_path).items()
        if report["changed"]
    }
    assert not changed, f"importing a module changes the process: {changed}"


HEAVY = {
    "matplotlib",
    "pandas",
    "scipy",
    "PIL",
    "IPython",
    "tqdm",
    "urllib",
    "http",
    "multiprocessing",
    "requests",
    "nbdev",
    "fastcore",
    "torchvision",
}


@pytest.mark.slow
@pytest.mark.parametrize("module", [m for m in ("fromfound", "fromfound.matmul") if m in MODULES])
def test_an_import_is_light(module: str, tmp_path: Path) -> None:
    """Under 50 ms over torch: measured by benchmarks/, kept here by what is loaded."""
    added = probe([module], tmp_path)[module]["added"]
    heavy = HEAVY & {name.split(".")[0] for name in added}
    assert not heavy, f"import {module} also loads {sorted(heavy)}: import them where they are used"
    assert len(added) < 30, f"import {module} loads {len(added)} more modules than torch: {added}"


def test_every_module_has_its_test_file() -> None:
    """One stem a chapter. The checks of exercises are tested together."""
    expected = {f"test_{m.name}.py" for m in modules(ROOT) if "." not in m.name}
    missing = expected - {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert not missing, f"write tests/{', tests/'.join(sorted(missing))}: one stem a chapter"


@pytest.mark.parametrize("module", MODULES[1:])
def test_public_names_exist(module: str) -> None:
    found = __import__(module, fromlist=["__all__"])
    missing = [name for name in found.__all__ if not hasattr(found, name)]
    assert not missing, f"{module}.__all__ lists {missing}, which it does not define"
    assert len(set(found.__all__)) == len(found.__all__)


def test_modules_only_define() -> None:
    """Top level of a module: imports, definitions and constants; calls only to make a constant."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for module in modules(ROOT):
        for node in module.tree.body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            asleep = isinstance(node, ast.If) and (
                "__main__" in ast.unparse(node.test) or ast.unparse(node.test) == "TYPE_CHECKING"
            )
            assert isinstance(node, allowed) or docstring or asleep, (
                f"{module.file}, line {node.lineno}: '{ast.unparse(node)[:60]}' runs at "
                "import. Move it into a function."
            )
