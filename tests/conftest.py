"""What all tests share: no downloads, no windows, nothing written into the tree."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

os.environ.setdefault("FROMFOUND_DATA", "standin")
os.environ.setdefault("MPLBACKEND", "Agg")
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "fromfound-hypothesis")
settings.register_profile("book", database=None, deadline=None)
settings.load_profile("book")
