"""The table of front ends: each row runs the rule in another way, behind one small interface.

A new front end joins by adding a row, and inherits every test that is parametrised with ROWS.
"""

import frontends
import jax_frontends
import keras_frontends
from frontends import FrontEnd

ROWS: dict[str, type[FrontEnd]] = {
    **frontends.ROWS,
    **jax_frontends.ROWS,
    **keras_frontends.ROWS,
}
# Hypothesis makes many short runs, each of which would compile anew.
QUICK = [name for name in ROWS if name not in ("torch-compiled", "jax")]
