"""Build pydantic models that check a recipe out of the parts themselves: a part's fields are its keys.

A part is a frozen dataclass, or a function whose keyword-only arguments are its keys. `choice` makes the
model of "exactly one part out of a registry"; pydantic's errors then carry the whole path into the recipe.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Optional, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails

from ..core import extensions
from ..core.errors import RecipeError
from ..core.text import did_you_mean, shown
from .yaml_reader import Mistake, Path, Tree

Registry = Mapping[str, Callable[..., Any]]


class Section(BaseModel):
    """Map keys of a recipe: unknown keys are refused, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, value: Any) -> Any:
        if isinstance(value, dict):  # what a validator has looked at is strict Python, no longer JSON
            return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
        return value


class Absent(BaseModel):
    """Hold the keys of a part that is not installed, in a recipe that is read back."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Open(Section):
    """Name parts of a registry that other distributions add to.

    Attributes:
        registry: where names are looked up that the model has no field for; None if there are none.
        beside: fields of each part beside its own keys, as for `pydantic.create_model`.
    """

    registry: ClassVar[extensions.Registry[Any] | None] = None
    beside: ClassVar[dict[str, Any]] = {}

    @classmethod
    def widened(cls, names: Iterable[str], kept: bool = False) -> type[Open]:
        """Return the model with a field for each part from outside among ``names``.

        Args:
            kept: let parts stand that are not installed or cannot be used.

        Raises:
            RecipeError: if one cannot be used.
        """
        known, fields = keys_of(cls), {}
        for name in names if cls.registry is not None else ():
            model = cls._part_from_outside(name, name in known, kept)
            if model is not None:  # an attribute of any other name might be one of pydantic's
                fields[f"part_{name}"] = (Optional[model], Field(default=None, alias=name))  # noqa: UP045
        return create_model(cls.__name__, __base__=cls, **fields) if fields else cls  # type: ignore[call-overload]

    @classmethod
    def _part_from_outside(cls, name: str, known: bool, kept: bool) -> type[BaseModel] | None:
        assert cls.registry is not None
        try:
            cls.registry.check(name)
            if known or name not in cls.registry.names:
                return Absent if kept and not known else None
            return _part_of(cls.registry, name, cls.beside)
        except RecipeError:
            if kept:
                return None if known else Absent
            raise

    @model_validator(mode="wrap")
    @classmethod
    def _from_outside(cls, value: Any, handler: ModelWrapValidatorHandler[Open], info: ValidationInfo) -> Open:
        names = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        wide = cls.widened(names, bool(info.context))
        if wide is cls:
            return handler(value)
        return wide.model_validate_json(json.dumps(value, default=str), context=info.context)


def _part_of(registry: extensions.Registry[Any], name: str, beside: Mapping[str, Any]) -> type[BaseModel]:
    made = registry[name]
    try:
        return part(made, **beside)
    except Exception as error:  # code from outside may have any annotation and default
        raise registry.broken(name, f"has keys that a recipe cannot hold: {error}") from error


class Choice(Open):
    """Choose exactly one part: ``name: {keys}``, or ``name`` alone for its defaults.

    Attributes:
        besides: keys that may stand beside the part, and are none.
    """

    besides: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {name: {} if keys is None else keys for name, keys in value.items()}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Choice:
        if len(self._named) != 1:
            raise ValueError(
                "name exactly one of " + ", ".join(k for k in keys_of(type(self)) if k not in self.besides)
            )
        return self

    @property
    def _named(self) -> set[str]:
        return self.model_fields_set - self.besides

    @property
    def name(self) -> str:
        """Return the part's name in recipes."""
        (attribute,) = self._named
        return type(self).model_fields[attribute].alias or attribute

    def build(self, registry: Registry, **more: Any) -> Any:
        """Build the part; choices among its keys are built too, from ``more[key]``, a registry each."""
        return registry[self.name](**self.keys(**more))

    def keys(self, **registries: Registry) -> dict[str, Any]:
        """Return the part's keys as Python values."""
        (attribute,) = self._named
        values = values_of(getattr(self, attribute))
        return {n: v.build(registries[n]) if isinstance(v, Choice) else v for n, v in values.items()}


