"""The report of a study or of a run: what came of it, and what that allows to say."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from alrc.lab.engine.files import written_whole
from alrc.lab.report.comparing import Compared, compared, measures
from alrc.lab.report.curves import ARMS, LOGGED, Curves
from alrc.lab.report.findings import details, findings, lone_run
from alrc.lab.report.limiting import ARMS as LIMITING_ARMS
from alrc.lab.report.limiting import limiting_figures
from alrc.lab.report.markup import (
    Block,
    Gallery,
    Heading,
    Image,
    Paragraph,
    code,
    markdown,
    plural,
    text,
)
from alrc.lab.report.overview import forest, profile, rank_table, unranked
from alrc.lab.report.page import page
from alrc.lab.report.reading import read_study
from alrc.lab.report.results import Run, Setting, Study
from alrc.lab.report.spreadsheets import comparisons_csv, runs_csv
from alrc.lab.report.tables import comparison_table, limiting_table, values, what_was_run

__all__ = ["write_report"]

SETTINGS = 12  # that have figures; the tables have them all
PICTURES = 4  # of one run
PICTURED_ARMS = 8
LARGEST_PICTURE = 4 * 2**20  # bytes
OURS = re.compile(r"(setting\d+-.*|profile)\.png")
PNG = b"\x89PNG\r\n\x1a\n"


def write_report(folder: Path) -> list[Path]:
    """Writes report.html, report.md with figures/*.png, runs.csv and comparisons.csv.

    Everything is made before anything is written, and each file appears whole or not at all. The
    same results give the same files.

    Args:
        folder: Holds the runs of a study as ``runs/NAME/``, or is that of a run.

    Returns:
        The files written.

    Raises:
        ValueError: If the folder does not hold runs that can be compared, or a file is damaged.
        OSError: If a file cannot be read or written.
    """
    study = read_study(folder)
    comparisons = compared(study)
    kind = "run" if study.single else "study"
    title = f"Report of the {kind} {code(study.folder.resolve().name)}"
    blocks = list(_blocks(study, comparisons))
    images = [i for block in blocks if isinstance(block, Gallery) for i in block.images]
    files = {i.source: i.png for i in images if i.svg}
    texts = {"runs.csv": runs_csv(study)}
    if not study.single:
        texts["comparisons.csv"] = comparisons_csv(study, comparisons)
    texts |= {"report.md": markdown(title, blocks), "report.html": page(title, blocks)}
    files |= {name: content.encode() for name, content in texts.items()}
    written = [_write(folder / name, content) for name, content in files.items()]
    for figure in (folder / "figures").glob("*.png"):
        if figure not in written and OURS.fullmatch(figure.name):
            figure.unlink()  # of an earlier report, and of what may be here no more
    return written


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as part:
        part.write_bytes(content)
    return path


def _blocks(study: Study, comparisons: Sequence[Compared]) -> Iterator[Block]:
    drawn = study.settings[:SETTINGS]
    curves = [Curves(study, setting, i) for i, setting in enumerate(drawn, 1)]
    if study.single:
        yield from lone_run(study)
    else:
        main = [c for c in comparisons if c.measure == measures(study, c.setting)[0]]
        yield from findings(study, main)
        yield from _forests(study, main, drawn)
        yield from details(study, main)
        if len(study.settings) > SETTINGS:
            yield Paragraph(
                f"Figures are drawn of the first {SETTINGS} of {len(study.settings):,} settings; "
                "the tables have them all."
            )
        yield from comparison_table(study, comparisons)
        yield from _across(study, curves[0])
    yield from values(study)
    yield from _learning(curves)
    yield from _limiting(study, drawn)
    yield from _pictures(study, drawn)
    yield from what_was_run(study)


def _forests(
    study: Study, comparisons: Sequence[Compared], drawn: Sequence[Setting]
) -> Iterator[Block]:
    by_setting = {s: [c for c in comparisons if c.setting == s] for s in drawn}
    images = [forest(study, found, i) for i, found in enumerate(by_setting.values(), 1) if found]
    if images:
        yield Gallery(images)


def _across(study: Study, curves: Curves) -> Iterator[Block]:
    if len({setting.task for setting in [*study.settings, *(s for s, _ in study.lost)]}) < 2:
        return
    left_out = [Paragraph(words)] if (words := unranked(study)) else []
    table, image = rank_table(study), profile(study, curves.styles)
    yield Heading("Across settings")
    if table is None and image is None:
        yield Paragraph("No two settings have finished runs of all arms, so there are no ranks.")
        yield from left_out
        return
    yield Paragraph(
        "By the median of the primary metric over seeds, in which runs that diverged are the "
        "worst; of settings that have runs of all arms. The profile shows in how many of them an "
        "arm is within a factor of the best one, for metrics whose ratios mean something."
    )
    yield from left_out
    if table is not None:
        yield table
    if image is not None:
        yield Gallery([image])


def _learning(curves: Sequence[Curves]) -> Iterator[Block]:
    yield Heading("Learning curves")
    yield Paragraph(
        "Means over a two-hundredth of the steps; the line is the median over the seeds of an arm, "
        "the band spans all of them, without the runs that diverged. The axes are fitted to the "
        "lines and to 98 % of the bands after the first fifth of the steps."
    )
    if any(len(c.study.arms_of(c.setting)) > len(c.arms) for c in curves):
        yield Paragraph(
            f"A panel shows the baseline and the {ARMS} arms whose median of the primary metric is "
            "best; all are in the tables."
        )
    if any(len(c.names(prefix)) > LOGGED for c in curves for prefix in ("logged.", "arm.")):
        yield Paragraph(f"Of what a task logs, and of what arms do, the first {LOGGED} are drawn.")
    yield from _galleries(
        curves,
        ("Losses", Curves.losses),
        ("Metrics", Curves.metrics),
        ("Logged by the task", Curves.logged),
        ("Logged by arms", Curves.of_arms),
        ("Differences in pairs of a seed", Curves.differences),
    )
    survival = [image for c in curves if (image := c.survival()) is not None]
    if survival:
        yield Heading("Survival of runs", 3)
        yield Paragraph("Lines are a little apart where they would cover one another.")
        yield Gallery(survival)
    else:
        yield Paragraph("No run diverged, so there are no curves of survival.")


def _galleries(
    curves: Sequence[Curves], *kinds: tuple[str, Callable[[Curves], Iterable[Image]]]
) -> Iterator[Block]:
    for title, draw in kinds:
        images = [image for c in curves for image in draw(c)]
        if images:
            yield Heading(title, 3)
            yield Gallery(images)


def _limiting(study: Study, drawn: Sequence[Setting]) -> Iterator[Block]:
    yield Heading("Losses before and after limiting")
    yield from limiting_table(study)
    images = [
        image for i, setting in enumerate(drawn, 1) for image in limiting_figures(study, setting, i)
    ]
    if images:
        yield Paragraph(
            "Over the steps: of the first seed, the range of the losses in each two-hundredth of "
            "the steps. Histograms: all positive losses of all runs, of those that diverged too. "
            f"What is orange was cut off. At most {plural(LIMITING_ARMS, 'arm')} of a setting."
        )
        yield Gallery(images)


def _pictures(study: Study, drawn: Sequence[Setting]) -> Iterator[Block]:
    galleries: list[Block] = []
    for setting in drawn:
        firsts = [study.of(setting, arm)[0] for arm in study.arms_of(setting)[:PICTURED_ARMS]]
        if images := [image for run in firsts for image in _of_run(study, run)]:
            galleries += [Heading(code(study.labels[setting]), 3), Gallery(images)]
    if galleries:
        yield Heading("Pictures")
        yield Paragraph(
            f"Of the first seed of each arm, at most {PICTURES} of a run and {PICTURED_ARMS} arms "
            "of a setting."
        )
        yield from galleries


def _of_run(study: Study, run: Run) -> Iterator[Image]:
    root = "" if study.single else f"runs/{run.name}/"
    for picture in run.result["pictures"][:PICTURES]:
        file, caption = str(picture["file"]), str(picture["caption"])
        path = run.folder / file
        if not path.resolve().is_relative_to(run.folder.resolve()):
            raise ValueError(
                f"{run.folder / 'result.json'} must name pictures within the run's folder; it "
                f"names {file}. Remove result.json and finish the run again."
            )
        png = path.read_bytes() if path.is_file() else b""
        if not png.startswith(PNG) or len(png) > LARGEST_PICTURE:
            raise ValueError(
                f"{path} must be a PNG file of at most 4 MiB, because result.json lists it; it has "
                f"{len(png):,} bytes. Remove result.json and finish the run again."
            )
        alt = f"{study.labels[run.setting]}, {run.arm}, seed {run.seed}: {caption}"
        yield Image(
            root + file, alt, png, caption=f"{code(run.arm)}, seed {run.seed}: {text(caption)}"
        )
