"""The fields of a request's type, one by one: how each is called on the wire and what it can be read from.

Owns the one reading of pydantic models, dataclasses and msgspec Structs as lists of fields, for those that come from a
path, a query, a form or a raw body. No decoding, no HTTP.
"""

import collections
import collections.abc
import dataclasses
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import msgspec
from pydantic import AliasChoices, BaseModel, RootModel
from pydantic.fields import FieldInfo

from offloop.graph.kinds import parts, stripped
from offloop.messages import Blob

_MANY: frozenset[Any] = frozenset(
    (
        list, set, frozenset, tuple, collections.deque, collections.abc.Sequence, collections.abc.Set,
        collections.abc.MutableSequence, collections.abc.MutableSet, collections.abc.Collection,
        collections.abc.Iterable,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request's type.

    Attributes:
        name: the attribute's name.
        names: what it is called on the wire, the preferred name first; empty where an alias reaches into a structure.
        annotation: its type, with its constraints as `Annotated`.
        info: default, default factory, title, description, examples, as pydantic describes a field.
        strict: whether text is refused where the type is another.
    """

    name: str
    names: tuple[str, ...]
    annotation: Any
    info: FieldInfo
    strict: bool = False

    @property
    def required(self) -> bool:
        return self.info.is_required()

    @property
    def blob(self) -> bool:
        """Whether it takes the bytes of a body or of a file: `Blob` or `Blob | None`."""
        return {stripped(part) for part in parts(self.annotation)} - {NoneType} == {Blob}

    @property
    def many(self) -> bool:
        """Whether a repeated name makes a list of values."""
        return any(_is_many(stripped(part)) for part in parts(self.annotation))

    @property
    def text(self) -> bool:
        """Whether it can be read from one text, or from several under one name."""
        return _from_text(self.annotation, items=True)


def fields_of(annotation: Any) -> tuple[Field, ...] | None:
    """The fields of a pydantic model, dataclass or Struct that is a JSON object; None for every other type."""
    plain = stripped(annotation)
    cls = get_origin(plain) or plain
    if not isinstance(cls, type) or cls is Blob or issubclass(cls, RootModel):
        return None
    if issubclass(cls, msgspec.Struct):
        return None if cls.__struct_config__.array_like else _fields_of_struct(plain)
    if issubclass(cls, BaseModel):
        cls.model_rebuild(raise_errors=False)  # whoever compiles the whole type says what is missing
        return _fields_of_infos(cls.model_fields, dict(cls.model_config))
    if dataclasses.is_dataclass(cls):
        return _fields_of_infos(_infos_of_dataclass(cls), getattr(cls, "__pydantic_config__", {}))
    return None


def _fields_of_struct(annotation: Any) -> tuple[Field, ...]:
    found = []
    for field in msgspec.structs.fields(annotation):
        info = FieldInfo.from_annotation(field.type)
        if field.default_factory is not msgspec.NODEFAULT:
            info.default_factory = field.default_factory
        elif field.default is not msgspec.NODEFAULT:
            info.default = field.default
        if field.encode_name != field.name:
            info.alias = info.validation_alias = field.encode_name
        found.append(Field(field.name, (field.encode_name,), field.type, info))
    return tuple(found)


def _infos_of_dataclass(cls: type) -> dict[str, FieldInfo]:
    if (known := getattr(cls, "__pydantic_fields__", None)) is not None:
        return dict(known)
    hints = get_type_hints(cls, include_extras=True)
    infos = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.default is not dataclasses.MISSING:
            info = FieldInfo.from_annotated_attribute(hints[field.name], field.default)
        else:
            info = FieldInfo.from_annotation(hints[field.name])
            if field.default_factory is not dataclasses.MISSING:
                info.default_factory = field.default_factory
        infos[field.name] = info
    return infos


def _fields_of_infos(infos: dict[str, FieldInfo], config: dict[str, Any]) -> tuple[Field, ...]:
    return tuple(
        Field(name, _names(name, info, config), _annotated(info), info, _is_strict(info, config))
        for name, info in infos.items()
    )


def _names(name: str, info: FieldInfo, config: dict[str, Any]) -> tuple[str, ...]:
    alias = info.validation_alias or info.alias or name
    if config.get("validate_by_alias") is False:
        return (name,)
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    names = [choice for choice in choices if isinstance(choice, str)]
    if (config.get("populate_by_name") or config.get("validate_by_name")) and name not in names:
        names.append(name)
    return tuple(names)


def _annotated(info: FieldInfo) -> Any:
    return Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _is_strict(info: FieldInfo, config: dict[str, Any]) -> bool:
    marks = [mark.strict for mark in info.metadata if hasattr(mark, "strict")]
    return bool(marks[-1] if marks and marks[-1] is not None else config.get("strict"))


def _is_many(plain: Any) -> bool:
    return (get_origin(plain) or plain) in _MANY


def _from_text(annotation: Any, *, items: bool) -> bool:
    for part in parts(annotation):
        plain = stripped(part)
        if get_origin(plain) is Literal:
            continue
        if items and _is_many(plain):
            if not all(_from_text(item, items=False) for item in get_args(plain) if item is not ...):
                return False
            continue
        cls = get_origin(plain) or plain
        if _is_many(plain) or not isinstance(cls, type) or is_typeddict(cls) or _is_structured(cls):
            return False
    return True


def _is_structured(cls: type) -> bool:
    return issubclass(cls, BaseModel | msgspec.Struct | collections.abc.Mapping) or dataclasses.is_dataclass(cls)
