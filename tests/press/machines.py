"""`make machines`: do the stored outputs hold on other processors?

Processors round differently. A few settings of PyTorch's libraries make one machine round like
others; under each of them the chapters are executed again and compared with what is stored. A
ledger remembers what held, so that a run can resume after it was stopped, and only chapters that
changed since are executed.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from book import env
from tests.press.chapters import ROOT, fingerprint, mode, name_of, notebooks
from tests.press.rerun import copy_chapters, rerun, tree_environment
from tests.press.turns import LANES

SETTINGS = {
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads would wait for each other
    },
    "mkl": {"MKL_CBWR": "COMPATIBLE"},
    "onednn": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
USUAL = ("default", "avx2")  # those that `make chapter` asks before it stores outputs
LEDGER = ROOT / env.FOLDERS["dev"] / "machines.jsonl"


def held(ledger: Path = LEDGER) -> set[tuple[str, str, str]]:
    """Return what is known to hold with this PyTorch: setting, chapter, and its fingerprint."""
    lines = ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else []
    entries = [json.loads(line) for line in lines]
    return {
        (e["setting"], e["chapter"], e["fingerprint"])
        for e in entries
        if e["ok"] and e.get("torch") == version("torch")
    }


def run_under(setting: str, place: Path, paths: list[Path]) -> list[str]:
    """Re-execute chapters copied under `place` as on the machine `setting`.

    Return what does not hold.
    """
    environment = tree_environment() | SETTINGS[setting]
    options = ["--mode", "real"]  # the same data on both sides: numbers agree
    # A simulated machine may be slow.
    options += ["--ledger", LEDGER, "--label", setting, "--budget-seconds", 1200]
    threads = int(environment["OMP_NUM_THREADS"])
    chapters, code = rerun(place, paths, environment, *options, count=max(1, LANES // threads))
    wrong = [
        f"{setting}: {f['message']}" for chapter in chapters.values() for f in chapter["failures"]
    ]
    if code and not wrong:
        wrong = [f"{setting}: pytest stopped (exit code {code})"]
    return wrong


def due(settings: tuple[str, ...], paths: list[Path]) -> dict[str, list[Path]]:
    """Return for each setting the chapters that are not known to hold under it."""
    known = held()
    return {s: [p for p in paths if (s, name_of(p), fingerprint(p)) not in known] for s in settings}


def downloaded() -> Path:
    """Return the cache, with the real datasets of the chapters in it.

    Outputs stored from real data are compared.
    """
    # Here alone: where a folder is named, nothing is fetched.
    from fromfound.data import fetch, is_real
    from fromfound.files import cache_dir

    os.environ.pop("FROMFOUND_DATA", None)
    for name in ("mnist", "fashion_mnist"):
        if not is_real(fetch(name)):
            raise SystemExit(
                f"make machines compares numbers of real data, and {name} is not available: set "
                "FROMFOUND_DATA to a folder that holds it"
            )
    return cache_dir()


def main() -> int:
    """Execute what is due under each setting; the exit code is 0 if everything holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every setting, not only the usual two")
    parser.add_argument("--setting", choices=SETTINGS, help="this setting alone")
    options = parser.parse_args()
    if mode() != "real":
        os.environ["FROMFOUND_DATA"] = str(downloaded())
    settings = tuple(SETTINGS) if options.all else USUAL
    if options.setting:
        settings = (options.setting,)
    started, wrong, ran = time.perf_counter(), [], 0
    for setting, paths in due(settings, notebooks()).items():
        print(
            f"\n== {setting}: {' '.join(f'{k}={v}' for k, v in SETTINGS[setting].items())}",
            flush=True,
        )
        with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
            copy_chapters(Path(folder), paths)
            wrong += run_under(setting, Path(folder), paths) if paths else []
        ran += len(paths)
    print("\n\n".join(["", *wrong]))
    verdict = f"{len(wrong)} cells do not hold" if wrong else "everything holds"
    print(
        f"make machines: {verdict} under {', '.join(settings)}; {ran} executions in "
        f"{time.perf_counter() - started:.0f} s on {platform.machine()}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
