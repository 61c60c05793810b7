"""What a benchmark shows, in sentences: each is built from results alone."""

from collections.abc import Iterator, Sequence

from alrc.lab.report.benchmark.choosing import GROUPS
from alrc.lab.report.benchmark.compact import PLAIN, Bench, Workload
from alrc.lab.report.benchmark.decision import Decision
from alrc.lab.report.benchmark.effects import DIVERGED, LARGEST, Effects
from alrc.lab.report.benchmark.words import listed, told
from alrc.lab.report.markup import code, plural, sentence, text

__all__ = ["decision_words", "how_measured", "lead", "limits"]

NORM_CLIPS = ("clip-grad-norm", "clip-grad-norm, tuned")
NAMED = 4  # workloads in a sentence; the tables have all


def lead(effects: Effects, decision: Decision) -> str:
    """Where the default helps, does nothing and hurts."""
    bench, arm = effects.bench, decision.default.label
    sentences = [
        f"This is about ALRC as {code(arm)}, one loss per example, against plain training."
    ]
    if arm not in bench.arms:
        return f"{sentences[0]} It was not run, so nothing is said of it."
    ran = [w for w in bench.workloads if arm in w.runs]
    ends = {w: effects.effect(w, arm).estimate.interval for w in ran}
    broken = [w for w in ran if w.kind == "broken"]
    if broken:
        helped = [w for w in broken if ends[w][1] < 0]
        gain = decision.quoted or effects.pooled(arm, bench.of("broken"))
        how = "on seeds that did not choose it" if decision.quoted else "on the seeds that chose it"
        if any(label != arm for label, _ in decision.halves.values()):
            how = "of what each half of the seeds chooses, on the other half"
        sentences.append(
            f"**Helps** in {len(helped)} of {plural(len(broken), 'workload')} where something "
            f"breaks{_most(effects, arm, helped)}; mean change of the held-out error {told(gain)} "
            f"{how}."
        )
    if also := [w for w in ran if w.kind != "broken" and ends[w][1] < 0]:
        sentences.append(f"It is better in {plural(len(also), 'other workload')}{_by_kind(also)}.")
    nothing = [w for w in ran if ends[w][0] <= 0 <= ends[w][1]]
    same = sum(effects.effect(w, arm).identical for w in nothing)
    sentences.append(
        f"**Does nothing** that so many seeds can show in {plural(len(nothing), 'workload')}"
        f"{_by_kind(nothing)}" + f"; in {same} of them the runs are identical" * bool(same) + "."
    )
    hurt = [w for w in ran if ends[w][0] > 0]
    sentences.append(
        f"**Hurts** in {plural(len(hurt), 'workload')}{_by_kind(hurt)}: "
        f"{_some(effects, arm, hurt)}."
        if hurt
        else "**Hurts** in no workload that these seeds can show."
    )
    sentences += _diverging(effects, arm, ran)
    sentences += _losing(effects, arm, ran)
    return " ".join(sentences)


def _most(effects: Effects, arm: str, helped: Sequence[Workload]) -> str:
    if not helped:
        return ""
    most = min(helped, key=lambda w: effects.effect(w, arm).estimate.value)
    return f", most in {text(most.name)} ({told(effects.effect(most, arm).estimate)})"


def _by_kind(workloads: Sequence[Workload]) -> str:
    counts = {kind: sum(w.kind == kind for w in workloads) for kind in ("broken", "calm", "trap")}
    words = [plural(n, k) if k == "trap" else f"{n} {k}" for k, n in counts.items() if n]
    return f" ({', '.join(words)})" if words else ""


def _some(effects: Effects, arm: str, workloads: Sequence[Workload]) -> str:
    """The worst first."""
    order = sorted(workloads, key=lambda w: -effects.effect(w, arm).estimate.value)
    words = [f"{text(w.name)} {told(effects.effect(w, arm).estimate)}" for w in order[:NAMED]] + [
        f"{len(order) - NAMED} more"
    ] * (len(order) > NAMED)
    return listed(words)


def _diverging(effects: Effects, arm: str, ran: Sequence[Workload]) -> Iterator[str]:
    more = [w for w in ran if effects.effect(w, arm).diverges_more]
    if more:
        words = [
            f"{text(w.name)} ({e.after} seeds against {e.before}, p = {e.p_diverged:.2g})"
            for w in more[:NAMED]
            for e in (effects.effect(w, arm),)
        ]
        yield f"It **diverges** more often than plain training in {listed(words)}."


def _losing(effects: Effects, arm: str, ran: Sequence[Workload]) -> Iterator[str]:
    """Against a clip of the gradient's norm, which everybody has already."""
    for clip in NORM_CLIPS:
        both = [w for w in ran if clip in w.runs]
        apart = {w: e for w in both if (e := effects.pooled(arm, [w], against=clip)) is not None}
        lost = sorted(
            (w for w, e in apart.items() if e.interval[0] > 0), key=lambda w: -apart[w].value
        )
        won = sum(e.interval[1] < 0 for e in apart.values())
        if lost:
            words = [f"{text(w.name)} ({told(apart[w])})" for w in lost[:NAMED]]
            words += [f"{len(lost) - NAMED} more"] * (len(lost) > NAMED)
            yield (
                f"**Loses** to {code(clip)} in {len(lost)} of {len(both)}: {listed(words)}; it "
                f"beats it in {won}."
            )
        elif both:
            yield f"It loses to {code(clip)} in none of {len(both)}, and beats it in {won}."


