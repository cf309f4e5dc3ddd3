"""What a training computes in and with: the process's types and seeds, and how much the device holds."""

import math
from pathlib import Path

import tensorflow as tf
from tensorflow.python.client import device_lib

from pipelines.processor import memory, multiplies_bfloat16
from tfrec.config import TrainingConfig
from tfrec.graphs import on_cpu, skip_rewrites
from tfrec.runs.finished import check_finished


def compute_precision(precision: str) -> str:
    """The Keras policy for `precision`; `auto` is float16 on GPUs, bfloat16 where the CPU computes in it, else float32."""
    if precision != "auto":
        return precision
    if not on_cpu():
        return "mixed_float16"
    return "mixed_bfloat16" if multiplies_bfloat16() else "float32"


def device_memory() -> int:
    """Bytes of memory of the first GPU, or of the machine or container where there is none."""
    for device in device_lib.list_local_devices():  # `get_memory_info` tells what is in use, not how much there is
        if device.device_type == "GPU":
            return int(device.memory_limit)
    return memory()


def automatic_batch_size(example_bytes: int, *, share: float = 0.25, most: int = 1024) -> int:
    """The largest power of two, up to `most`, whose activations fit into a `share` of the device's memory.

    Args:
        example_bytes: activations of one example in bytes.
    """
    fits = max(1, int(device_memory() * share / max(example_bytes, 1)))
    return min(most, 2 ** int(math.log2(fits)))


def set_determinism(seed: int, deterministic: bool) -> None:
    """Seed Python, NumPy and TensorFlow, and make ops deterministic if asked."""
    tf.keras.utils.set_random_seed(seed)
    if deterministic:
        # Layers of KerasCV ask for the global generator, which determinism forbids to be made on the fly.
        tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
        tf.config.experimental.enable_op_determinism()


def prepare_keras(seed: int, options: TrainingConfig) -> None:
    """Seed everything and set the compute type: the first step of every training, before a layer is made."""
    skip_rewrites()
    set_determinism(seed, options.deterministic)
    tf.keras.mixed_precision.set_global_policy(compute_precision(options.precision))


def prepare_evaluation(run_dir: Path) -> None:
    """Compute in float32, whatever the training computed in: the first step of evaluating a run, before a layer is made.

    What the training left computed stays: items' content vectors are those that the towers made in its own type.

    Raises:
        RunError: the run's training did not finish.
    """
    check_finished(run_dir)
    skip_rewrites()
    tf.keras.mixed_precision.set_global_policy("float32")
