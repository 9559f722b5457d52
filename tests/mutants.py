"""Puts each listed defect into a copy of the program, and asks whether a test finds it: `python -m tests.mutants`.

Owns the copies and the verdicts. The tests run as they are, against the copy; a defect that none of them finds, and one
whose fragment does not stand in its file exactly once, is told, and fails the run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants_listed import DEFECTS, Defect

ROOT = Path(__file__).parents[1]
UNITS = ("--hypothesis-profile=mutants", "tests/unit/core", "tests/unit/ingress")
HISTORIES = "tests/simulation/test_simulation.py"
HOW_MANY = "1500"
"""Histories for a defect that no unit test has found."""
ARGUMENTS = ("-x", "-q", "--no-header", "-p", "no:cacheprovider")
WITHIN = 300.0
"""Seconds for the tests of one defect. A defect that hangs them is found."""


def misplaced() -> list[Defect]:
    """The defects that could not be put where they belong."""
    return [defect for defect in DEFECTS if _source(defect).count(defect.fragment) != 1]


def _source(defect: Defect) -> str:
    return (ROOT / "src" / "offloop" / defect.file).read_text()


def found_by(defect: Defect, home: Path) -> str:
    """Which tests find it: `units`, `histories`, or "" for none. `home` has a copy of the program."""
    where = home / "offloop" / defect.file
    sound = _source(defect)
    where.write_text(sound.replace(defect.fragment, defect.instead))
    try:
        return "units" if _fails(home, *UNITS) else "histories" if _fails(home, HISTORIES) else ""
    finally:
        where.write_text(sound)


def _fails(home: Path, *tests: str) -> bool:
    env = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1", "SIMULATION_HISTORIES": HOW_MANY}
    command = [sys.executable, "-m", "pytest", *ARGUMENTS, "-m", "not slow", *tests]
    try:
        ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return True
    if ran.returncode not in (0, 1):
        raise SystemExit(ran.stdout.decode() + ran.stderr.decode())
    return ran.returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="only defects whose file or meaning holds this text")
    only = parser.parse_args().only
    for defect in misplaced():
        print(f"does not stand in {defect.file} exactly once: {defect.fragment!r}")
    if misplaced():
        return 1
    chosen = [defect for defect in DEFECTS if only in f"{defect.file}: {defect.meaning}"]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src" / "offloop", Path(folder) / "offloop")
        for defect in chosen:
            finder = found_by(defect, Path(folder))
            missed += not finder
            print(f"{finder or 'NOT FOUND':10} {defect.file}: {defect.meaning}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} defects were found")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
