"""How often the verdict of ``alrc.replay`` names what was planted in a curve: a confusion table.

::

    python benchmarks/verdicts.py docs/verdicts.md

The curves are those of the tests, from seeds by which no threshold was chosen.
"""

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from replay.synthetic import KINDS, curve  # noqa: E402

from alrc.replay.signals import signals  # noqa: E402
from alrc.replay.verdict import verdict  # noqa: E402

SEEDS = range(29)


def counts() -> Counter[tuple[str, str]]:
    """Curves by what was planted and what the verdict says."""
    pairs: Counter[tuple[str, str]] = Counter()
    for kind in KINDS:
        for seed in SEEDS:
            planted = curve(kind, seed)
            seen = signals(planted.losses, planted.starts)
            pairs[kind, verdict(planted.losses, seen, planted.starts).kind] += 1
    return pairs


def page(pairs: Counter[tuple[str, str]]) -> str:
    right = sum(pairs[kind, kind] for kind in KINDS)
    total = pairs.total()
    lines = [
        "# How often the verdict is right",
        "",
        f"Of {total} curves with one phenomenon planted in each, `alrc.replay` names "
        f"{right} ({100 * right / total:.1f} %) as planted. Descents (exponentials, power laws, "
        "falls of the learning rate, plateaus, flat ones), noise (log-normal, growing or "
        "shrinking, gamma, power-law tails, autocorrelated), lengths (400 to 16,000 rows), sizes "
        "and places are random (`tests/replay/synthetic.py`); the seeds are not those by which "
        "thresholds were chosen. Written by `python benchmarks/verdicts.py docs/verdicts.md`.",
        "",
        "| planted | " + " | ".join(KINDS) + " |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for kind in KINDS:
        cells = (str(pairs[kind, found] or "") for found in KINDS)
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(counts()), encoding="utf-8")
