"""Virtual environments for systems that do not share this one's packages: made on first use, reused afterwards."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parent / ".environments"
INSTALL_TIMEOUT = 600.0


class Unavailable(Exception):
    """A system cannot be measured here; the text is the reason that the report gives."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment; it is complete when the file `installed` names what it was made for."""

    name: str
    packages: tuple[str, ...]

    def python(self) -> Path:
        """Its interpreter.

        Raises:
            Unavailable: it could not be made; the next call tries again.
        """
        home = HOME / self.name
        python, installed = home / "bin" / "python", home / "installed"
        made_for = "\n".join((sys.version, *self.packages))
        if not (installed.is_file() and installed.read_text() == made_for):
            print(f"making an environment for {self.name} in {home}", file=sys.stderr)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            (HOME / ".gitignore").write_text("*\n")
            self._run(sys.executable, "-m", "venv", str(home))
            self._run(str(python), "-m", "pip", "install", "--quiet", *self.packages)
            installed.write_text(made_for)
        return python

    def _run(self, *command: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"no environment: {error}") from None
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            failure = next((line for line in words if line.startswith("ERROR")), words[-1] if words else "no word")
            raise Unavailable(f"no environment: {failure[:200]}")
