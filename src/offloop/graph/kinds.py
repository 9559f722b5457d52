"""Kinds of messages: what an annotation names, and the exact class by which a message of it is told at run time.

Owns the reading of annotations. It knows nothing of nodes, endpoints or routes; whether a value can travel is the
affair of `payloads`.
"""

import inspect
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, NewType, Union, get_args, get_origin, is_typeddict


class Kind(NamedTuple):
    """One kind of message: as it is written, without `Annotated`, and the exact class of its messages.

    A parametrised type is told by its origin: every `list[Page]` is a `list`. Two kinds are the same if both agree,
    so `list[A]` and `list[B]` are two kinds that only a node's annotations keep apart.
    """

    annotation: Any
    cls: type

    @property
    def bare(self) -> bool:
        """Whether it is a builtin, which says nothing of its meaning and so never passes between nodes."""
        return self.cls.__module__ == "builtins"

    def __str__(self) -> str:
        return name_of(self.annotation)


def kinds(annotation: Any) -> tuple[Kind, ...]:
    """The kinds an annotation names, a union's in its order, without None.

    Raises:
        ValueError: a part of it is no class whose messages could be told by their class, or two parts have the same
            class. The text says which, and the remedy.
    """
    found: list[Kind] = []
    for part in parts(annotation):
        if (plain := stripped(part)) is NoneType:
            continue
        kind = Kind(plain, _class_of(plain))
        for other in found:
            if other.cls is kind.cls and other != kind:
                raise ValueError(
                    f"{other} and {kind} cannot be told apart: at run time both are a {name_of(kind.cls)}. "
                    f"Give each a class of its own"
                )
        if kind not in found:
            found.append(kind)
    return tuple(found)


def telling(annotation: Any) -> list[type] | str:
    """The exact classes of an annotation's messages, without None; or the reason why they cannot be told apart."""
    try:
        return [kind.cls for kind in kinds(annotation)]
    except ValueError as reason:
        return str(reason)


def parts(annotation: Any) -> tuple[Any, ...]:
    """A union's members, as they are written; of anything else itself."""
    plain = stripped(annotation)
    if get_origin(plain) in (Union, UnionType):
        return tuple(part for member in get_args(plain) for part in parts(member))
    return (annotation,)


def without(annotation: Any, unwanted: Iterable[Kind]) -> Any:
    """An annotation less None and some kinds; None where nothing is left. Unchanged, `Annotated` and all, if it can."""
    unwanted = tuple(unwanted)
    members = parts(annotation)
    left = tuple(
        member
        for member in members
        if stripped(member) is not NoneType and not any(kind in unwanted for kind in kinds(member))
    )
    if not left:
        return None
    return annotation if len(left) == len(members) else Union[left]  # noqa: UP007  (of as many as there are)


def stripped(annotation: Any) -> Any:
    """Without `Annotated`, and with type aliases and new types replaced by what they stand for."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # of typing (3.12) or typing_extensions
            annotation = annotation.__value__
        else:
            return NoneType if annotation is None else annotation


def name_of(annotation: Any) -> str:
    """As a person would write it."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _class_of(plain: Any) -> type:
    if get_origin(plain) is Literal:
        return _class_of_literals(plain)
    if is_typeddict(plain):
        return dict
    cls = get_origin(plain) or plain
    if not isinstance(cls, type) or cls in (Any, object):
        raise ValueError(f"{name_of(plain)} is no class that a message could be told by. Name a class")
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        raise ValueError(
            f"{name_of(plain)} is abstract, and messages are told by their exact class. Name the classes themselves, "
            f"as a union if there are several"
        )
    return cls


def _class_of_literals(plain: Any) -> type:
    classes = {type(value) for value in get_args(plain)}
    if len(classes) > 1:
        raise ValueError(f"{plain} has values of several classes. Give the message a class of its own")
    return classes.pop()
