"""From a message's fields, written one per line, to a class of protobuf's runtime.

A line reads ``number name type``; the type may be a scalar, a declared message or enum, ``repeated X``
or ``map<K,V>``, and ``in NAME`` puts the field into a oneof. Knows no particular message. The pool is
our own, so that other packages may declare messages of the same names. Called by ``tinker_public.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _Field.TYPE_DOUBLE,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
_LINE = re.compile(
    r"(?P<number>\d+) (?P<name>\w+) (?P<repeated>repeated )?(?P<type>[\w<>,]+)(?: in (?P<oneof>\w+))?"
)
_MAP = re.compile(r"map<(\w+),(\w+)>")


def build_classes(
    package: str, enums: Mapping[str, Mapping[str, int]], messages: Mapping[str, str]
) -> dict[str, Any]:
    """Message classes by name.

    Args:
        package: what the full names begin with.
        enums: name -> value name -> number.
        messages: name -> lines of fields.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3"
    )
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for value_name, number in values.items():
            enum.value.add(name=value_name, number=number)
    for name, lines in messages.items():
        _declare(file.message_type.add(name=name), lines, f".{package}", enums)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[attr-defined]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _declare(
    message: descriptor_pb2.DescriptorProto,
    lines: str,
    scope: str,
    enums: Mapping[str, Mapping[str, int]],
) -> None:
    oneofs: dict[str, int] = {}
    for match in _fields(lines):
        field = message.field.add(name=match["name"], number=int(match["number"]))
        field.label = _Field.LABEL_REPEATED if match["repeated"] else _Field.LABEL_OPTIONAL
        pair = _MAP.fullmatch(match["type"])
        if pair is not None:
            field.label = _Field.LABEL_REPEATED
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f"{scope}.{message.name}.{_declare_entry(message, match['name'], pair, scope, enums)}"
        else:
            _set_type(field, match["type"], scope, enums)
        if match["oneof"]:
            if match["oneof"] not in oneofs:
                oneofs[match["oneof"]] = len(oneofs)
                message.oneof_decl.add(name=match["oneof"])
            field.oneof_index = oneofs[match["oneof"]]


def _fields(lines: str) -> Iterator[re.Match[str]]:
    for line in filter(None, map(str.strip, lines.splitlines())):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"no field: {line!r}")
        yield match


def _declare_entry(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    pair: re.Match[str],
    scope: str,
    enums: Mapping[str, Mapping[str, int]],
) -> str:
    """The message that a map is a list of, as protobuf's compiler names it."""
    entry_name = "".join(part.capitalize() for part in name.split("_")) + "Entry"
    entry = message.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    for number, (part, kind) in enumerate(zip(("key", "value"), pair.groups(), strict=True), 1):
        field = entry.field.add(name=part, number=number, label=_Field.LABEL_OPTIONAL)
        _set_type(field, kind, scope, enums)
    return entry_name


def _set_type(
    field: descriptor_pb2.FieldDescriptorProto,
    kind: str,
    scope: str,
    enums: Mapping[str, Mapping[str, int]],
) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind in enums else _Field.TYPE_MESSAGE
        field.type_name = f"{scope}.{kind}"
