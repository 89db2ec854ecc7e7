"""`make chapter N=02`: re-execute chapters in place, store their outputs and what they cost."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from book.reader.notebooks import directives, node_of, read
from book.reader.runs import COSTS, costs
from tests.press.chapters import (
    NOTEBOOKS,
    PACKAGE,
    ROOT,
    RUNS,
    name_of,
    notebooks,
    peak_mib,
    used_modules,
)
from tests.press.machines import USUAL, run_under
from tests.press.rerun import copy_chapters, tree_environment

TIMEOUT = 600  # seconds a cell may take here; the budget is the proof's business


def chosen(number: str) -> list[Path]:
    """Return the notebooks of a number or a name ("02", "exercises/02", "02_autograd")."""
    paths = sorted(p for form in ("_*", "") for p in NOTEBOOKS.glob(f"{number}{form}.ipynb"))
    if not number or not paths:
        known = ", ".join(name_of(path) for path in notebooks())
        raise SystemExit(
            f"no notebook starts with {number!r}; name one like this: make chapter N=02. "
            f"There are {known}"
        )
    return paths


def needs_data(path: Path) -> bool:
    """Return whether the notebook uses a data set, directly or through a module."""
    code = "\n".join(cell.source for cell in read(path).code)
    return "data" in used_modules(path) or "fetch(" in code or "load_mnist(" in code


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    kernel: str = "python3",
    environment: dict | None = None,
) -> tuple[float, float]:
    """Execute `notebook` in place, with a line for each cell.

    Args:
        notebook: what to execute.
        folder: where it runs.
        kernel: name of the kernel.
        environment: of the kernel; by default one that imports the package from the tree.

    Returns:
        Seconds, and peak memory in MiB.
    """
    cost = {"seconds": 0.0, "mib": 0.0}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name=kernel,
        resources={"metadata": {"path": str(folder)}},
    )

    def before(cell, cell_index):
        _, code = directives(cell.source)
        first = next((line for line in code.splitlines() if line.strip()), "")
        print(f"  cell {cell_index + 1:3}  {first[:60]:60}", end="", flush=True)
        cost["start"] = time.perf_counter()

    def after(cell, cell_index, execute_reply):
        elapsed = time.perf_counter() - cost["start"]
        cost["seconds"] += elapsed
        cost["mib"] = peak_mib(client.km.provisioner.pid)
        print(f"{elapsed:8.2f} s {cost['mib']:6.0f} MiB", flush=True)

    client.on_cell_execute, client.on_cell_executed = before, after
    client.execute(env=environment or tree_environment(), stderr=subprocess.DEVNULL)
    return cost["seconds"], cost["mib"]


def refuse_stderr(notebook: nbformat.NotebookNode, name: str) -> None:
    """Stop if a cell wrote to stderr: a stored warning is a fault of the chapter."""
    for index, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise SystemExit(
                    f"{name}, cell {index} wrote to stderr; mend its cause, then run it again:"
                    f"\n{output.text}"
                )


def refuse_what_does_not_hold(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Stop unless the new outputs hold under the usual simulated machines, too."""
    print(f"  again under {' and '.join(USUAL)} …", flush=True)
    with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
        place = Path(folder)
        [copy] = copy_chapters(place, [path])
        nbformat.write(notebook, copy)
        wrong = [message for setting in USUAL for message in run_under(setting, place, [path])]
    if wrong:
        kept = ROOT / "_build" / "refused" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, kept)
        raise SystemExit(
            "\n\n".join(
                [
                    *wrong,
                    (
                        f"{name_of(path)} holds on this machine only, and its file was left as "
                        f"it was; see {kept.relative_to(ROOT)}"
                    ),
                ]
            )
        )


def run_tool(name: str, *args: str) -> None:
    """Run a program of this environment in the root, and stop if it fails."""
    program = shutil.which(name, path=Path(sys.executable).parent)
    if subprocess.run([program, *args], cwd=ROOT).returncode:
        raise SystemExit(f"{name} {' '.join(args)} failed; its output is above")


def store_cost(name: str, seconds: float, mib: float) -> None:
    """Write what a chapter costs into book/runs/chapters.json."""
    known = costs(ROOT) | {name: {"peak_mb": 10 * round(mib / 10), "seconds": round(seconds, 1)}}
    text = json.dumps(known, indent=1, sort_keys=True) + "\n"
    (RUNS / COSTS).write_text(text, encoding="utf-8")


def rewrite(path: Path) -> None:
    """Execute one notebook and store its outputs; the file stays as it was if a cell fails."""
    name = name_of(path)
    # Where it is unset, fetch warns of a stand-in.
    if os.environ.get("FROMFOUND_DATA") == "standin" and needs_data(path):
        raise SystemExit(
            f"{name} uses data, and stored outputs come from real data only: "
            "set FROMFOUND_DATA to a folder that holds the data sets (nbs/00a_data.ipynb "
            "says which), then run this again"
        )
    print(name)
    notebook = node_of(path)
    try:
        seconds, mib = execute(notebook, path.parent)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise SystemExit(f"\n{error}\n{name} failed, and its file was left as it was") from None
    refuse_stderr(notebook, name)
    refuse_what_does_not_hold(notebook, path)
    nbformat.write(notebook, path)
    run_tool("nbdev_clean", "--fname", str(path))
    if (PACKAGE / "record.py").exists():
        run_tool("python", "-m", "fromfound.record", "sync", str(path))
    store_cost(name, seconds, mib)
    print(f"{name}: {seconds:.1f} s, {mib:.0f} MiB at its peak; outputs stored")


def main() -> None:
    """Re-execute the chapters whose number stands on the command line."""
    paths = chosen("".join(sys.argv[1:]))
    run_tool("nbdev_export")
    for path in paths:
        rewrite(path)


if __name__ == "__main__":
    main()
