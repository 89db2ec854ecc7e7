"""The wheel and the sdist, built from a copy of the tree, so that nothing is written into it."""

import shutil
import sys
from pathlib import Path

from book import env
from tests.press.chapters import ROOT
from tests.press.lint_library import repository_files


def build(folder: Path) -> Path:
    """Build both into `folder/dist` and return the wheel."""
    copy, dist = folder / "tree", folder / "dist"
    for path in repository_files(ROOT):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    command = [sys.executable, "-m", "build", "--outdir", dist, copy]
    env.run_quietly(command, "building the wheel and the sdist")
    [wheel] = dist.glob("*.whl")
    return wheel