def decision_words(effects: Effects, decision: Decision) -> Iterator[str]:
    """What the rule says, clause by clause."""
    d = decision
    default, n = d.default, len(d.default.admissible)
    if default.fallback:
        yield (
            f"**No candidate is admissible**, so the default stays {code(default.label)}; see the "
            "reasons below."
        )
    else:
        why = (
            "it has the largest mean gain of these"
            if default.label == default.best
            else f"the largest mean gain has {code(default.best)}, from which it is not resolved, "
            "and it is simpler"
        )
        yield (
            f"**The default is {code(default.label)}**: {plural(n, 'candidate')} of "
            f"{n + len(default.refused)} are admissible, and {why}. Its gain is "
            f"{told(default.gain)}, which the choice flatters."
        )
    for group, choice in d.by_group.items():
        gain = effects.pooled(choice.label, effects.bench.of("broken", families=GROUPS[group]))
        also = (
            ""
            if d.recommended[group] == choice.label
            else (
                f", but is not resolved to gain more than {code(d.recommended[group])}, which is "
                "recommended"
            )
        )
        words = (
            "no candidate is admissible"
            if choice.fallback
            else (f"the rule by itself chooses {code(choice.label)}, gain {told(gain)}{also}")
        )
        yield f"For {group} losses {words}."
    if len(set(d.recommended.values())) > 1:
        lines = [f"{code(label)} for {group} losses" for group, label in d.recommended.items()]
        yield f"**Two settings are recommended**: {listed(lines)}."
    if d.halves:
        each = [
            f"{half} seeds choose {code(label)}, whose gain on the other half is {told(gain)}"
            for half, (label, gain) in d.halves.items()
        ]
        shown = "shown" if d.primary.shown else "not shown"
        yield (
            f"{sentence(listed(each))}. **The gain to quote is their mean, {told(d.quoted)}**; "
            f"that it is below 0, the one declared test of this page, is {shown} at 5 %."
        )
        some = sum(level.shown for level in d.secondary.values())
        if d.primary.shown:
            yield (
                f"Holm's steps hand that 5 % on to the default on each broken workload: {some} of "
                f"{len(d.secondary)} differences from plain training are shown. All else on this "
                "page is exploratory."
            )
    else:
        yield "There are too few seeds to choose on one half and tell on the other."
    if other := {part: label for part, label in d.without.items() if label != default.label}:
        changed = [f"without {code(part)}, {code(label)}" for part, label in other.items()]
        yield f"The choice rests on single parts: {listed(changed)} would be chosen."
    elif d.without:
        yield "The choice is the same whichever part is left out."
    yield from _log_words(d)
    if d.over_paper is not None:
        worse = listed([text(name) for name in d.beaten_by_paper]) if d.beaten_by_paper else ""
        better = d.over_paper.interval[1] < 0
        yield (
            f"Against the paper's limit with a plain average as start, the default changes the "
            f"error where something breaks by {told(d.over_paper)}; "
            + (f"it is worse in {worse}." if worse else "it is nowhere resolved to be worse.")
            + " **It beats the paper's rule everywhere.**" * (better and not worse)
        )


def _log_words(d: Decision) -> Iterator[str]:
    if d.best_log is None:
        yield "No setting of the log scale is admissible: it stays an arm of the lab."
        return
    verdict = "it goes into the core" if d.log_in_core else "it stays an arm of the lab"
    yield (
        f"The best of the log scale, {code(d.best_log)}, differs from "
        f"{code(d.best_linear or PLAIN)} by {told(d.log_over_linear)}: {verdict}."
    )


def how_measured(bench: Bench) -> Iterator[str]:
    seconds = sum(float(part.get("seconds", 0)) for part in bench.parts.values())
    cores = {part["cores"] for part in bench.parts.values() if "cores" in part}
    runs = sum(len(of_arm) for w in bench.workloads for of_arm in w.runs.values())
    counts = sorted({len(w.seeds) for w in bench.workloads})
    versions = {
        f"{name} {version}"
        for part in bench.parts.values()
        for name, version in (part.get("versions") or {}).items()
    }
    yield (
        f"{plural(len(bench.workloads), 'workload')} in {plural(len(bench.parts), 'part')}, "
        f"{plural(len(bench.arms) + 1, 'arm')}, {listed([str(n) for n in counts])} fresh seeds "
        f"each, {plural(runs, 'run')}: {seconds:,.0f} core-seconds"
        + (f" on {listed([str(c) for c in sorted(cores)])} cores" if cores else "")
        + (f" ({', '.join(sorted(versions))})" if versions else "")
        + ". Rivals with a knob were tuned on seeds of their own."
    )
    yield "Run it all again with `alrc lab study stability`, and draw it with `alrc lab report`."
    yield (
        "A change is the mean over seeds of log(value of the arm / value of plain training with "
        "the same seed), told in percent; the interval is that of a paired t test. Means over "
        "workloads weigh each part alike and, within a part, each workload; workloads of a part "
        "are averaged seed by seed first, and parts are added up as independent: error^2 = sum of "
        "(weight * error of part)^2, with Welch and Satterthwaite's degrees of freedom."
    )
    yield (
        f"A run that diverged counts as {DIVERGED:g} times worse than its partner, whatever was "
        "stored of it; two that diverged count as equal; no pair counts as more than a factor of "
        f"{LARGEST:g}. An error of exactly 0 counts as half the smallest other one of its workload."
    )


def limits(cells: int) -> Iterator[str]:
    yield (
        f"The matrix is exploratory: of its {cells:,} intervals about {cells / 20:,.0f} leave out "
        "0 by chance if no arm does anything."
    )
    yield (
        "A worst case is the largest of many upper ends, and a best arm the best of many: the "
        "first looks worse than it is, the second better, and regret grows by that."
    )
    yield "Small networks and small data: nothing here says how a large model behaves."
