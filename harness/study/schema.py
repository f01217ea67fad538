"""Makes the JSON Schema of study files from the specs and their docstrings."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from detectors.presets import PRESETS, SEGMENTERS
from distill.loss import LossSpec
from distill.objective import LOSSES
from distill.weights import PUBLISHED
from harness.study.designs import DESIGNS
from harness.study.first_look import names_hash
from harness.study.spec import OTHERS, StudySpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OWN = {"type": "string", "pattern": ":", "description": "A class or spec of your own, as package.module:Name."}


def study_schema() -> dict[str, Any]:
    """What a study file may say, as JSON Schema; names that an installed package offers it does not know."""
    schema = StudySpec.model_json_schema(schema_generator=_Described)
    parts = schema["$defs"]
    for role in ("TeacherSpec", "StudentSpec"):
        parts[role]["properties"]["preset"] |= {"anyOf": [{"enum": list(PRESETS)}, OWN, {"type": "null"}]}
    of_schedule = parts["ScheduleSpec"]["properties"]
    for role in ("TeacherSpec", "StudentSpec"):
        parts[role]["properties"]["schedule"] |= {
            "properties": {name: _undecided(each) for name, each in of_schedule.items()}
        }
    parts["ImageTeacherSpec"]["properties"]["preset"] |= {"anyOf": [{"enum": list(SEGMENTERS)}, {"type": "null"}]}
    del parts["LossChoice"]
    for name, spec in LOSSES.items():
        parts[spec.__name__], needed = _choice(name, spec)
        parts |= needed
    parts["NamedLoss"] = _named_loss()
    schema["properties"]["losses"] |= {
        "properties": {name: _any(_ref(LOSSES[name].__name__), _ref("NamedLoss")) for name in LOSSES},
        "additionalProperties": _ref("NamedLoss"),
    }
    sets = {name: {"type": "array", "items": {"type": "string"}} for name in DESIGNS}
    described = {name: sets[name] | {"description": inspect.getdoc(DESIGNS[name])} for name in DESIGNS}
    schema["properties"]["arms"] |= {"properties": described, "additionalProperties": False}
    return {"$schema": DIALECT, "$comment": names_hash()} | schema | {"$defs": dict(sorted(parts.items()))}


class _Described(GenerateJsonSchema):
    """Pydantic's, with the docstrings of fields for their descriptions and without titles, which repeat their names."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        return {key: value for key, value in super().model_schema(schema).items() if key != "title"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _undecided(field: Mapping[str, Any]) -> dict[str, Any]:
    """A field without a default."""
    return {key: each for key, each in field.items() if key != "default"}


def _choice(name: str, spec: type[LossSpec]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A loss as a study may write it, each field one value or one a path; and the parts that its fields refer to."""
    schema = spec.model_json_schema(schema_generator=_Described)
    needed = schema.pop("$defs", {})
    weight = schema["properties"]["weight"]
    schema["properties"]["weight"] = _any(
        weight, {"const": PUBLISHED, "description": "The published weight of the path."}
    )
    fields = {field: _by_path(value) for field, value in schema["properties"].items()}
    return schema | {"properties": {"loss": {"const": name}} | fields}, needed


def _by_path(value: Mapping[str, Any]) -> dict[str, Any]:
    described = {key: value[key] for key in ("description", "default") if key in value}
    one = {key: each for key, each in value.items() if key not in described}
    mapping = {"type": "object", "patternProperties": {f"->|^{OTHERS}$": one}, "additionalProperties": False}
    return _any(one, mapping) | described


def _named_loss() -> dict[str, Any]:
    """Schema of a loss under another name, whose field `loss` names the loss."""
    of_a_package = {"type": "object", "properties": {"loss": OWN}, "required": ["loss", "weight"]}
    return _any(*(_ref(spec.__name__) for spec in LOSSES.values()), of_a_package) | {
        "description": "A loss under another name; the field loss names the loss.",
        "discriminator": {"propertyName": "loss"},
        "required": ["loss"],
    }


def _any(*alternatives: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(alternatives)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
