"""What holds for all tests: one thread, Keras on JAX, and the plugins of helpers/."""

import os
import tempfile

# Before anything imports Keras, which would ask for TensorFlow, and writes a file when imported.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras-"))
# Here and in whatever is started; else Inductor starts a process for each core to compile in.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pytest
import torch

pytest_plugins = ["tiers", "agreement_table"]
pytest.register_assert_rewrite("agreement")
torch.set_num_threads(1)
