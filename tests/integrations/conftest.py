"""What holds for all tests of integrations."""

import os

import pytest


@pytest.fixture(autouse=True)
def _precision_of_each_test_its_own():
    """In old versions of transformers, arguments with bf16 leave it to all that come after."""
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
