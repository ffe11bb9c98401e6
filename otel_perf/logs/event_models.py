"""What an event has to be: a Pydantic model under a name and a version. Pydantic itself is the app's to import."""

from __future__ import annotations

from typing import Any, Final

VALUE: Final = 80  # characters of a wrong value in a message


class Registered:
    """One model. Immutable."""

    __slots__ = ("_fields", "_is_open", "_to_python", "_validate", "model", "name", "version", "where")

    def __init__(self, name: str, version: int, model: type[Any]) -> None:
        if not isinstance(model, type) or not {"__pydantic_serializer__", "model_fields"} <= set(dir(model)):
            raise TypeError(f"event {name!r}: {model!r} is no Pydantic model; give a subclass of pydantic.BaseModel")
        self.name = name
        self.version = version
        self.model = model
        self.where = f"{model.__module__}.{model.__qualname__}"
        self._is_open = model.model_config.get("extra") == "allow"
        self._fields = frozenset[str]()

    def check(self, given: dict[str, Any], *, show: bool) -> tuple[dict[str, Any], str]:
        """The fields as the model has them, or as they were given and what is wrong with them. About 2 µs.

        The reason has the wrong values with ``show``: in an attribute they would get past a redaction by key.
        """
        model: Any = self.model
        if not self._is_open:
            fields = self._fields or self._look()
            if not fields.issuperset(given):
                unknown = ", ".join(sorted(key + _shown(given[key], show) for key in given.keys() - fields))
                return given, f"{unknown}: not a field of {self.where}; leave it out, or register a new version with it"
        try:
            made = model.__pydantic_validator__.validate_python(given)
        except Exception as error:  # Pydantic's, or what a validator of the app's raises
            return given, f"{_reason(error, show)}; {self.where} says what it has to be"
        return self.dump(made), ""

    def dump(self, made: Any) -> dict[str, Any]:
        """The fields of an instance as the model writes them as JSON: what it excludes or hides stays so."""
        serializer = type(made).__pydantic_serializer__
        try:
            found = serializer.to_python(made, mode="json", warnings="none")
        except Exception:  # bytes that are no text, a value that was put there later
            found = serializer.to_python(made, warnings="none", fallback=repr)
        return found if isinstance(found, dict) else {"value": found}

    def _look(self) -> frozenset[str]:
        """The names by which fields can be given."""
        model: Any = self.model
        config = model.model_config
        by_name = config.get("populate_by_name") or config.get("validate_by_name")
        by_alias = config.get("validate_by_alias", True)
        names: set[str] = set()
        for name, field in model.model_fields.items():
            alias = field.validation_alias
            if alias is None or by_name:
                names.add(name)
            if alias is not None and by_alias:
                for choice in getattr(alias, "choices", None) or [alias]:
                    names.add(choice if isinstance(choice, str) else str(choice.path[0]))
        self._fields = frozenset(names) or frozenset({""})
        return self._fields


def _reason(error: Exception, show: bool) -> str:
    """What Pydantic found, field by field, without the address of its manual."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return f"{type(error).__name__}: {error}"[:1000]
    found = []
    for problem in errors(include_url=False, include_context=False):
        place = ".".join(map(str, problem["loc"])) or "the whole"
        given = _shown(problem["input"], show and problem["type"] != "missing")
        found.append(f"{place}{given}: {problem['msg']}")
    return "; ".join(found)[:2000]


def _shown(value: object, show: bool) -> str:
    if not show:
        return ""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__} whose repr() fails>"
    return "=" + (text if len(text) <= VALUE else text[: VALUE - 1] + "…")