def part(made: Callable[..., Any], *, inner: Mapping[Any, type[BaseModel]] = {}, **more: Any) -> type[BaseModel]:
    """Build the model of a part's keys.

    Args:
        made: the dataclass or function.
        inner: models for fields whose type is itself a kind of part.
        more: further fields, as for `pydantic.create_model`.
    """
    hints = get_type_hints(made, include_extras=True)
    if dataclasses.is_dataclass(made):
        defaults = {f.name: ... if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(made)}
    else:
        arguments = inspect.signature(made).parameters.values()
        defaults = {a.name: a.default for a in arguments if a.kind is a.KEYWORD_ONLY}
    fields = {name: (inner.get(hints[name], hints[name]), default) for name, default in defaults.items()}
    name = getattr(made, "__name__", "Part")
    model: type[BaseModel] = create_model(name, __base__=Section, **more, **fields)  # type: ignore[call-overload]
    return model


def choice(registry: Registry, *, inner: Mapping[Any, type[BaseModel]] = {}) -> Any:
    """Build the model of one part out of ``registry``."""
    model = create_model("Choice", __base__=Choice, **optional(parts(registry, inner=inner)))
    model.registry = registry if isinstance(registry, extensions.Registry) else None
    return model


def parts(registry: Registry, *, inner: Mapping[Any, type[BaseModel]] = {}) -> dict[str, type[BaseModel]]:
    """Build the model of each part in ``registry``."""
    return {key: part(made, inner=inner) for key, made in registry.items()}


def values_of(model: BaseModel) -> dict[str, Any]:
    """Return a part's keys as Python values."""
    return {name: getattr(model, name) for name in type(model).model_fields}


def optional(models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Build fields that may be left out, under the names of recipes (which may have hyphens)."""
    return {
        key.replace("-", "_"): (Optional[model], Field(default=None, alias=key))  # noqa: UP045 - made at run time
        for key, model in models.items()
    }


def keys_of(model: type[BaseModel]) -> list[str]:
    """List the keys that a model knows."""
    return [field.alias or name for name, field in model.model_fields.items()]


def check(model: type[BaseModel], tree: Tree, kept: bool = False) -> tuple[Any, list[Mistake]]:
    """Validate a recipe's data; return the model's instance, or everything that is wrong with the data.

    Args:
        kept: let parts stand that are not installed.
    """
    try:
        # Through JSON: pydantic then speaks of objects and arrays, not of Python's types.
        return model.model_validate_json(json.dumps(tree.data, default=str), context=kept or None), []
    except ValidationError as error:
        return None, _mistakes(error.errors(), model, tree)


def _mistakes(errors: list[ErrorDetails], model: type[BaseModel], tree: Tree) -> list[Mistake]:
    """Word one mistake for each place, though pydantic reports every type that a value might have had."""
    by_path: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(_innermost(model, error["loc"])[1], []).append(error)
    return [Mistake(tree.where(path), _word_mistake(path, errors, model)) for path, errors in by_path.items()]


def _word_mistake(path: Path, errors: list[ErrorDetails], model: type[BaseModel]) -> str:
    name = ".".join(str(step) for step in path)
    kind, value = errors[0]["type"], errors[0].get("input")
    if kind == "extra_forbidden":
        known = _known(_innermost(model, path)[0])
        hint = did_you_mean(str(path[-1]), known) or f" (known: {', '.join(known)})"
        return f"unknown key {shown(path[-1])}{hint}"
    if kind == "missing":
        return f"{name} is missing"
    reason = " or ".join(error["msg"].removeprefix("Value error, ").removeprefix("Input ") for error in errors)
    if kind not in ("value_error", "too_long"):
        reason += f", not {shown(json.dumps(value, default=str, ensure_ascii=False))}"
    return f"{name or 'the recipe'}: {reason}"


def _known(model: type[BaseModel]) -> list[str]:
    """List the keys that may stand in a section, parts from outside included."""
    names = model.registry.names if issubclass(model, Open) and model.registry is not None else []
    return [*keys_of(model), *(name for name in names if name not in keys_of(model))]


def _innermost(model: type[BaseModel], path: Path) -> tuple[type[BaseModel], Path]:
    """Find the innermost model on a path, and the path without the name of a type, which pydantic may add."""
    for depth, step in enumerate(path):
        if issubclass(model, Open) and isinstance(step, str):
            model = model.widened([step])
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if step not in fields:
            break
        annotation = fields[str(step)].annotation
        models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not models:
            items = (item for item in path[depth + 1 :] if isinstance(item, int))
            return model, (*path[: depth + 1], *items)
        model = models[0]
    return model, path
