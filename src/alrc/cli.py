"""The console script ``alrc``."""

import sys

__all__ = ["main"]

# Packages of the lab that are imported by other names than they are installed by.
PACKAGES = {
    "PIL": "pillow",
    "markdown_it": "markdown-it-py",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
# Commands that need less than the lab: the extra that is enough for each.
EXTRAS = {"replay": "replay"}


def main() -> None:
    """Runs the command line, or says in one line what to install for it."""
    try:
        from alrc.lab.cli.commands import app

        app()
    except ModuleNotFoundError as error:
        module = (error.name or str(error)).partition(".")[0]
        package = PACKAGES.get(module, module)
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        who = f"alrc {command}" if command in EXTRAS else "the command line"
        sys.exit(
            f"alrc: {package} is not installed here. Install what {who} needs with: "
            f'pip install "alrc[{EXTRAS.get(command, "lab")}]"'
        )
