"""What holds for all tests: one thread, hypothesis without a clock, and the option ``--table``."""

import os
import sys
import tempfile

# Before anything imports Keras, which would ask for TensorFlow, and writes a file when imported.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-"))

import hypothesis
import pytest
import torch
from agreement_table import pytest_addoption, pytest_configure  # noqa: F401 - hooks of pytest

pytest.register_assert_rewrite("agreement")

# Examples are the same in every run of the same tests; how long one takes says nothing.
hypothesis.settings.register_profile("alrc", deadline=None, derandomize=True, max_examples=100)
hypothesis.settings.load_profile("alrc")
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _no_worker_outlives_its_module():
    yield
    if "keras_workers" in sys.modules:
        sys.modules["keras_workers"].close()
