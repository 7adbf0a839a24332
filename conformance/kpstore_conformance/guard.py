"""Whether the suite is still the suite: its code and its files, against what they were and should be.

A backend's code runs in the suite's own process, before the first case and during every one. What of the
suite it replaces there is found by looking before the backend is imported, and once more at the end.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from kpstore_conformance import suite
from kpstore_conformance.check import Check, check_modules

__all__ = ["Guard"]

PACKAGES = ("kpstore", "kpstore_conformance")
GROUND = ("builtins", "asyncio", "time", "pytest", "_pytest.outcomes", "_pytest.runner")
"""What the suite stands on, looked at on its surface: public functions and classes."""

# Set by Python itself, once something asks for them.
_LAZY = frozenset({"__abstractmethods__", "__annotations__", "__dict__", "__weakref__", "_abc_impl"})
_SHOWN = 5


class Guard:
    """Takes note of the suite as it is; `problems` says what has become of it since.

    Args:
        checks: whether the checks are part of the run, and so are imported and looked at.
        folders: of scenarios, besides the packaged ones.
        files: whether to look at files, too: one process of a run is enough for that.
    """

    def __init__(self, *, checks: bool, folders: Sequence[Path] = (), files: bool = True) -> None:
        if checks:
            _import_checks()
        self._objects = _objects()
        packages = [_package_file(name).parent for name in PACKAGES]
        self._folders = (*packages, suite.packaged_scenarios(), *folders)
        self._files = _files(self._folders) if files else None
        self._early = _foreign()
        if self._files is not None:
            self._early += [*_hidden(), *_unlike_record(_files(packages))]

    def problems(self) -> list[str]:
        """What is not as it was, or was not right from the start; a line each."""
        now = _objects()
        changed = [path for path, value in self._objects.items() if now.get(path, self) is not value]
        # A class of ours that got a method is a changed class: `__getattribute__` is one.
        changed += [
            path
            for path in now.keys() - self._objects.keys()
            if _owner(path) in self._objects and hasattr(now[path], "__get__")
        ]
        outermost = sorted(path for path in changed if not any(_is_within(path, other) for other in changed))
        found = [f"{path.replace(':', '.')} was replaced during the run" for path in outermost]
        if self._files is not None:
            files = {path for path, _ in self._files.items() ^ _files(self._folders).items()}
            found += [f"{path} was changed during the run" for path in sorted(files)]
        found = [*self._early, *found]
        more = len(found) - _SHOWN
        if more > 1:
            found[_SHOWN:] = [f"and {more} more such things"]
        return [f"not the suite: {one}" for one in found]


def _owner(path: str) -> str | None:
    """Where the class of an attribute is; None of what is a module's."""
    module, _, names = path.partition(":")
    owner = names.rpartition(".")[0]
    return f"{module}:{owner}" if owner else None


def _is_within(path: str, other: str) -> bool:
    return path.startswith((f"{other}.", f"{other}["))


def _import_checks() -> None:
    for name in check_modules():
        try:
            importlib.import_module(f"kpstore_conformance.checks.{name}")
        except Exception:  # noqa: S112 - the run itself reports a module that cannot be imported
            continue


def _ours() -> list[ModuleType]:
    """The modules of both packages, as far as they are loaded."""
    return [
        module
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] in PACKAGES and getattr(module, "__file__", None)
    ]


# ---- objects


def _objects() -> dict[str, object]:
    """Every object that must stay the same one, by where it is: `module:name.attribute`."""
    found: dict[str, object] = {}
    for module in _ours():
        for name, value in list(vars(module).items()):
            if not name.startswith("__") and not isinstance(value, ModuleType):
                found.update(_parts(f"{module.__name__}:{name}", value, module.__name__))
    for name in GROUND:
        for key, value in vars(importlib.import_module(name)).items():
            if not key.startswith("_") and callable(value):
                found[f"{name}:{key}"] = value
    return found


