"""The environments of the book, made where they are missing or out of date.

`python book/env.py dev -m pytest` makes `.venv` if need be and runs `-m pytest` with its Python. It
starts under any Python 3, so that a wrong version gets a clear answer; it needs nothing installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTENSIONS = ROOT / "book" / "_ext"
SITE = (str(ROOT), str(EXTENSIONS))  # where the reader of the book and the site builder are
FOLDERS = {"dev": ".venv", "book": ".venv-book", "run": ".venv-run"}
OLDEST, NEWEST = (3, 11), (3, 14)


def check_python(version: tuple, command: str) -> None:
    """Stop with a clear message unless `version` is one the book supports."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        given = ".".join(str(part) for part in version[:3])
        raise SystemExit(
            "fromfound needs Python 3.11 to 3.14, but %s is Python %s. "
            "Name another one, for example: make test PYTHON=python3.12" % (command, given)
        )


def requirements(kind: str) -> list:
    """Return what pip installs into the environment `kind`, as pyproject.toml declares it."""
    import tomllib  # new in Python 3.11: `check_python` comes first

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lists = {
        "dev": project["dependencies"] + extras["dev"] + extras["book"],
        "book": extras["book"],
        "run": project["dependencies"] + ["ipykernel"],  # what a reader who installs the book has
    }
    return lists[kind]


def constraints() -> Path:
    """Return the file of pins: `make test CONSTRAINTS=file` names another one."""
    path = ROOT / os.environ.get("CONSTRAINTS", "constraints.txt")
    if not path.is_file():
        raise SystemExit(
            "CONSTRAINTS names %s, which is not a file; leave it out to use constraints.txt" % path
        )
    return path


def python_of(folder: Path) -> Path:
    """Return the Python of the virtual environment in `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_of(kind: str) -> str:
    """Return a hash of all that decides what the environment `kind` holds."""
    parts = [sys.version, constraints().read_text(encoding="utf-8"), *requirements(kind)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run_quietly(command: list, what: str) -> None:
    """Run `command`; on failure show its output and stop."""
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(
            "%s\n%s failed (exit code %d); its output is above"
            % (done.stdout, what, done.returncode)
        )


def make_venv(folder: Path) -> None:
    """Make an empty virtual environment in `folder`."""
    # Not the environment that runs this file.
    base = getattr(sys, "_base_executable", sys.executable)
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(
        [base, "-m", "venv", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise SystemExit(
            "%s\n%s could not make a virtual environment; on Debian and Ubuntu install python3-venv"
            % (done.stdout, base)
        )


def version_of(python: Path) -> str:
    """Return the version of a Python, in full; nothing where there is none."""
    if not python.exists():
        return ""
    return subprocess.run(
        [str(python), "-c", "import sys; print(sys.version)"], stdout=subprocess.PIPE, text=True
    ).stdout.rstrip("\n")


def ensure(kind: str) -> Path:
    """Make the environment `kind` where it is missing or out of date; return its Python.

    The kinds are "dev", "book" and "run".
    """
    folder = ROOT / FOLDERS[kind]
    python, stamp, wanted = python_of(folder), folder / "stamp", stamp_of(kind)
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    print("setting up %s (a minute or two)" % folder.name, flush=True)
    if version_of(python) != sys.version:
        make_venv(folder)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_quietly([*pip, "-c", constraints(), *requirements(kind)], "setting up %s" % folder.name)
    # Matplotlib announces on stderr that it builds its font cache: build it here.
    if kind != "book":
        run_quietly([python, "-c", "import matplotlib.font_manager"], "matplotlib's first import")
    stamp.write_text(wanted)
    return python


def variables(kind: str) -> dict:
    """Return the environment variables for a program that runs in the environment `kind`."""
    # Nothing is written into the tree, compiled files included; text is UTF-8 on every system.
    found = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", PYTHONUTF8="1")
    return dict(found, PYTHONPATH=os.pathsep.join(SITE)) if kind == "book" else found


def main() -> int:
    """Run the rest of the command line with the Python of the environment named first."""
    check_python(sys.version_info, sys.executable)
    kind, *args = sys.argv[1:]
    try:
        return subprocess.call([str(ensure(kind)), *args], cwd=str(ROOT), env=variables(kind))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
