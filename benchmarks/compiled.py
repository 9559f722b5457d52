"""The loads that are written in C: compiled on first use, gone with the run."""

import atexit
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from environments import Unavailable

HOME = Path(__file__).resolve().parent


@cache
def compiled(name: str) -> Path:
    """The program whose source is `name`.c here.

    Raises:
        Unavailable: no C compiler, or one that cannot compile it.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler: apt-get install gcc libc6-dev")
    home = Path(mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    built, source = home / name, HOME / f"{name}.c"
    done = subprocess.run([compiler, "-O2", "-o", str(built), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{compiler} cannot compile {source.name}: {done.stderr.strip().splitlines()[0]}")
    return built
