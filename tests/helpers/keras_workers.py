"""A process for each backend of Keras, since a process can only have one, and tests run there."""

import functools
import importlib.util
import inspect
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

BACKENDS = ("tensorflow", "jax", "torch")


def _prepare(backend: str, home: str) -> None:
    """In the new process, before anything imports Keras: its backend, and two devices each."""
    os.environ.update(
        KERAS_BACKEND=backend,
        KERAS_HOME=home,  # importing Keras writes a file there
        TF_CPP_MIN_LOG_LEVEL="3",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    if backend == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
    if backend == "torch":
        import torch

        torch.set_num_threads(1)
    with tempfile.TemporaryFile() as nowhere:  # where TensorFlow and Keras greet
        stderr = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        import keras  # noqa: F401

        os.dup2(stderr, 2)


@functools.cache
def worker(backend: str) -> ProcessPoolExecutor:
    """The process with this backend, which starts when it is first given something to do."""
    home = tempfile.mkdtemp(prefix="keras-")
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=_prepare, initargs=(backend, home))


def close() -> None:
    """Ends the processes, which takes their coverage down."""
    if worker.cache_info().currsize:
        for backend in BACKENDS:
            worker(backend).shutdown()
        worker.cache_clear()


def run(backend: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns in that process, or what it raises there, traceback included."""
    return worker(backend).submit(function, *args, **kwargs).result()


@functools.cache
def _module(file: str) -> Any:
    """The test file as a module of that process."""
    spec: Any = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_test(file: str, name: str, kwargs: dict[str, Any]) -> None:
    test = getattr(_module(file), name).test
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # not the deprecations that Keras meets
        warnings.filterwarnings(
            "ignore", "The .grad attribute"
        )  # torch.compile of Keras's own step
        test(**kwargs)


def in_each_backend(*backends: Any) -> Any:
    """Makes a test run once in each process, or in those named; its fixtures come from here."""
    if callable(backends[0]):
        return in_each_backend(*BACKENDS)(backends[0])

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def there(backend: str, **kwargs: Any) -> None:
            run(backend, _run_test, inspect.getfile(test), test.__name__, kwargs)

        there.test = test
        there.__name__, there.__doc__ = test.__name__, test.__doc__
        own = list(inspect.signature(test).parameters.values())
        first = inspect.Parameter("backend", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        there.__signature__ = inspect.Signature([first, *own])
        there.pytestmark = getattr(test, "pytestmark", [])
        return pytest.mark.parametrize("backend", backends)(there)

    return decorate
