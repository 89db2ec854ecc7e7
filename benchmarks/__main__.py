"""`make bench`: every benchmark in one run, each in its own process.

The results go to benchmarks/results.json. `python -m benchmarks learner` measures only what is
named and keeps the other results; it may run in an environment that has the other libraries.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    """Run the benchmarks of these names, all of them where none is given; return the exit code."""
    known = sorted(p.stem for p in HERE.glob("*.py") if p.name != "__main__.py")
    if unknown := set(names) - set(known):
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    results = json.loads((HERE / "results.json").read_text(encoding="utf-8")) if names else {}
    results["machine"] = {"processor": platform.machine(), "python": platform.python_version()}
    for script in (HERE / f"{name}.py" for name in names or known):
        print(f"== {script.stem}", flush=True)
        done = subprocess.run(
            [sys.executable, script],
            cwd=HERE.parent,
            env=dict(os.environ, PYTHONPATH=str(HERE.parent)),
            stdout=subprocess.PIPE,
            text=True,
        )
        if not done.stdout:
            print(f"{script.name} failed (exit code {done.returncode}); its output is above")
            return 1
        print(done.stdout, flush=True)
        results[script.stem] = json.loads(done.stdout)
    (HERE / "results.json").write_text(
        json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    missed = [name for name, result in results.items() if '"met": false' in json.dumps(result)]
    print(f"marks missed in: {', '.join(missed)}" if missed else "every mark is met")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
