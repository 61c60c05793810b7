"""Tasks and arms by name: installed ones, those of a file, and the one way to spell them.

``NAME key=value ...``, with the options that differ from their defaults, is how a task or an arm is
written in a study's file, on the command line, in the names of runs and in reports:
``alrc num_stddev=2``, ``./heavy.py:Heavy power=4``. A value is written as in TOML; quotes may be
left out, and ``none`` stands for nothing given. Arms that act one after another are joined by a
plus sign: ``alrc num_stddev=2 + clip-grad-norm``.
"""

import hashlib
import importlib.util
import json
import math
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from alrc.lab.api import Arm, Options, Task
from alrc.lab.engine.chain import Chain
from alrc.lab.engine.sources import sources_of

__all__ = ["Chained", "Kind", "Named", "installed", "parse_value", "versions"]

Kind = Literal["task", "arm"]
BASES: dict[Kind, type[Options]] = {"task": Task, "arm": Arm}
JOIN = "+"  # between arms


@dataclass(frozen=True)
class Named:
    """A task or an arm by its name, before it is made; sent to other processes in its place.

    Args:
        kind: Which of the two.
        name: Of an installed one, or ``path/to/file.py:Class``, with a whole path.
        given: The options that were given, by name.
    """

    kind: Kind
    name: str
    given: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, kind: Kind, text: str, folder: Path) -> "Named":
        """Reads ``NAME key=value ...``; paths are relative to the folder.

        Raises:
            ValueError: If it is not of this form.
        """
        try:
            words = shlex.split(text)
        except ValueError:
            words = []
        if kind == "arm" and JOIN in words:
            return Chained.of([cls._parse(kind, part, text, folder) for part in _parts(words)])
        return cls._parse(kind, words, text, folder)

    @staticmethod
    def _parse(kind: Kind, words: Sequence[str], text: str, folder: Path) -> "Named":
        if not words:
            raise ValueError(
                f"{kind} must be NAME key=value ..., such as 'alrc num_stddev=2'; got {text!r}."
            )
        name, *words = words
        given = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not key or key in given:
                raise ValueError(
                    f"{kind} must be NAME key=value ..., each key once; got {word!r} in {text!r}."
                )
            given[key] = parse_value(value)
        file, colon, attribute = name.rpartition(":")
        if colon:
            name = f"{(folder / file).resolve()}:{attribute}"
        return Named(kind, name, tuple(given.items()))

    @property
    def parts(self) -> Sequence["Named"]:
        """The arms that act one after another."""
        return (self,)

    def having(self, options: Mapping[str, Any]) -> "Named":
        """The same with other options beside those given, or in their place."""
        return Named(self.kind, self.name, tuple({**dict(self.given), **options}.items()))

    def placed(self) -> "Named":
        """With whole paths in the options that say where a task's data are."""
        cls = self.find()
        places = cls.places if issubclass(cls, Task) else ()
        paths = {n: Path(v) for n, v in self.given if n in places and isinstance(v, str)}
        return self.having({n: str(p.resolve()) for n, p in paths.items() if p.exists()})

    @property
    def file(self) -> Path | None:
        """Where it comes from, if it is not installed."""
        path, colon, _ = self.name.rpartition(":")
        return Path(path) if colon else None

    @property
    def short_name(self) -> str:
        """Without folders."""
        return self.name if self.file is None else self.name.removeprefix(f"{self.file.parent}/")

    def find(self) -> type[Options]:
        """The class.

        Raises:
            ValueError: If there is none of this name, or it can't be imported.
        """
        found = _installed(self.kind, self.name) if self.file is None else _own(self.name)
        if not (isinstance(found, type) and issubclass(found, BASES[self.kind])):
            base = BASES[self.kind].__name__
            raise ValueError(f"{self.name} must be a subclass of alrc.lab.api.{base}; it is not.")
        return found

    def make(self) -> Any:
        """The task or the arm.

        Raises:
            ValueError: If an option is unknown, missing or out of its bounds.
        """
        cls, given = self.find(), dict(self.given)
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        for name in given.keys() - known.keys():
            raise ValueError(
                f"{self.short_name}: options must be among {', '.join(known) or 'none'}; got "
                f"{name}."
            )
        for name, f in known.items():
            if f.default is MISSING and f.default_factory is MISSING and name not in given:
                raise ValueError(f"{self.short_name}: {name} must be given, {_help(cls, name)}.")
        return cls(**given)

    @property
    def spelled(self) -> str:
        """Its one spelling: the name, and the options that are not the default, in their order."""
        made = self.make()
        places = made.places if isinstance(made, Task) else ()
        words = [self.short_name]
        for f in fields(made):
            value = getattr(made, f.name)
            if value != f.default and f.name not in places:
                words.append(f"{f.name}={_spell_value(value)}")
        return " ".join(words)


