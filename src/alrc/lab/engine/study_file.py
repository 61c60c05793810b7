"""The TOML file of a study: which tasks are crossed with which arms, options and seeds.

::

    task = "supersampling width=16"       # or tasks = [...]; ./heavy.py:Heavy for one of your own
    arms = ["off", "alrc", "alrc + clip-grad-norm"]        # the last: one after the other
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

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alrc.lab.engine.naming import Kind, Named

__all__ = ["flat", "read_file", "read_toml", "seeds_of"]

KEYS = ("task", "tasks", "arms", "seeds", "primary", "ensembles", "set", "cross", "zip")
PARTS = ("task", "arm", "training")


def read_file(file: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a :class:`alrc.lab.engine.grid.Grid` is made of, by the names of its fields.

    Args:
        file: The TOML file.
        changes: What takes the place of what it says.

    Raises:
        ValueError: If it does not describe a study.
    """
    return _Reader(str(file), file.parent).read(read_toml(file), changes)


def read_toml(file: Path) -> dict[str, Any]:
    """What a file holds.

    Raises:
        ValueError: If it is no TOML file.
    """
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "missing"
        raise ValueError(f"{file} must be a TOML file that describes a study; it is {kind}.")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"{file} must be a TOML file; {error}.") from None
    except RecursionError:
        raise ValueError(f"{file} must be a TOML file; it is nested too deeply.") from None


class _Reader:
    """Turns what a TOML file holds into the parts of a grid, or says what is wrong with it."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file, self.folder = file, folder

    def read(self, content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
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
        return {
            "file": self.file,
            "tasks": self.named("task", content.get("tasks", [content.get("task")])),
            "arms": self.named("arm", content.get("arms")),
            "seeds": self.seeds(content.get("seeds", 5)),
            "values": tables["set"],
            "cross": tables["cross"],
            "together": tables["zip"],
            "primary": self.primary(content.get("primary")),
            "ensembles": ensembles,
        }

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
        try:
            return seeds_of(given)
        except ValueError as refusal:
            raise self.error(str(refusal)) from None

    def primary(self, given: Any) -> dict[str, Any] | None:
        if given is None:
            return None
        if not isinstance(given, dict) or type(given.get("arm")) is not str:
            raise self.error(
                'primary must be a table such as { arm = "alrc num_stddev=2" }, with dotted keys '
                f"of the setting where there are several; got {given!r}"
            )
        arm = Named.parse("arm", given["arm"], self.folder).spelled
        return {**flat(given), "arm": arm}


def seeds_of(given: Any) -> tuple[int, ...]:
    """So many seeds from 0 on, or those that are listed.

    Raises:
        ValueError: If they are neither; without a full stop.
    """
    seeds = list(range(given)) if type(given) is int and 0 < given < 10**6 else given
    if (
        not isinstance(seeds, list)
        or not seeds
        or not all(type(x) is int and 0 <= x < 2**63 for x in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ValueError(
            "seeds must be a number of seeds >= 1, or a list of different whole numbers >= 0; got "
            f"{given!r}"
        )
    return tuple(seeds)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; TOML makes tables of those that are not in quotes."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        is_table = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if is_table else {f"{prefix}{key}": value}
    return found
