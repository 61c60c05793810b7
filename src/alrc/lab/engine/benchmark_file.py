"""The TOML file of a benchmark: workloads, each with many arms, of which some are tuned first.

::

    [arms]                                # named lists
    everywhere = ["off", "alrc", "clip-grad-norm"]

    [tune]
    seeds = [1000, 1001, 1002]            # that no workload has
    [tune.everywhere]                     # of a list: arms with one option each, and its trials
    clip-grad-norm = { max_norm = [0.3, 1, 3] }

    [[workloads]]
    name = "diabetes-broken"
    part = "broken-targets"               # workloads of a part are run and stored together
    kind = "broken"                       # or calm, or trap
    twin = "diabetes"                     # of a broken one: the calm one, if there is one
    family = "regression"
    task = "regression broken=0.02"
    arms = ["everywhere"]
    seeds = 20                            # 0 to 19, or a list
    set = { training.steps = 2000 }

A file with ``base = "OTHER.toml"`` is the benchmark of that file with fewer seeds, workloads or
steps: it holds ``seeds``, ``parts``, ``workloads``, ``arms``, ``[set]`` and ``[tune]``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alrc.lab.engine.grid import Grid
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.study_file import flat, read_toml, seeds_of

__all__ = ["KINDS", "Benchmark", "Workload", "is_benchmark"]

KINDS = ("broken", "calm", "trap", "aside")
FAMILIES = ("regression", "classification", "images", "language", "control")
NEEDED = ("name", "part", "title", "kind", "family", "task", "arms")
KEYS = (*NEEDED, "twin", "breaks", "remedy", "seeds", "set")
FEWER = ("base", "seeds", "parts", "workloads", "arms", "set", "tune")
EVALUATIONS = 20  # in a run whose file says no other number


@dataclass(frozen=True)
class Workload:
    """A task with its options and those of training, and who is compared on it.

    Args:
        name: By which it is known.
        part: Of the benchmark.
        table: What the file says of it, as plain values.
        arms: What is done to losses and gradients.
        seeds: Of the runs.
        trials: Arms to choose one of, by what they are trials of.
        grid: Of the task, without arms and seeds.
    """

    name: str
    part: str
    table: Mapping[str, Any]
    arms: tuple[Named, ...]
    seeds: tuple[int, ...]
    trials: Mapping[str, tuple[Named, ...]]
    grid: Mapping[str, Any]

    def specs(self, arms: Sequence[Named], seeds: Sequence[int]) -> list[Spec]:
        """Runs of these arms and seeds."""
        return Grid(arms=tuple(arms), seeds=tuple(seeds), **self.grid).specs()


@dataclass(frozen=True)
class Benchmark:
    """Workloads, in their order, and the seeds that arms are tuned on."""

    file: str
    workloads: tuple[Workload, ...]
    tuning_seeds: tuple[int, ...]

    @property
    def parts(self) -> list[str]:
        return list(dict.fromkeys(workload.part for workload in self.workloads))

    def of(self, part: str) -> list[Workload]:
        return [workload for workload in self.workloads if workload.part == part]

    @classmethod
    def read(
        cls, file: Path, changes: Mapping[str, Any] | None = None, parts: Sequence[str] = ()
    ) -> "Benchmark":
        """Reads a file, and checks all of it.

        Args:
            file: The TOML file.
            changes: Keys and values that take the place of those of all workloads: ``seeds``,
                ``tune.seeds``, or dotted ones such as ``training.steps``.
            parts: Those to leave in; all, if none is named.

        Raises:
            ValueError: If it does not describe a benchmark.
        """
        content, fewer = read_toml(file), {}
        if "base" in content:
            reader = _Reader(file)
            fewer, base = reader.fewer(content), reader.base(content["base"])
            content = read_toml(base)
            if "base" in content:
                raise reader.error(f"base must be a file with workloads; {base} has a base itself")
            file = base
        fewer |= {**(changes or {})}
        if parts:
            fewer["parts"] = list(parts)
        return _Reader(file).read(content, fewer)


def is_benchmark(file: Path) -> bool:
    """Whether it has workloads, or is a smaller form of a file that has.

    Raises:
        ValueError: If it is no TOML file.
    """
    content = read_toml(file)
    return "base" in content or "workloads" in content


class _Reader:
    """Turns what a TOML file holds into a benchmark, or says what is wrong with it."""

    def __init__(self, file: Path) -> None:
        self.file, self.folder = file, file.parent

    def error(self, words: str, where: str = "") -> ValueError:
        return ValueError(f"{self.file}: {where}{words}.")

    def base(self, given: Any) -> Path:
        if type(given) is not str or not (self.folder / given).is_file():
            raise self.error(f"base must be a TOML file with workloads, beside it; got {given!r}")
        return self.folder / given

    def fewer(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """What a file with a base changes."""
        self.keys(content, FEWER)
        changes = {k: v for k, v in content.items() if k not in ("base", "set", "tune")}
        changes |= flat(self.table(content, "set"))
        return changes | {f"tune.{k}": v for k, v in self.table(content, "tune").items()}

    def read(self, content: Mapping[str, Any], changes: Mapping[str, Any]) -> Benchmark:
        self.keys(content, ("arms", "tune", "workloads"))
        chosen = {k: v for k, v in changes.items() if k in ("parts", "workloads", "arms")}
        changes = {k: v for k, v in changes.items() if k not in chosen}
        tune = dict(self.table(content, "tune"))
        for key in [key for key in changes if key.startswith("tune.")]:
            tune[key.removeprefix("tune.")] = changes.pop(key)
        for key in changes:
            if key != "seeds" and not key.startswith(("task.", "training.")):
                raise self.error(
                    "what is set must be seeds, parts, workloads, arms, tune.seeds, tune.trials, "
                    f"or a key such as task.width or training.steps; got {key}"
                )
        lists = self.lists(content)
        seeds = self.seeds(tune.pop("seeds", None), "tune.")
        trials = self.trials(tune, lists)
        tables = content.get("workloads")
        if not isinstance(tables, list) or not tables or not all(type(x) is dict for x in tables):
            raise self.error("workloads must be tables, written as [[workloads]]")
        workloads = [self.workload(table, changes, lists, trials, seeds) for table in tables]
        self.check_names(workloads)
        return Benchmark(str(self.file), self.subset(workloads, chosen), seeds)

    def keys(self, table: Mapping[str, Any], known: Sequence[str], where: str = "") -> None:
        for key in table:
            if key not in known:
                raise self.error(f"keys must be among {', '.join(known)}; got {key}", where)

    def table(self, content: Mapping[str, Any], name: str) -> dict[str, Any]:
        table = content.get(name, {})
        if not isinstance(table, dict):
            raise self.error(f"{name} must be a table, [{name}]; got {table!r}")
        return table

    def seeds(self, given: Any, where: str) -> tuple[int, ...]:
        try:
            return seeds_of(given)
        except ValueError as refusal:
            raise self.error(str(refusal), where) from None

    def lists(self, content: Mapping[str, Any]) -> dict[str, tuple[Named, ...]]:
        """The arms of each list."""
        found = {}
        for name, given in self.table(content, "arms").items():
            if name in ("seeds", "trials"):
                raise self.error(f"lists of arms must not be called {name}, which [tune] has")
            if not isinstance(given, list) or not given or not all(type(x) is str for x in given):
                raise self.error(f'arms.{name} must be a list such as ["off"]; got {given!r}')
            found[name] = tuple(self.arm(text) for text in given)
        return found

    def arm(self, text: str) -> Named:
        """An arm that exists and has such options."""
        arm = Named.parse("arm", text, self.folder)
        arm.make()
        return arm

    def trials(
        self, tune: dict[str, Any], lists: Mapping[str, Any]
    ) -> dict[str, dict[str, tuple[Named, ...]]]:
        """Of each list: the arms to tune, and their trials."""
        most = tune.pop("trials", None)
        if most is not None and (type(most) is not int or most < 1):
            raise self.error(f"tune.trials must be a number of trials >= 1; got {most!r}")
        found: dict[str, dict[str, tuple[Named, ...]]] = {}
        for name, arms in tune.items():
            if name not in lists:
                raise self.error(
                    f"keys under [tune] must be seeds, trials, or lists of arms: "
                    f"{', '.join(lists)}; got {name}"
                )
            if not isinstance(arms, dict):
                raise self.error(f"tune.{name} must be a table of arms; got {arms!r}")
            found[name] = {}
            for text, option in arms.items():
                where = f"tune.{name}.{text} "
                arm = self.arm(text)
                values = next(iter(option.values())) if isinstance(option, dict) else None
                if not isinstance(values, list) or len(option) > 1 or not values:
                    example = "{ max_norm = [0.3, 1, 3] }"
                    words = f"must be one option with its trials, such as {example}; got {option!r}"
                    raise self.error(words, where)
                trials = [arm.having({key: x}) for key in option for x in values[:most]]
                spelled = [self.spelled(trial, where) for trial in trials]
                if len(set(spelled)) < len(spelled):
                    raise self.error(f"must have different trials; got {values!r}", where)
                found[name][arm.spelled] = tuple(trials)
        return found

    def spelled(self, arm: Named, where: str) -> str:
        try:
            return arm.spelled
        except ValueError as refusal:
            raise self.error(f"must have trials that exist: {str(refusal)[:-1]}", where) from None

    def workload(
        self,
        table: Mapping[str, Any],
        changes: Mapping[str, Any],
        lists: Mapping[str, tuple[Named, ...]],
        trials: Mapping[str, Mapping[str, tuple[Named, ...]]],
        tuning: tuple[int, ...],
    ) -> Workload:
        where = f"workload {table['name']}: " if "name" in table else "workload: "
        self.keys(table, KEYS, where)
        for key in NEEDED:
            if key not in table:
                raise self.error(f"{key} must be given", where)
        for key in (*NEEDED[:-1], "twin", "breaks", "remedy"):
            if type(table.get(key, "")) is not str or not table.get(key, "x"):
                raise self.error(f"{key} must be text; got {table[key]!r}", where)
        for key in ("name", "part"):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", table[key]) or table[key] == "compact":
                raise self.error(
                    f"{key} must be of letters, digits and hyphens, because files are called so, "
                    f"and not compact; got {table[key]!r}",
                    where,
                )
        for key, known in (("kind", KINDS), ("family", FAMILIES)):
            if table[key] not in known:
                raise self.error(f"{key} must be among {', '.join(known)}; got {table[key]}", where)
        names = table["arms"]
        if not isinstance(names, list) or not names or not all(x in lists for x in names):
            raise self.error(
                f"arms must be names of lists under [arms]: {', '.join(lists) or 'there are none'}"
                f"; got {names!r}",
                where,
            )
        seeds = self.seeds(changes.get("seeds", table.get("seeds", 20)), where)
        if both := sorted({*seeds} & {*tuning}):
            raise self.error(
                "seeds must be others than those of [tune], so that no arm was chosen by the runs "
                f"that it is judged by; {both[0]} is in both",
                where,
            )
        values = self.values(table.get("set", {}), where)
        values |= {key: value for key, value in changes.items() if key != "seeds"}
        task = Named.parse("task", table["task"], self.folder)
        mine = {arm.spelled: arm for name in names for arm in lists[name]}
        tuned = {arm: t for name in names for arm, t in trials.get(name, {}).items()}
        grid = {
            "file": f"{self.file}: {where}".rstrip(": "),
            "tasks": (task,),
            "values": self.evaluated(values, task),
            "cross": {},
            "together": {},
        }
        plain = {**table, "seeds": list(seeds), "set": values}
        arms = tuple(mine.values())
        return Workload(table["name"], table["part"], plain, arms, seeds, tuned, grid)

    def values(self, given: Any, where: str) -> dict[str, Any]:
        values = flat(given) if isinstance(given, dict) else {"": given}
        for key in values:
            if not key.startswith(("task.", "training.")):
                raise self.error(
                    "set must be a table with keys such as task.width and training.steps; got "
                    f"{given!r}",
                    where,
                )
        return values

    def evaluated(self, values: Mapping[str, Any], task: Named) -> dict[str, Any]:
        """With what runs of a benchmark have where the file says nothing else."""
        defaults = getattr(task.find(), "defaults", {})
        steps = values.get("training.steps", defaults.get("steps"))
        every = max(steps // EVALUATIONS, 1) if type(steps) is int else None  # refused elsewhere
        return {"training.store": "mean", "training.evaluate_every": every, **values}

    def check_names(self, workloads: Sequence[Workload]) -> None:
        by_name: dict[str, Workload] = {}
        for workload in workloads:
            if workload.name in by_name:
                raise self.error(f"names of workloads must differ; two are {workload.name}")
            by_name[workload.name] = workload
        for workload in workloads:
            twin = workload.table.get("twin")
            where = f"workload {workload.name}: "
            if twin is None:
                continue
            if workload.table["kind"] != "broken":
                raise self.error("twin must be given of a broken workload alone", where)
            if twin not in by_name:
                raise self.error(f"twin must be a workload; there is none called {twin}", where)
            if (kind := by_name[twin].table["kind"]) != "calm":
                raise self.error(f"twin must be a calm workload; {twin} is {kind}", where)

    def subset(
        self, workloads: Sequence[Workload], chosen: Mapping[str, Any]
    ) -> tuple[Workload, ...]:
        """Those that are asked for, with the arms that are."""
        for key, known in (
            ("parts", [workload.part for workload in workloads]),
            ("workloads", [workload.name for workload in workloads]),
        ):
            for name in self.texts(key, chosen):
                if name not in known:
                    among = ", ".join(dict.fromkeys(known))
                    raise self.error(f"{key} must be among {among}; got {name}")
        parts, names = self.texts("parts", chosen), self.texts("workloads", chosen)
        found = [
            self.with_arms(workload, chosen)
            for workload in workloads
            if (not parts or workload.part in parts) and (not names or workload.name in names)
        ]
        if not found:
            raise self.error("parts and workloads must leave one; they leave none")
        return tuple(found)

    def with_arms(self, workload: Workload, chosen: Mapping[str, Any]) -> Workload:
        wanted = [self.arm(text).spelled for text in self.texts("arms", chosen)]
        if not wanted:
            return workload
        arms = tuple(arm for arm in workload.arms if arm.spelled in wanted)
        if not arms:
            raise self.error(
                f"arms must leave one; of {', '.join(arm.spelled for arm in workload.arms)} they "
                "leave none",
                f"workload {workload.name}: ",
            )
        trials = {arm: trials for arm, trials in workload.trials.items() if arm in wanted}
        return replace(workload, arms=arms, trials=trials)

    def texts(self, key: str, chosen: Mapping[str, Any]) -> list[str]:
        given = chosen.get(key, [])
        given = [given] if type(given) is str else given
        if not isinstance(given, list) or not all(type(x) is str for x in given):
            raise self.error(f"{key} must be a list of names; got {given!r}")
        return given
