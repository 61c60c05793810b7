"""A study, from a TOML file: which tasks are crossed with which arms, options and seeds.

::

    task = "supersampling width=16"       # or tasks = [...]; ./heavy.py:Heavy for one of your own
    arms = ["off", "alrc", "alrc + clip-grad-norm"]    # + is one after the other
    seeds = 5                             # 0 to 4, or a list
    primary = { arm = "alrc", "task.error" = "quartic" }   # the comparison it is made for

    [set]                                 # the same in all runs
    training.steps = 10_000

    [cross]                               # each value with each of every other key
    task.error = ["squared", "quartic"]
    arm.num_stddev = [2, 3]               # for arms, alone or joined, that have it

    [zip]                                 # first values together, second values together, ...
    training.optimizer = ["adam", "sgd"]
    training.learning_rate = [1e-3, 3e-3]
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from alrc.lab.api import Task, Training
from alrc.lab.engine.naming import Kind, Named
from alrc.lab.engine.spec import Spec

__all__ = ["Grid"]

KEYS = ("task", "tasks", "arms", "seeds", "primary", "ensembles", "set", "cross", "zip")
PARTS = ("task", "arm", "training")
LONGEST_NAME = 150  # characters; file systems take 255 bytes


@dataclass(frozen=True)
class Grid:
    """What a study crosses with what.

    Args:
        file: Where it was written, for messages.
        tasks: What is learned, ``NAME key=value ...`` each.
        arms: What is done to losses and gradients, in the same way.
        seeds: A seed gives the same initial weights and data to all designs.
        values: Dotted keys of task, arm and training, and the one value that all runs have.
        cross: Dotted keys, and values that are crossed with all others.
        together: Dotted keys with equally many values, which go together.
        primary: The comparison that the study is made for: ``arm`` and dotted keys that tell its
            setting from the others. None, and all comparisons are corrected for one another.
        ensembles: Whether runs are trained together where their task allows it.

    Raises:
        ValueError: If a task, an arm, a key or a value is not what it must be.
    """

    file: str
    tasks: tuple[Named, ...]
    arms: tuple[Named, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, Any]
    cross: Mapping[str, list[Any]]
    together: Mapping[str, list[Any]]
    primary: Mapping[str, Any] | None = None
    ensembles: bool = True

    @classmethod
    def read(cls, file: Path, changes: Mapping[str, Any] | None = None) -> "Grid":
        """Reads a file.

        Args:
            file: The TOML file; paths in it are relative to its folder.
            changes: Keys and values that take the place of those in the file: ``seeds``, say, or
                dotted ones such as ``task.width``; a list of these is crossed.
        """
        if not file.is_file():
            kind = "a folder" if file.is_dir() else "missing"
            raise ValueError(f"{file} must be a TOML file that describes a study; it is {kind}.")
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:  # UnicodeDecodeError is one too
            raise ValueError(f"{file} must be a TOML file; {error}.") from None
        except RecursionError:
            raise ValueError(f"{file} must be a TOML file; it is nested too deeply.") from None
        return _Reader(str(file), file.parent).grid(content, changes or {})

    def specs(self) -> list[Spec]:
        """The runs, each once.

        Raises:
            ValueError: If an option is out of its bounds, or a key belongs to no task or arm.
        """
        used: set[str] = set()
        specs: dict[str, Spec] = {}
        for task, choice in product(self.tasks, self._choices()):
            options = _having(task, _part(choice, "task"), used).placed()
            training = self._training(options, _part(choice, "training"), used)
            for arm, seed in product(self.arms, self.seeds):
                spec = Spec(options, _having(arm, _part(choice, "arm"), used), training, seed)
                specs.setdefault(f"{spec.task} {spec.arm} {spec.training} {seed}", spec)
        for key in (*self.values, *self.cross, *self.together):
            if key not in used:
                raise ValueError(
                    f"{self.file}: {key} must be an option of a task or an arm of the study; it is "
                    "of none. alrc lab list shows them."
                )
        return list(specs.values())

    def named_specs(self, there: Iterable[str] = ()) -> dict[str, Spec]:
        """The runs by name, which tells what varies, and ends in eight digits that stay.

        Args:
            there: Names of run folders that exist; a run keeps the one that it has.
        """
        known = {name.rpartition("-")[2]: name for name in there}
        specs = self.specs()
        facts = [_facts(spec) for spec in specs]
        self._check_primary(facts)
        found: dict[tuple[str, str], set[str]] = {}  # the values of each key of each task
        for fact in facts:
            for key, value in fact.items():
                found.setdefault((fact["task"], key), set()).add(repr(value))
        several = len({fact["task"] for fact in facts}) > 1
        named = {}
        for spec, fact in zip(specs, facts, strict=True):
            words = [
                _word(key, value)
                for key, value in fact.items()
                if len(found[fact["task"], key]) > 1 or (several and key == "task")
            ]
            name = "-".join([*words, f"seed{spec.seed}"])
            name = re.sub(r"[^A-Za-z0-9._=+-]+", "-", name)[:LONGEST_NAME].strip("-.")
            named[known.get(spec.digest, f"{name}-{spec.digest}")] = spec
        return named

    def _check_primary(self, facts: list[dict[str, Any]]) -> None:
        wanted = dict(self.primary or {})
        if not any(all(fact.get(key) == value for key, value in wanted.items()) for fact in facts):
            raise ValueError(
                f"{self.file}: primary must be one of the comparisons of the study; there is none "
                f"with {', '.join(f'{key} = {value!r}' for key, value in wanted.items())}."
            )

    def record(self) -> dict[str, Any]:
        """What study.json holds: all of this, as plain values."""
        return {
            "tasks": [task.spelled for task in self.tasks],
            "arms": [arm.spelled for arm in self.arms],
            "seeds": list(self.seeds),
            "set": dict(self.values),
            "cross": dict(self.cross),
            "zip": dict(self.together),
            "primary": None if self.primary is None else dict(self.primary),
        }

    def _choices(self) -> Iterator[dict[str, Any]]:
        """Every value of each key."""
        rows = [
            dict(zip(self.together, row, strict=True))
            for row in zip(*self.together.values(), strict=True)
        ]
        for row, values in product(rows or [{}], product(*self.cross.values())):
            yield {**self.values, **row, **dict(zip(self.cross, values, strict=True))}

    def _training(self, task: Named, given: dict[str, Any], used: set[str]) -> Training:
        used |= {f"training.{name}" for name in given}
        cls = task.find()
        assert issubclass(cls, Task)
        known = [f.name for f in fields(Training)]
        for name in given:
            if name not in known:
                raise ValueError(
                    f"{self.file}: options of training must be among {', '.join(known)}; got "
                    f"{name}."
                )
        options = {**cls.defaults, **given}
        if "steps" not in options:
            raise ValueError(
                f"{self.file}: training.steps must be given, because {task.short_name} has no "
                "default for it. Add it under [set]."
            )
        return Training(**options)


class _Reader:
    """Turns what a TOML file holds into a grid, or says what is wrong with it."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file, self.folder = file, folder

    def grid(self, content: dict[str, Any], changes: Mapping[str, Any]) -> Grid:
        for key in content:
            if key not in KEYS:
                raise self.error(f"keys must be among {', '.join(KEYS)}; got {key}")
        tables = {name: self.table(name, content) for name in ("set", "cross", "zip")}
        for key, value in changes.items():
            if key in KEYS:
                content[key] = value
                continue
            if key.partition(".")[0] not in PARTS:
                raise self.error(
                    "what is set must be seeds, arms, tasks, or a key such as task.width, "
                    f"arm.num_stddev or training.steps; got {key}"
                )
            for table in tables.values():
                table.pop(key, None)
            tables["cross" if isinstance(value, list) else "set"][key] = value
        for name in ("cross", "zip"):
            for key, values in tables[name].items():
                if not isinstance(values, list) or not values:
                    raise self.error(f"{name}.{key} must be a list of values; got {values!r}")
        if len({len(values) for values in tables["zip"].values()}) > 1:
            raise self.error("all lists under [zip] must have the same length")
        if twice := [k for k in tables["set"] if k in tables["cross"] or k in tables["zip"]]:
            raise self.error(f"{twice[0]} must be in one of [set], [cross] and [zip]; it is in two")
        if ("task" in content) == ("tasks" in content):
            raise self.error("either task or tasks must be given, to say what is learned")
        ensembles = content.get("ensembles", True)
        if not isinstance(ensembles, bool):
            raise self.error(f"ensembles must be true or false; got {ensembles!r}")
        return Grid(
            self.file,
            self.named("task", content.get("tasks", [content.get("task")])),
            self.named("arm", content.get("arms")),
            self.seeds(content.get("seeds", 5)),
            tables["set"],
            tables["cross"],
            tables["zip"],
            self.primary(content.get("primary")),
            ensembles,
        )

    def error(self, words: str) -> ValueError:
        return ValueError(f"{self.file}: {words}.")

    def table(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """The table with dotted keys."""
        table = content.get(name, {})
        flat = {}
        for part, options in table.items() if isinstance(table, dict) else [(table, None)]:
            if part not in PARTS or not isinstance(options, dict):
                raise self.error(
                    f"keys under [{name}] must be task.NAME, arm.NAME or training.NAME; got "
                    f"{part!r}"
                )
            flat.update({f"{part}.{key}": value for key, value in options.items()})
        return flat

    def named(self, kind: Kind, given: Any) -> tuple[Named, ...]:
        if not isinstance(given, list) or not given or not all(type(x) is str for x in given):
            example = {"arm": '["off", "alrc"]', "task": '["supersampling width=16"]'}[kind]
            raise self.error(f"{kind}s must be a list such as {example}; got {given!r}")
        return tuple(Named.parse(kind, text, self.folder) for text in given)

    def seeds(self, given: Any) -> tuple[int, ...]:
        seeds = list(range(given)) if type(given) is int and 0 < given < 10**6 else given
        if (
            not isinstance(seeds, list)
            or not seeds
            or not all(type(x) is int and 0 <= x < 2**63 for x in seeds)
            or len(set(seeds)) < len(seeds)
        ):
            raise self.error(
                "seeds must be a number of seeds >= 1, or a list of different whole numbers >= 0; "
                f"got {given!r}"
            )
        return tuple(seeds)

    def primary(self, given: Any) -> dict[str, Any] | None:
        if given is None:
            return None
        if not isinstance(given, dict) or type(given.get("arm")) is not str:
            raise self.error(
                'primary must be a table such as { arm = "alrc num_stddev=2" }, with dotted keys '
                f"of the setting where there are several; got {given!r}"
            )
        arm = Named.parse("arm", given["arm"], self.folder).spelled
        return {**_flat(given), "arm": arm}


def _flat(table: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Nested tables with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        inner = (
            _flat(value, f"{name}{key}.") if isinstance(value, dict) else {f"{name}{key}": value}
        )
        flat.update(inner)
    return flat


def _part(choice: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The keys of a part without its name."""
    return {k.partition(".")[2]: v for k, v in choice.items() if k.startswith(f"{part}.")}


def _having(named: Named, options: Mapping[str, Any], used: set[str]) -> Named:
    """With those of the options that it has, in the place of those given with its name."""
    known = {f.name for part in named.parts for f in fields(part.find())}  # type: ignore[arg-type]
    mine = {name: value for name, value in options.items() if name in known}
    used |= {f"{named.kind}.{name}" for name in mine}
    return named.having(mine)


def _facts(spec: Spec) -> dict[str, Any]:
    """What a run may differ in from the others of its study, in the order of its name."""
    config = spec.config
    return {
        "task": spec.task.short_name,
        **{f"task.{name}": value for name, value in config["task_options"].items()},
        **{f"training.{name}": value for name, value in config["training"].items()},
        "arm": config["arm"],
    }


def _word(key: str, value: Any) -> str:
    name = key.rpartition(".")[2]
    return str(value) if isinstance(value, str) else f"{name}={value}"
