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


def main() -> None:
    """Runs the command line, or says in one line what to install for it."""
    try:
        from alrc.lab.cli.commands import app

        app()
    except ModuleNotFoundError as error:
        module = (error.name or str(error)).partition(".")[0]
        package = PACKAGES.get(module, module)
        sys.exit(
            f"alrc: {package} is not installed here. Install what the command line needs with: "
            'pip install "alrc[lab]"'
        )
