"""`make colab`: a few chapters as somebody runs them who opens them on Colab.

There PyTorch is installed and the package is not: the first cell of a chapter installs it. Here
the cell gets the wheel built from this tree in place of the repository's address. The chapters run
in a folder of their own, each from a fresh start; their outputs are not compared.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book import env
from book.reader.notebooks import node_of, notebooks
from book.reader.settings import settings
from tests.press.chapters import ROOT, name_of, runs_elsewhere
from tests.press.execute import execute
from tests.press.rerun import register_kernel
from tests.press.wheel import build

FIRST = ("01", "05")  # and the newest


def chosen() -> list[Path]:
    """Return the chapters to run: the first, one from the middle, and the newest."""
    lessons = [notebook.path for notebook in notebooks(ROOT) if notebook.is_lesson]
    return [p for p in lessons if p.stem.split("_")[0] in FIRST or p == lessons[-1]]


def with_wheel(notebook: nbformat.NotebookNode, wheel: Path) -> nbformat.NotebookNode:
    """Let the first cell of a chapter install `wheel` where it would install from the repository.

    Raises:
        SystemExit: no cell installs the package.
    """
    address = f"git+{settings(ROOT)['git_url']}"
    guards = [cell for cell in notebook.cells if address in cell.source]
    if len(guards) != 1:
        raise SystemExit(f"{len(guards)} cells install {address}; expected the first code cell")
    guards[0].source = guards[0].source.replace(address, str(wheel))
    return notebook


def environment(folder: Path) -> Path:
    """Make an environment with all that the package needs, but without it; return its Python."""
    place = folder / "environment"
    env.make_venv(place)
    python = env.python_of(place)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    env.run_quietly([*pip, "-c", env.constraints(), *env.requirements("run")], "pip")
    return python


def run(path: Path, python: Path, wheel: Path, folder: Path) -> str | None:
    """Run one chapter; return what went wrong, or None."""
    uninstall = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "fromfound"]
    env.run_quietly(uninstall, "pip uninstall")
    place = Path(tempfile.mkdtemp(dir=folder))
    variables = runs_elsewhere(dict(os.environ, CI="true"))
    variables |= register_kernel(python, folder)
    notebook = with_wheel(node_of(path), wheel)
    # nbclient looks for kernels where this process does.
    os.environ["JUPYTER_PATH"] = variables["JUPYTER_PATH"]
    try:
        execute(notebook, place, "fromfound", variables)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"{name_of(path)}: {error}"
    return None


def main() -> int:
    """Run the chapters; the exit code is 0 if every cell ran."""
    started, paths = time.perf_counter(), chosen()
    with tempfile.TemporaryDirectory(prefix="fromfound-") as name:
        folder = Path(name).resolve()
        wheel, python = build(folder), environment(folder)
        wrong = []
        for path in paths:
            print(name_of(path), flush=True)
            wrong += filter(None, [run(path, python, wheel, folder)])
    print("\n\n".join(["", *wrong]))
    names = ", ".join(map(name_of, paths))
    verdict = f"{len(wrong)} failed" if wrong else "every cell ran"
    print(f"make colab: {verdict} in {names}; {time.perf_counter() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
