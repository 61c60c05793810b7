"""What mkdocs does beside its settings: pages from elsewhere in the repository, links, formulas.

Pages are written for GitHub too, where links lead anywhere in the repository. On the site, links to
files that it has lead there, and others become words.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from pymdownx.slugs import slugify

LOG = logging.getLogger("mkdocs.hooks")  # whose warnings fail a strict build
ROOT = Path(__file__).parents[1]
# Pages that are not in docs/: where on the site they are, and what they are made of.
ELSEWHERE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "dev/contributing.md": "CONTRIBUTING.md",
    "dev/speed.md": "benchmarks/README.md",
}
EXAMPLES = "examples.md"
SHOWN = (".py", ".toml")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^( *```.*?^ *```)", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r'(<img [^>]*src="([^":]+)"[^>]*>)')
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: Any) -> Any:
    """Headings are anchors by the names that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, source in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, EXAMPLES, content=examples()))
    return files


def examples() -> str:
    """All programs of examples/ on one page."""
    parts = ["# Complete programs\n\nEach runs as it is, and the tests run it.\n"]
    for file in sorted((ROOT / "examples").rglob("*")):
        if file.suffix in SHOWN:
            name = file.relative_to(ROOT / "examples").as_posix()
            text = file.read_text(encoding="utf-8").rstrip()
            parts.append(f"## {name} {{ #{anchor(name)} }}\n\n```{file.suffix[1:]}\n{text}\n```\n")
    return "\n".join(parts)


def anchor(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    here = page.file.src_uri
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files if not is_made(file.src_uri)}
    pages |= {source: name for name, source in ELSEWHERE.items()}
    pages["examples"] = EXAMPLES
    source = posixpath.dirname(ELSEWHERE.get(here, f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, fragment = target.partition("#")
        meant = posixpath.normpath(posixpath.join(source, path))
        if meant.startswith("examples/") and meant.endswith(SHOWN):
            meant, fragment = "examples", anchor(meant.removeprefix("examples/"))
        if meant not in pages:
            if not (ROOT / meant).exists():
                LOG.warning(f"{source}/, {here}: {match[0]} leads nowhere")
            return words
        to = posixpath.relpath(pages[meant], posixpath.dirname(here) or ".")
        return f"{mark}[{words}]({to}{'#' if fragment else ''}{fragment})"

    parts = FENCE.split(markdown)  # every other one is a block of code
    return "".join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def is_made(name: str) -> bool:
    return name in ELSEWHERE or name == EXAMPLES


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Formulas as MathML, which browsers show without a script; pictures open in full size."""
    html = PICTURE.sub(r'<a href="\2">\1</a>', html)
    return FORMULA.sub(formula, html)


def formula(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    text = match[3].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    made: str = latex2mathml.converter.convert(text.strip(), display=display)
    made = made.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em" />')
    return f'<div class="formula">{made}</div>' if match[2] == "[" else made
