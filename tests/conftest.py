"""What all tests share: no downloads, no windows, nothing written into the tree."""

import os

from hypothesis import settings

os.environ.setdefault("FROMFOUND_DATA", "standin")
os.environ.setdefault("MPLBACKEND", "Agg")
settings.register_profile("book", database=None, deadline=None)
settings.load_profile("book")
