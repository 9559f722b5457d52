"""The modes that a test runs in, and what settings make so many loops in each.

Owns the words and the arithmetic. What a mode is to do is for the tests to say.
"""

from enum import StrEnum
from typing import Any

from offloop import Settings


class Mode(StrEnum):
    THREAD = "thread"
    PROCESS = "process"

    def _fields(self, loops: int | None, per_worker: int, more: dict[str, Any]) -> dict[str, Any]:
        counts: dict[str, Any] = {}
        if loops is not None and self is Mode.THREAD:
            counts = {"threads": loops}
        elif loops is not None:
            counts = {"workers": loops // per_worker, "threads": per_worker}
        return {"mode": self.value, **counts, **more}

    def settings(self, loops: int | None = None, *, per_worker: int = 1, **more: Any) -> Settings:
        """For an Offloop with so many loops; None: as many as the mode has by itself."""
        return Settings(**self._fields(loops, per_worker, more))

    def env(self, loops: int | None = None, *, per_worker: int = 1, **more: Any) -> dict[str, str | None]:
        """The same as the environment of a server; None as a value takes a name out of it."""
        fields = self._fields(loops, per_worker, more)
        return {f"OFFLOOP_{name.upper()}": None if value is None else str(value) for name, value in fields.items()}
