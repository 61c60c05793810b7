"""What a study crosses with what, and what its runs are called."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from alrc.lab.api import Task, Training
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.study_file import read_file

__all__ = ["Grid", "named"]

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
        return cls(**read_file(file, changes or {}))

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
        specs = self.specs()
        facts = [_facts(spec) for spec in specs]
        self._check_primary(facts)
        found: dict[tuple[str, str], set[str]] = {}  # the values of each key of each task
        for fact in facts:
            for key, value in fact.items():
                found.setdefault((fact["task"], key), set()).add(repr(value))
        several = len({fact["task"] for fact in facts}) > 1
        words = [
            [
                _word(key, value)
                for key, value in fact.items()
                if len(found[fact["task"], key]) > 1 or (several and key == "task")
            ]
            for fact in facts
        ]
        return named(zip(words, specs, strict=True), there)

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


def named(
    specs: Iterable[tuple[Sequence[str], Spec]], there: Iterable[str] = ()
) -> dict[str, Spec]:
    """Runs by name: words that tell what varies, the seed, and eight digits that stay.

    Args:
        specs: The words, and the run.
        there: Names of run folders that exist; a run keeps the one that it has.
    """
    known = {name.rpartition("-")[2]: name for name in there}
    found = {}
    for words, spec in specs:
        name = "-".join([*words, f"seed{spec.seed}"])
        name = re.sub(r"[^A-Za-z0-9._=+-]+", "-", name)[:LONGEST_NAME].strip("-.")
        found[known.get(spec.digest, f"{name}-{spec.digest}")] = spec
    return found


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
