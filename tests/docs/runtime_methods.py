"""A griffe extension: the methods that `asm.methods` makes at run time, as pages of the API show them.

griffe reads source text, where such a method is an attribute with a call as its value. This extension
replaces it by a function with the signature and the docstring that the running program has.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from types import FunctionType
from typing import Any

import griffe


class RuntimeMethods(griffe.Extension):
    """Replaces attributes of a class whose values are functions."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        made = [name for name, member in cls.members.items() if member.is_attribute and name[0] != "_"]
        if not made or not cls.module.path.startswith("asm"):
            return
        running = vars(getattr(import_module(cls.module.path), cls.name))
        for name in made:
            function = running.get(name)
            if isinstance(function, FunctionType):
                cls.set_member(name, _function(name, function, cls))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Shows the parameters of the models as a caller writes them."""
        for cls in pkg["models"].classes.values():
            for parameter in cls.parameters if "__init__" in cls.members else ():
                parameter.annotation = _accepted(parameter.annotation)
                parameter.default = _default(parameter.default)


def _function(name: str, function: FunctionType, cls: griffe.Class) -> griffe.Function:
    signature = inspect.signature(function)
    docstring = inspect.getdoc(function)
    if docstring is None:
        raise ValueError(f"{cls.path}.{name} has no docstring")
    documented = griffe.Function(
        name,
        parameters=griffe.Parameters(*map(_parameter, signature.parameters.values())),
        returns=str(signature.return_annotation),
        lineno=cls.members[name].lineno,
        endlineno=cls.members[name].endlineno,
        parent=cls,
    )
    documented.docstring = griffe.Docstring(docstring, parent=documented)
    if inspect.iscoroutinefunction(function):
        documented.labels.add("async")
    return documented


def _accepted(annotation: Any) -> Any:
    """The type that the constructor accepts, where the attribute has another one."""
    if not str(annotation).startswith("Coerced["):
        return annotation
    return annotation.slice.elements[0]


def _default(default: Any) -> Any:
    text = re.sub(r"^partial\((new_id), .*\)\(\)$", r"\1()", str(default))
    return {str(default): default, "dict()": "{}", "_unset()": "now()"}.get(text, text)


def _parameter(parameter: inspect.Parameter) -> griffe.Parameter:
    absent = inspect.Parameter.empty
    return griffe.Parameter(
        parameter.name,
        annotation=None if parameter.annotation is absent else str(parameter.annotation),
        kind=_KINDS[parameter.kind],
        default=None if parameter.default is absent else repr(parameter.default),
    )


_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}
