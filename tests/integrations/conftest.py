"""What holds for all tests of integrations."""

import os

import pytest


@pytest.fixture(autouse=True)
def _each_test_has_settings_of_its_own():
    """In old versions of transformers, arguments leave bf16 and a compiler to all that follow."""
    yield
    for name in ("MIXED_PRECISION", "DYNAMO_BACKEND", "DYNAMO_MODE"):
        os.environ.pop(f"ACCELERATE_{name}", None)
