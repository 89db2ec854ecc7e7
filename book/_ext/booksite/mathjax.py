"""Mathematics without a network, by MathJax from the package sphinx-mathjax-offline.

The site needs two parts of it.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

PARTS = ("tex-chtml-full.js", "output/chtml/fonts/woff-v2")


def copy(static: Path) -> Path:
    """Put MathJax under `static/mathjax`; return `static`."""
    source = Path(
        distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax")
    )
    for part in PARTS:
        target = static / "mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, dirs_exist_ok=True)
        else:
            shutil.copy(source / part, target)
    return static
