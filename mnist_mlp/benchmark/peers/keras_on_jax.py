"""Keras 3 on JAX, by `compile` and `fit`.

The training time leaves out the compilation, for which one batch is trained on before.
"""

import os
import time
from functools import partial
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras

from mnist_mlp.benchmark.peers.work import show, work

job = work()
jax.config.update("jax_platforms", job.device)


def softplus(z: Any) -> Any:
    """The notebook's: above 0.04 it is the identity, with a jump."""
    return keras.ops.where(25 * z > 1, z, keras.ops.softplus(25 * z) / 25)


as_in_torch = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
dense = partial(keras.layers.Dense, kernel_initializer=as_in_torch)
net = keras.Sequential([*(dense(units, activation=softplus) for units in job.hidden), dense(job.y.shape[1])])
net.compile(optimizer="sgd", loss="mse", metrics=["accuracy"])
net.optimizer.learning_rate = job.lr
net.train_on_batch(job.x[: job.batch_size], job.y[: job.batch_size])
started = time.perf_counter()
net.fit(job.x, job.y, batch_size=job.batch_size, epochs=job.epochs, verbose=0)
seconds = time.perf_counter() - started
_, accuracy = net.evaluate(job.x_val, job.y_val, batch_size=1000, verbose=0)
show(-(-len(job.x) // job.batch_size) * job.epochs, seconds, accuracy)
