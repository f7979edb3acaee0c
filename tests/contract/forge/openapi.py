"""Compares answers with GitLab's own OpenAPI document (Swagger 2.0), field by field.

A finding is `<definition>.<field> <kind>`: `extra` (answered, not documented), `missing` (documented, not answered) or
`type` (another kind of value). Null is no finding: the document does not say what may be null.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path

_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


@dataclass(slots=True, kw_only=True)
class Document:
    """GitLab's document."""

    paths: dict[str, Any]
    definitions: dict[str, Any]
    _findings: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read the file; it has two megabytes."""
        found = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
        return cls(paths=found["paths"], definitions=found["definitions"])

    def compare(self, method: str, template: str, status: int, body: object) -> set[str]:
        """Return the findings for one answer; an undocumented operation or status is one too."""
        operation = self.paths.get(template, {}).get(method.lower())
        if operation is None:
            return {f"{method} {template} undocumented"}
        answer = operation["responses"].get(str(status))
        if answer is None:
            return {f"{method} {template} status {status}"}
        self._findings = set()
        schema = answer.get("schema")
        if schema is None:
            return {f"{method} {template} without a schema"}
        self._value(schema, body, f"{method} {template}")
        return self._findings

    def _value(self, schema: dict[str, Any], value: object, where: str) -> None:
        if value is None:
            return
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[-1]
            self._value(self.definitions[name], value, name)
            return
        kind = schema.get("type")
        if kind == "array" or (kind is None and "items" in schema):
            if not isinstance(value, list):
                self._findings.add(f"{where} type")
                return
            for row in value:
                self._value(schema.get("items", {}), row, where)
            return
        if "properties" in schema:
            self._object(schema["properties"], value, where)
            return
        allowed = _KINDS.get(kind or "", ())
        is_bool = isinstance(value, bool) and kind != "boolean"
        if (kind and not isinstance(value, allowed)) or is_bool:
            self._findings.add(f"{where} type")

    def _object(self, properties: dict[str, Any], value: object, where: str) -> None:
        if isinstance(value, list):  # A list whose document shows one row.
            self._findings.add(f"{where} type")
            for row in value:
                self._object(properties, row, where)
            return
        if not isinstance(value, dict):
            self._findings.add(f"{where} type")
            return
        self._findings |= {f"{where}.{name} missing" for name in properties.keys() - value.keys()}
        self._findings |= {f"{where}.{name} extra" for name in value.keys() - properties.keys()}
        for name in properties.keys() & value.keys():
            self._value(properties[name], value[name], f"{where}.{name}")
