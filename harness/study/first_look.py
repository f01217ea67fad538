"""Checks the keys and names of a study against its JSON Schema, before torch is imported.

It uses the JSON Schema beside the included studies. The specs then check everything else.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from detectors.names import offered
from harness.errors import InputError, unknown
from harness.study.written import Location, Written, read_written

PROJECT = Path(__file__).parents[2]
STUDIES = PROJECT / "studies"
"""Root of the checkout, which an installed package lacks."""
WARM_START = "warm_start"
"""As in `harness.study.spec`, which takes seconds to import."""
SCHEMA = STUDIES / "study.schema.json"
_TYPES: dict[str, type] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
}


@dataclass(frozen=True)
class Mistake:
    """A violation of a schema."""

    at: Location
    is_key: bool = False
    """There is no such key."""
    allowed: tuple[str, ...] = ()
    """The keys that there are beside one that is not."""
    is_other: bool = False
    """The value is of another kind altogether, so that an alternative of the schema may be meant."""
    is_tag: bool = False
    """By this value people say which alternative they mean, for what it stands in, and it is not this one."""


def first_look(file: Path, overrides: Iterable[str]) -> None:
    """Raise InputError for a study that cannot be read, and for keys, presets and losses that there are not.

    It says nothing where it cannot be sure, and is for commands: `load_study` checks all of a study, and needs no look.
    """
    written = read_written(file, overrides)
    if not SCHEMA.is_file():
        return
    try:
        schema = json.loads(SCHEMA.read_bytes())
        if schema["$comment"] != names_hash():
            return
    except (ValueError, LookupError, TypeError):  # a schema in the middle of an edit or a merge has no say either
        return
    # The loader does not look at a loss that no arm has.
    unused = {("losses", name) for name, _ in _items(written.content, "losses")} - {
        ("losses", text) for text in _texts(written.content.get("arms"))
    }
    wrong = [each for each in mistakes(written.content, schema) if each.is_key and each.at[:2] not in unused]
    lines = [written.unknown_key(each.at, each.allowed) for each in wrong]
    lines += _unknown_names(written, schema)
    # What an arm means by a name is known once the losses have theirs.
    lines += [] if lines else _unknown_losses(written)
    if lines:
        raise InputError("\n".join(lines))


def _unknown_names(written: Written, schema: Mapping[str, Any]) -> Iterator[str]:
    losses = [*schema["properties"]["losses"]["properties"]]
    presets = schema["$defs"]["TeacherSpec"]["properties"]["preset"]["anyOf"][0]["enum"]
    names = {("losses", name): _field(each, "loss") or name for name, each in _items(written.content, "losses")}
    models = {
        (role, name, "preset"): _field(each, "preset")
        for role in ("teachers", "students")
        for name, each in _items(written.content, role)
    }
    if any(":" in str(name) for name in (*names.values(), *models.values())):
        return  # of somebody's package, whose mistakes are told together with these
    for what, given, table, group in (
        ("loss", names, losses, "crossbev.losses"),
        ("preset", models, presets, "crossbev.presets"),
    ):
        for at, name in given.items():
            if isinstance(name, str) and name not in table and name not in (others := offered(group)):
                hint = "; a loss under your own name needs the field loss with the name of the loss"
                text = f"{unknown(what, name, {*table, *others})}, or package.module:Name of your own"
                if what == "loss":
                    text = f"losses: {text}{hint if name == at[-1] else ''}"
                yield f"{written.place(at)}: {text}" if what == "loss" else written.message(at, text)


def _unknown_losses(written: Written) -> Iterator[str]:
    """What the arms name and the study does not have among its losses."""
    declared = [name for name, _ in _items(written.content, "losses")]
    for arm, names in _items(written.content, "arms"):
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and name not in (*declared, WARM_START):
                yield f"{written.place(('arms', arm))}: arm {arm!r}: {unknown('loss', name, [*declared, WARM_START])}"


def _texts(value: Any) -> Iterator[str]:
    """Return all keys and texts of a part of a study."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        parts = chain(value, value.values()) if isinstance(value, dict) else value
        yield from chain.from_iterable(map(_texts, parts))


