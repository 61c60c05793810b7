"""Adaptive learning rate clipping: outlier losses limited, their gradients scaled to match.

The framework is named by the import: ``from alrc.torch import ALRC``. This module imports none.
"""

from alrc.settings import Settings as Settings

__version__ = "0.1.0"
__all__ = ["Settings", "__version__"]
