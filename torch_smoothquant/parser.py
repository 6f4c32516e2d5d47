"""From a spec's text to its object. What a text means is decided by the one parser in C++ (see docs/spec.md)."""

from __future__ import annotations

from typing import Any

from . import _C, compressors, mechanisms
from .spec import Spec, SpecError

_CLASSES: dict[str, type[Spec]] = {  # the dataclasses of these two modules; their bases are none
    c.__name__: c for module in (compressors, mechanisms) for c in vars(module).values()
    if isinstance(c, type) and issubclass(c, Spec) and c.__module__ == module.__name__ and "__dataclass_fields__" in vars(c)
}


def _build(value: Any) -> Any:
    if isinstance(value, list):
        return [_build(item) for item in value]
    if isinstance(value, tuple):
        name, arguments = value
        positional = [_build(v) for key, v in arguments if not key]
        return _CLASSES[name](*positional, **{key: _build(v) for key, v in arguments if key})
    return value


def parse(text: str) -> Spec:
    """The object that a spec stands for: ``parse(repr(x)) == x``.

    Raises:
        SpecError: (a ValueError) showing the column, if the text does not parse or names impossible values.
        TypeError: if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"spec: expected a string, got {type(text).__name__}")
    return _build(_C.parse(text))


def to_text(spec: Spec | str, argument: str) -> str:
    """The text of a spec given as text or object; validated. ``argument`` names it in errors."""
    if isinstance(spec, Spec):
        return repr(spec)
    if isinstance(spec, str):
        try:
            return repr(parse(spec))
        except SpecError as error:
            raise SpecError(f"{argument}: {error}") from None
    raise TypeError(f"{argument}: expected a spec (a string or one of {', '.join(sorted(_CLASSES))}), got {type(spec).__name__}")
