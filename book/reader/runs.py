"""Recorded runs, and what each chapter costs."""

import json
from pathlib import Path

COSTS = "chapters.json"  # beside the runs; seconds, and memory in MiB, as in the runs


def _stored(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}): is it in the middle of a merge?") from error


def costs(root: Path) -> dict[str, dict]:
    """What each chapter took when its outputs were stored, by name: seconds and peak memory."""
    path = root / "book" / "runs" / COSTS
    return _stored(path) if path.is_file() else {}


def run_files(root: Path) -> list[Path]:
    """The files of the recorded runs."""
    return [p for p in sorted((root / "book" / "runs").glob("*.json")) if p.name != COSTS]


def runs(root: Path) -> list[dict]:
    """The recorded runs, by name."""
    return [_stored(path) for path in run_files(root)]
