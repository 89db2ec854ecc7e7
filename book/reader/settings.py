"""settings.ini: the one place that names the book, its owner and its addresses."""

import configparser
from pathlib import Path


def settings(root: Path) -> dict[str, str]:
    """The settings of a tree by name."""
    parser = configparser.ConfigParser()
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])
