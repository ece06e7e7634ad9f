"""ONNX Runtime sessions: opening a network and running it. No other module imports ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoscope.core.errors import BundleError, ConfigError, PneumoscopeError
from pneumoscope.core.records import FloatArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

THREADS_VARIABLE = "PNEUMOSCOPE_THREADS"
"""Environment variable that sets the threads of one network pass."""

INPUT = "image"
OUTPUTS = ("logits", "features")


def thread_count(threads: int | None = None) -> int:
    """Threads of one network pass: ``threads``, else the environment's, else the cores this process may use.

    Raises:
        ConfigError: the number is not a positive integer.
    """
    text = str(threads) if threads is not None else os.environ.get(THREADS_VARIABLE, "")
    if not text:
        has_affinity = hasattr(os, "sched_getaffinity")  # Linux only
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"thread count {text!r}", where=THREADS_VARIABLE, expected="a positive integer")
    return int(text)


def open_session(model: Path, threads: int | None = None) -> InferenceSession:
    """Open ``model`` on the CPU, without telemetry, and check the names of its input and outputs.

    Raises:
        BundleError: ONNX Runtime cannot open the file, or an input or output is missing.
        ConfigError: the thread count is not a positive integer.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; they are raised as well
    # Threads that wait inside a pass spin, which is a third faster for one image than to be woken for every
    # operator; between passes they sleep, and leave their cores to the threads that decode the next images.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise BundleError(
            f"ONNX Runtime cannot open it: {_first_line(error)}",
            where=model,
            expected="one ONNX file that holds its own weights",
            remedy="export the network again (without external data)",
        ) from error
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    if inputs != [INPUT] or not set(OUTPUTS) <= set(outputs):
        raise BundleError(
            f"inputs {inputs} and outputs {outputs}",
            where=model,
            expected=f"input '{INPUT}' and outputs {list(OUTPUTS)}",
        )
    return session


def run_session(session: InferenceSession, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
    """One pass of a batch (N, 1, S, S) float32 in [0, 1] to logits (N, K) and features (N, C, h, w).

    Raises:
        PneumoscopeError: the pass failed.
    """
    try:
        logits, features = session.run(list(OUTPUTS), {INPUT: batch})
    except Exception as error:  # as above
        raise PneumoscopeError(
            f"the network failed on a batch {batch.shape}: {_first_line(error)}"
        ) from error
    return logits, features


def _first_line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
