"""Recorded runs, and what each chapter costs."""

import json
from pathlib import Path

COSTS = "chapters.json"  # beside the runs; seconds, and memory in MiB, as in the runs


def costs(root: Path) -> dict[str, dict]:
    """What each chapter took when its outputs were stored, by name: seconds and peak memory."""
    path = root / "book" / "runs" / COSTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run_files(root: Path) -> list[Path]:
    """The files of the recorded runs."""
    return [p for p in sorted((root / "book" / "runs").glob("*.json")) if p.name != COSTS]


def runs(root: Path) -> list[dict]:
    """The recorded runs, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in run_files(root)]
