"""What all tests share: no downloads, no windows, nothing written into the tree."""

import os
import signal
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

os.environ.setdefault("FROMFOUND_DATA", "standin")
os.environ.setdefault("MPLBACKEND", "Agg")
# The tensors of tests are small: on a busy machine threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what runs in the background with Ctrl-C ignored, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "fromfound-hypothesis")
settings.register_profile("book", database=None, deadline=None)
settings.load_profile("book")