def _items(content: Any, key: str) -> Any:
    part = content.get(key)
    return part.items() if isinstance(part, dict) else ()


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def names_hash() -> str:
    """Hash of the fields of all specs and of the names in the tables, as the sources have them, without importing any.

    The schema has it, too: where somebody adds a field, the schema of before has no say until it is written again.
    """
    names: list[str] = []
    for part in ("detectors", "distill", "harness/study"):
        for file in sorted((PROJECT / part).rglob("*.py")):
            for node in ast.parse(file.read_bytes()).body:
                match node:
                    case ast.ClassDef(bases=bases) if any(_is_spec(ast.unparse(base)) for base in bases):
                        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                        names += [
                            node.name,
                            *(f"{ast.unparse(each.target)}: {ast.unparse(each.annotation)}" for each in fields),
                        ]
                    case ast.Assign(value=ast.Dict(keys=keys)) | ast.AnnAssign(value=ast.Dict(keys=keys)):
                        names += [ast.unparse(key) for key in keys if key]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _is_spec(base: str) -> bool:
    return base.endswith("Spec") or base == "_Model"


def mistakes(value: Any, schema: Mapping[str, Any]) -> list[Mistake]:
    """Where a value is not as a schema wants it: of JSON Schema what pydantic writes of our specs."""
    return [*_mistakes(value, schema, schema["$defs"], ())]


def _mistakes(value: Any, schema: Mapping[str, Any], parts: Mapping[str, Any], at: Location) -> Iterator[Mistake]:
    if "$ref" in schema:
        yield from _mistakes(value, parts[schema["$ref"].rpartition("/")[2]], parts, at)
    if not _is_of(value, schema) or value not in schema.get("enum", [value]):
        yield Mistake(at, is_other=True)
        return
    is_named = not isinstance(value, str) or re.search(schema.get("pattern", ""), value)
    if not is_named or value != schema.get("const", value):
        yield Mistake(at, is_other=True, is_tag=True)
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        yield from _of_alternatives(value, alternatives, parts, at)
    if isinstance(value, dict):
        yield from _of_object(value, schema, parts, at)
    elif isinstance(value, list):
        first, rest = schema.get("prefixItems", []), schema.get("items", {})
        for number, (each, part) in enumerate(zip(value, chain(first, repeat(rest)), strict=False)):
            yield from _mistakes(each, part, parts, (*at, number))


def _is_of(value: Any, schema: Mapping[str, Any]) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match schema.get("type"):
        case None:
            return True
        case "number":
            return is_number
        case "integer":
            return is_number and value % 1 == 0
        case kind:
            return isinstance(value, _TYPES[kind])


def _of_alternatives(
    value: Any, alternatives: list[Mapping[str, Any]], parts: Mapping[str, Any], at: Location
) -> Iterator[Mistake]:
    of_each = [[*_mistakes(value, each, parts, at)] for each in alternatives]
    if all(of_each):
        others = [any(_tells_of_another(one, at) for one in each) for each in of_each]
        meant = [each for each, is_other in zip(of_each, others, strict=True) if not is_other]
        if len(meant) == 1:
            yield from meant[0]
        else:
            yield Mistake(at, is_other=True)


def _tells_of_another(mistake: Mistake, at: Location) -> bool:
    return (mistake.is_other and mistake.at == at) or (mistake.is_tag and len(mistake.at) == len(at) + 1)


def _of_object(
    value: dict[Any, Any], schema: Mapping[str, Any], parts: Mapping[str, Any], at: Location
) -> Iterator[Mistake]:
    fields, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    tag = schema.get("discriminator", {}).get("propertyName")
    if tag in schema.get("required", ()) and tag not in value:
        yield Mistake(at, is_other=True)
    for key, each in value.items():
        by_pattern = (part for pattern, part in patterns.items() if re.search(pattern, str(key)))
        part = fields.get(key, next(by_pattern, schema.get("additionalProperties", True)))
        if isinstance(part, dict):
            yield from _mistakes(each, part, parts, (*at, key))
        elif not part:
            yield Mistake((*at, key), is_key=True, allowed=tuple(fields), is_tag=not fields)
