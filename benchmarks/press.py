"""What the press costs: importing the package, building the site, re-executing the chapters.

`python benchmarks/press.py` prints JSON: seconds over `import torch` for each import with its
target, seconds of the site build per chapter, and seconds and peak memory of each chapter under
nbval.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from book import env  # noqa: E402
from tests.press.chapters import notebooks  # noqa: E402
from tests.press.prove import Proof  # noqa: E402

IMPORT_MARK, SITE_MARK, ROUNDS = 0.05, 10.0, 7


def import_seconds(statement: str) -> float:
    """Time of a statement in a fresh Python that has imported torch, in seconds."""
    code = (
        f"import time, torch; start = time.perf_counter(); {statement}; "
        "print(time.perf_counter() - start)"
    )
    return float(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
    )


def imports() -> dict:
    """Seconds that an import adds to `import torch`: the shortest of several, in turns."""
    names = ("fromfound", "fromfound.matmul", "fromfound.autograd", "fromfound.data")
    rounds = [{name: import_seconds(f"import {name}") for name in names} for _ in range(ROUNDS)]
    seconds = {name: round(min(r[name] for r in rounds), 4) for name in names}
    return {
        "seconds_over_torch": seconds,
        "mark": f"<= {IMPORT_MARK}",
        "met": max(seconds.values()) <= IMPORT_MARK,
    }


def site() -> dict:
    """Seconds of a site build from nothing, in all and for each notebook."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [env.ensure("book"), "-m", "booksite.build", "build", "--out", folder]
        subprocess.run(
            command, cwd=ROOT, env=env.variables("book"), check=True, capture_output=True
        )
        seconds = time.perf_counter() - start
    each = seconds / len(notebooks())
    return {
        "seconds": round(seconds, 1),
        "seconds_a_notebook": round(each, 2),
        "mark": f"<= {SITE_MARK:g}",
        "met": each <= SITE_MARK,
    }


def chapters() -> dict:
    """Seconds and peak MiB of each chapter, re-executed and compared against the built wheel."""
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(Path(folder).resolve(), fast=False)
        with contextlib.redirect_stdout(sys.stderr):
            proof.package()
            proof.chapters(notebooks())
    return {
        name: {"seconds": round(c["seconds"], 1), "peak_mib": round(c["peak_mib"])}
        for name, c in proof.report.items()
    }


if __name__ == "__main__":
    print(json.dumps({"imports": imports(), "site": site(), "chapters": chapters()}, indent=1))
