"""The chapters: where they are, what they depend on, what they may cost."""

import ast
import hashlib
import json
import os
import re
from pathlib import Path

import psutil

from tests.press.book import ROOMS

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "nbs"
PACKAGE = ROOT / "fromfound"
RUNS = ROOT / "book" / "runs"
BUDGET_SECONDS, BUDGET_MB = 120, 3000  # a chapter on one core
WITHOUT_REASON = 60  # seconds; a chapter that takes longer says why in REASONS
ALL_SECONDS = 30 * 60  # all chapters together
REASONS: dict[str, str] = {}

IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(fromfound[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]*)"
    r"|import[ \t]+(fromfound[\w.]*))",
    re.M,
)


def mode() -> str:
    """Return "real" where FROMFOUND_DATA names a folder of real data, else "standin"."""
    return "standin" if os.environ.get("FROMFOUND_DATA", "standin") in ("", "standin") else "real"


def notebooks() -> list[Path]:
    """Return every notebook of the book: chapters, then exercises, then experiments."""
    return [p for room in ("", *ROOMS) for p in sorted((NOTEBOOKS / room).glob("*.ipynb"))]


def name_of(path: Path, folder: Path = NOTEBOOKS) -> str:
    """Return the name of a notebook: `01_matmul`, `exercises/01_matmul`."""
    return path.relative_to(folder).with_suffix("").as_posix()


def code_cells(path: Path) -> list[dict]:
    """Return the code cells of a notebook as stored."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def imported_modules(code: str) -> set[str]:
    """Return the modules of the package that `code` imports.

    They are dotted names without `fromfound.`.
    """
    found = set()
    for package, names, plain in IMPORT.findall(code):
        parts = [name.split()[0] for name in names.strip("() \n").split(",") if name.strip()]
        dotted = [package or plain, *(f"{package}.{part}" for part in parts)]
        found |= {name.removeprefix("fromfound").removeprefix(".") for name in dotted}
    return {name for name in found if name and module_path(name).is_file()}


def module_path(name: str) -> Path:
    """Return the file of the module `name` ("matmul", "exercises.matmul")."""
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def closure(code: str) -> set[str]:
    """Return the modules that `code` imports, directly or through others."""
    seen, todo = set(), imported_modules(code)
    while todo:
        name = todo.pop()
        seen.add(name)
        todo |= imported_modules(module_path(name).read_text(encoding="utf-8")) - seen
    return seen


def fingerprint(path: Path) -> str:
    """Return a hash of all that a notebook's outputs depend on.

    These are its cells, the modules it uses, and recorded runs.
    """
    cells = code_cells(path)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    parts = [json.dumps([[cell["source"], cell["outputs"]] for cell in cells], sort_keys=True)]
    # The syntax tree leaves out comments: nbdev writes some of its own.
    parts += [
        ast.dump(ast.parse(module_path(name).read_text(encoding="utf-8")))
        for name in sorted(closure(code))
    ]
    if "show_run" in code:
        parts += [
            run.read_text(encoding="utf-8")
            for run in sorted(RUNS.glob("*.json"))
            if run.name != "chapters.json"
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def peak_mb(pid: int) -> float:
    """Return the largest resident memory of a process so far, in MB."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text()).group(1)) / 1000
    info = psutil.Process(pid).memory_info()
    return getattr(info, "peak_wset", info.rss) / 1e6  # macOS keeps no peak: what it holds now


def runs_elsewhere(env: dict) -> dict:
    """Return `env` without paths by which a kernel could find another package.

    What remains is the one in its own environment.
    """
    return {name: value for name, value in env.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