def _parts(path: str, value: Any, module: str) -> Iterator[tuple[str, object]]:
    yield path, value
    function = _function(value)
    if function is not None:
        yield f"{path}.__code__", function.__code__
        yield f"{path}.__defaults__", function.__defaults__
        yield f"{path}.__kwdefaults__", function.__kwdefaults__
    if isinstance(value, Check):
        for field in Check.__slots__:
            yield f"{path}.{field}", getattr(value, field)
    elif isinstance(value, type) and value.__module__ == module:
        for name, attribute in list(vars(value).items()):
            if name not in _LAZY:
                yield from _parts(f"{path}.{name}", attribute, module)
    elif type(value) in (dict, list) and not path.partition(":")[2].startswith("_"):
        # A name with an underscore is a cache as often as not.
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items):
            yield f"{path}[{key!r}]", item


def _function(value: Any) -> FunctionType | None:
    """The plain function inside of what a decorator made of it, if one can be seen."""
    while not isinstance(value, FunctionType):
        if isinstance(value, Check):
            value = value.function
        elif isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        elif "__wrapped__" in getattr(value, "__dict__", ()):
            value = value.__wrapped__
        else:
            return None
    return value


# ---- what was replaced before the suite could look


def _foreign() -> list[str]:
    """The functions whose code is not from the file that they are written in: a plugin was here first."""
    found = []
    for module in _ours():
        file = str(module.__file__)
        for name, lines in _functions_of(module.__name__, file).items():
            function = _function(_at(module, name))
            if function is None:
                continue
            code = function.__code__
            own = code.co_filename == file and code.co_firstlineno in lines
            # What decorators make is from the standard library, or of a text that was compiled: Hypothesis's.
            made = code.co_filename.startswith((sysconfig.get_path("stdlib"), "<string>"))
            if not own and not made:
                place = f"{code.co_filename}:{code.co_firstlineno}"
                found.append(f"{module.__name__}.{name} is from {place}")
    return found


@functools.cache
def _functions_of(module: str, file: str) -> dict[str, set[int]]:
    """The functions that a module's file defines, by qualified name, and the lines where they begin."""
    found: dict[str, set[int]] = {}
    for name, line in _written(SourceFileLoader(module, file).get_code(module)):
        found.setdefault(name, set()).add(line)
    return found


def _written(code: CodeType | None, path: str = "") -> Iterator[tuple[str, int]]:
    """The functions that a module's or a class's body defines, by qualified name, with their lines."""
    for constant in () if code is None else code.co_consts:
        if not isinstance(constant, CodeType) or constant.co_name.startswith("<"):
            continue
        name = f"{path}{constant.co_name}"
        if {"__qualname__", "__module__"} <= {*constant.co_names}:  # a class's body
            yield from _written(constant, f"{name}.")
        else:
            yield name, constant.co_firstlineno


def _at(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    return found


# ---- files


def _files(folders: Sequence[Path]) -> dict[Path, str]:
    """The SHA-256 of every file below these folders."""
    paths = {
        path.resolve()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def _package_file(name: str) -> Path:
    return Path(str(sys.modules[name].__file__)).resolve()


def _hidden() -> list[str]:
    """The packages of our names that other processes, which search `sys.path` anew, would find first."""
    found = []
    for name in PACKAGES:
        first = PathFinder.find_spec(name)
        if first is not None and first.origin is not None:
            origin = Path(first.origin).resolve()
            if origin != _package_file(name):
                found.append(f"{origin} comes before {_package_file(name)} on sys.path")
    return found


def _unlike_record(files: Mapping[Path, str]) -> list[str]:
    """The files that are not as pip installed them, or that some other package has put beside them."""
    try:
        listed = distribution("kpstore").files or []
    except PackageNotFoundError:
        return []
    record = {
        Path(str(one.locate())).resolve(): one.hash.value
        for one in listed
        if one.hash is not None and one.parts[0] in PACKAGES
    }
    if not all(_package_file(name) in record for name in PACKAGES):
        return []  # an editable installation: its files change with every edit, as they should
    found = [f"{path} is gone" for path in sorted(record.keys() - files.keys()) if path.suffix != ".pyc"]
    for path, digest in files.items():
        encoded = base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()
        if path not in record:
            found.append(f"{path} is not part of the installed package")
        elif record[path] != encoded:
            found.append(f"{path} is not the file that was installed")
    return found
