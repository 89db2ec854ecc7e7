"""Re-execute chapters two at a time, one thread each, and collect what they proved."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from book import env
from book.reader.runs import costs
from tests.press.chapters import ROOT, RUNS, mode, name_of
from tests.press.turns import LANES

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def lanes(paths: list[Path], count: int = LANES) -> list[list[Path]]:
    """Deal chapters to lanes, the longest first, each to the lane that has least to do."""
    known = costs(ROOT)
    seconds = {path: known.get(name_of(path), {}).get("seconds", 30.0) for path in paths}
    dealt: list[list[Path]] = [[] for _ in range(min(count, len(paths)))]
    for path in sorted(paths, key=seconds.get, reverse=True):
        min(dealt, key=lambda lane: sum(seconds[p] for p in lane)).append(path)
    return dealt


def copy_chapters(place: Path, paths: list[Path]) -> list[Path]:
    """Copy notebooks of the tree and the recorded runs under `place`.

    Return the copies of the notebooks.
    """
    for run in sorted(RUNS.glob("*.json")):
        copy_to(place, run)
    return [copy_to(place, path) for path in paths]


def copy_to(place: Path, path: Path) -> Path:
    """Copy a file of the tree under `place`, at the same path."""
    target = place / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
    return target


def rerun(
    place: Path, paths: list[Path], environment: dict, *options: object, count: int = LANES
) -> tuple[dict, int]:
    """Re-execute notebooks of the tree that were copied under `place`, `count` at a time.

    Args:
        place: folder with the copies; reports and locks are written into it.
        paths: the notebooks, as they are named in the tree.
        environment: of the kernels.
        options: for the plugin.
        count: how many at a time.

    Returns:
        The report of each chapter that ran, and the largest exit code.
    """
    (place / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    reports, codes, threads = [], [], []
    for number, lane in enumerate(lanes(paths, count)):
        report = place / f"report{number}.json"
        report.unlink(missing_ok=True)
        copies = [place / path.relative_to(ROOT) for path in lane]
        plugins = ("no:nbval", "no:cacheprovider", "no:randomly", "tests.press.nbval_plugin")
        command = [sys.executable, "-m", "pytest", "-q"]
        command += [part for plugin in plugins for part in ("-p", plugin)]
        command += ["-c", place / "pytest.ini", "--rootdir", place, "--report", report]
        command += ["--turns", place, "--lane", number, *options, *copies]
        run = threading.Thread(
            target=lambda c=command: codes.append(stream(c, cwd=ROOT, env=environment)[0])
        )
        run.start()
        reports.append(report)
        threads.append(run)
    for thread in threads:
        thread.join()
    chapters: dict[str, dict] = {}
    for report in reports:
        if report.exists():
            chapters |= json.loads(report.read_text(encoding="utf-8"))["chapters"]
    return chapters, max(codes, default=0)


def register_kernel(python: Path, folder: Path) -> dict[str, str]:
    """Register the kernel "fromfound" of an environment in `folder`; return how it is found."""
    prefix = folder / "kernel"
    env.run_quietly(
        [python, "-m", "ipykernel", "install", "--prefix", prefix, "--name", "fromfound"],
        "registering the kernel",
    )
    return {
        "JUPYTER_PATH": str(prefix / "share" / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),  # nobody's own start-up files
    }


def stream(command: list, **options: object) -> tuple[int, str]:
    """Run `command`, pass its output on as it comes; return its exit code and last line."""
    last, pipe = "", {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    text = {"text": True, "encoding": "utf-8", "errors": "replace"}
    with subprocess.Popen([str(part) for part in command], **pipe, **text, **options) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last


def tree_environment() -> dict:
    """Return the environment of a kernel that imports the package from the tree.

    It has one thread and no progress bars. Where FROMFOUND_DATA is unset it stays so: asking for
    the stand-in would silence its warning, and `make chapter` would store its numbers.
    """
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CI="true") | ONE_THREAD
    if mode() == "real":
        environment["FROMFOUND_DATA"] = str(Path(environment["FROMFOUND_DATA"]).resolve())
    return environment