@dataclass(frozen=True)
class Chained(Named):
    """Arms that act one after another, as one; its class and options are those of its parts."""

    chain: tuple[Named, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Named]) -> "Chained":
        return cls("arm", f" {JOIN} ".join(part.name for part in parts), chain=tuple(parts))

    @property
    def parts(self) -> Sequence[Named]:
        return self.chain

    def having(self, options: Mapping[str, Any]) -> "Chained":
        """The same, each with those of the options that it has."""
        known = [{f.name for f in fields(part.find())} for part in self.parts]  # type: ignore[arg-type]
        own = [{n: x for n, x in options.items() if n in names} for names in known]
        return self.of([part.having(x) for part, x in zip(self.parts, own, strict=True)])

    @property
    def short_name(self) -> str:
        return f" {JOIN} ".join(part.short_name for part in self.parts)

    def make(self) -> Chain:
        return Chain([part.make() for part in self.parts])

    @property
    def spelled(self) -> str:
        return f" {JOIN} ".join(part.spelled for part in self.parts)


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    """What stands between plus signs."""
    part: list[str] = []
    for word in words:
        if word == JOIN:
            yield part
            part = []
        else:
            part.append(word)
    yield part


def _help(cls: type[Options], name: str) -> str:
    return cls.helps()[name].rstrip(".") or "because it has no default"


def _spell_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return shlex.quote(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf or nan, as TOML has them
    return shlex.quote(json.dumps(value, separators=(",", ":")))


def parse_value(text: str) -> Any:
    """A value as TOML has it, ``none``, or else the text itself."""
    if text == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"alrc.{kind}s")}


@cache
def versions() -> str:
    """Of PyTorch, and of what tasks and arms are installed with."""
    dists = [entry.dist for kind in BASES for entry in _entries(kind).values()]
    known = {f"{dist.name} {dist.version}" for dist in dists if dist is not None}
    return ", ".join(sorted({*known, f"torch {torch.__version__}"}))


def installed(kind: Kind) -> list[str]:
    """Names of those that are installed."""
    return sorted(_entries(kind))


@cache  # to look through all that is installed takes milliseconds
def _installed(kind: Kind, name: str) -> Any:
    if name not in _entries(kind):
        raise ValueError(
            f"{kind} must be one of {', '.join(installed(kind))}, or one of your own as "
            f"path/to/file.py:Class; got {name}."
        )
    return _entries(kind)[name].load()


def _own(name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    module = _module(Path(path))
    if not hasattr(module, attribute):
        raise ValueError(f"{path} must define {attribute}; it does not.")
    return getattr(module, attribute)


@cache
def _module(path: Path) -> ModuleType:
    """The file as a module, once in each process."""
    if not path.is_file():
        raise ValueError(f"{path} must be a Python file; there is none. Check the path.")
    name = f"alrc_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what it imports from beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(
            f"{path} must be importable; {type(error).__name__}: {error}. Run it with python to "
            "see where."
        ) from error
    for helper, file in sources_of(path).items():
        taken = getattr(sys.modules.get(helper), "__file__", None)
        if file != path and taken is not None and not file.samefile(taken):
            raise ValueError(
                f"{path} must get {helper} from the file beside it, because that is what its runs "
                f"are known by; Python has it from {taken}. Rename that file."
            )
    return module
