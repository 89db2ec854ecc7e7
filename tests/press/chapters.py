"""The chapters: where they are, what they depend on, what they may cost."""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

from book.reader import notebooks as reader
from book.reader.modules import imports
from book.reader.runs import run_files

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "nbs"
PACKAGE = ROOT / "fromfound"
RUNS = ROOT / "book" / "runs"
BUDGET_SECONDS, BUDGET_MIB = 120, 3000  # a chapter on one core, measured when it is stored
STOPPED_AFTER = 5 * BUDGET_SECONDS  # in the proof, whose machine may be slow or busy
WITHOUT_REASON = 60  # seconds; a chapter that takes longer says why in REASONS
ALL_SECONDS = 30 * 60  # all chapters together
REASONS: dict[str, str] = {
    "05a_schedule": "schedules are compared over several seeds each",
    "06a_init": "eight initializations, over five seeds each",
    "07_norm": "networks with and without normalization, over several seeds and learning rates",
    "08_data_block": "reads thousands of image files again and again, and trains on them twice",
    "10d_distributed": "starts two processes three times, and has one of them killed",
}


def mode() -> str:
    """Return "real" where FROMFOUND_DATA names a folder of real data, else "standin"."""
    return "standin" if os.environ.get("FROMFOUND_DATA", "standin") in ("", "standin") else "real"


def notebooks() -> list[Path]:
    """Return the file of every notebook of the book."""
    return [notebook.path for notebook in reader.notebooks(ROOT)]


def name_of(path: Path, folder: Path = NOTEBOOKS) -> str:
    """Return the name of a notebook: `01_matmul`, `exercises/01_matmul`."""
    return path.relative_to(folder).with_suffix("").as_posix()


def module_path(name: str) -> Path:
    """Return the file of the module `name` ("matmul", "exercises.matmul")."""
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def imported_modules(tree: ast.AST, module: str = "") -> set[str]:
    """Return the modules of the package that the code of `module` or of a notebook imports."""
    found = set()
    for _, origin, names in imports(tree, module):
        found |= {origin, *(f"{origin}.{name}".lstrip(".") for name in names)}
    return {name for name in found if name and module_path(name).is_file()}


def closure(trees: Iterable[ast.AST]) -> dict[str, ast.Module]:
    """Return the modules that code imports, directly or through others, with their trees."""
    found, todo = {}, set().union(*map(imported_modules, trees))
    while todo:
        name = todo.pop()
        found[name] = ast.parse(module_path(name).read_text(encoding="utf-8"))
        todo |= imported_modules(found[name], name) - found.keys()
    return found


def used_modules(path: Path) -> dict[str, ast.Module]:
    """Return the modules that a notebook uses, with their trees."""
    return closure(cell.tree for cell in reader.read(path).code if cell.tree)


def fingerprint(path: Path) -> str:
    """Return a hash of all that a notebook's outputs depend on.

    These are its cells, the modules it uses, and recorded runs.
    """
    cells = reader.read(path).code
    parts = [json.dumps([[cell.source, cell.outputs] for cell in cells], sort_keys=True)]
    # The syntax tree leaves out comments: nbdev writes some of its own.
    parts += [ast.dump(tree) for _, tree in sorted(used_modules(path).items())]
    if any("show_run" in cell.source for cell in cells):
        parts += [run.read_text(encoding="utf-8") for run in run_files(ROOT)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def peak_mib(pid: int) -> float:
    """Return the largest resident memory of a process so far, in MiB."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1)) / 2**10
    info = psutil.Process(pid).memory_info()
    return getattr(info, "peak_wset", info.rss) / 2**20  # macOS keeps no peak: what it holds now


def runs_elsewhere(env: dict) -> dict:
    """Return `env` without paths by which a kernel could find another package.

    What remains is the one in its own environment.
    """
    return {name: value for name, value in env.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
