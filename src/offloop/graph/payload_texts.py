"""Values that come beside a JSON body or instead of one: of a path, a query or a form.

Owns how they are gathered into one mapping by the fields' names, how they go over a JSON body, and where an error of
such a mapping is said to be. It validates nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from offloop.graph.payload_errors import Errors
from offloop.graph.payload_fields import Field

Home = Literal["path", "query", "body"]
_ORDER = {"path": 0, "query": 1, "body": 2}


@dataclass(frozen=True, slots=True)
class Gathered:
    """Values by the names that the type's own validation looks for.

    Attributes:
        values: text, lists of text, or Blobs.
        paths: of those that came from the path, the name in the path by the name in `values`.
        shadowed: every other name of the path's fields: a body cannot give such a field a second value.
        complete: whether the path gives every field that there is.
    """

    values: dict[str, Any]
    paths: dict[str, str]
    shadowed: frozenset[str]
    complete: bool

    def over(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body's members with these values over them."""
        kept = {name: value for name, value in body.items() if name not in self.shadowed}
        return {**kept, **self.values}

    def place(self, errors: Errors, home: Home, *, merged: object, body: object = None) -> Errors:
        """Errors of the merged mapping, as errors of where each value came from or should have come from.

        Args:
            home: where what does not come from the path comes from.
            merged: the mapping that was validated; no caller sent it, so an error that would show it shows `body`.
        """
        placed = []
        for error in errors:
            loc = error["loc"]
            if loc and loc[0] in self.paths:
                loc = ("path", self.paths[loc[0]], *loc[1:])
            else:
                loc = ("path" if self.complete else home, *loc)
            shown = error["input"]
            if shown is merged:
                shown = body if loc[0] == "body" else None
            placed.append({**error, "loc": loc, "input": shown})
        return sorted(placed, key=lambda error: _ORDER[error["loc"][0]])


class Texts:
    """Gathers the values of one request's type. Immutable."""

    def __init__(self, fields: Iterable[Field]) -> None:
        fields = tuple(fields)
        self._count = len(fields)
        self._fields = {field.name: field for field in fields}
        self._fields |= {name: field for field in fields for name in field.names}
        self._many = frozenset(name for name, field in self._fields.items() if field.many)

    def gather(
        self, fields: Iterable[tuple[str, str, str]], *, query: bool = True, parts: Iterable[tuple[str, Any]] = ()
    ) -> Gathered:
        """One mapping of all values; what the path gives is the path's, whatever else has that name.

        A repeated name is a list of values if its field takes many; otherwise the last one counts, as in FastAPI.

        Args:
            fields: an envelope's (where, name, value).
            query: whether the query's values count.
            parts: (name, value) of a form's parts.
        """
        values: dict[str, Any] = {}
        for name, value in parts:
            self._put(values, name, value)
        path = []
        for where, name, text in fields:
            if where == "path":
                path.append((name, text))
            elif query:
                self._put(values, name, text)
        paths = {}
        shadowed: set[str] = set()
        for name, text in path:
            field = self._fields[name]
            for alias in field.names:
                values.pop(alias, None)
            values[field.names[0]] = text
            paths[field.names[0]] = name
            shadowed.update(field.names)
        return Gathered(values, paths, frozenset(shadowed), complete=len(paths) == self._count)

    def field(self, name: str) -> Field | None:
        """The field that has this name on the wire, or as an attribute."""
        return self._fields.get(name)

    def _put(self, values: dict[str, Any], name: str, value: Any) -> None:
        if name in self._many:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
