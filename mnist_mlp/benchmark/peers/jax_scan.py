"""JAX: the updates of a whole epoch in one compiled `lax.scan` over shuffled minibatches.

The training time leaves out the compilation. A last, smaller batch is left out too.
"""

import time
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mnist_mlp.benchmark.peers.work import show, work

Parameters = list[tuple[Array, Array]]  # weights and biases of each layer

job = work()
jax.config.update("jax_platforms", job.device)
x, y = jnp.asarray(job.x), jnp.asarray(job.y)
rng = np.random.default_rng(0)


def softplus(z: Array) -> Array:
    """The notebook's: above 0.04 it is the identity, with a jump."""
    return jnp.where(25 * z > 1, z, jax.nn.softplus(25 * z) / 25)


def network(parameters: Parameters, x: Array) -> Array:
    """The outputs, (B, 10), for images, (B, 784)."""
    *layers, (weights, biases) = parameters
    for w, b in layers:
        x = softplus(x @ w + b)
    return x @ weights + biases


def mse(parameters: Parameters, x: Array, y: Array) -> Array:
    """The mean over batch and classes of (y − Φ(x))²."""
    return jnp.square(network(parameters, x) - y).mean()


@partial(jax.jit, donate_argnums=0)
def train_epoch(parameters: Parameters, x: Array, y: Array, order: Array) -> tuple[Parameters, Array]:
    """One update for each row of images' numbers. Returns the parameters, and the loss before each update."""

    def update(parameters: Parameters, batch: Array) -> tuple[Parameters, Array]:
        loss, gradient = jax.value_and_grad(mse)(parameters, x[batch], y[batch])
        return jax.tree.map(lambda u, g: u - job.lr * g, parameters, gradient), loss

    return jax.lax.scan(update, parameters, order)


def draw_order() -> Array:
    """The images' numbers in a new order, (updates, B)."""
    updates = len(x) // job.batch_size
    return jnp.asarray(rng.permutation(len(x))[: updates * job.batch_size].reshape(updates, job.batch_size))


parameters = [
    (jnp.asarray(rng.uniform(-1, 1, (n, m)) / n**0.5, jnp.float32), jnp.zeros(m))
    for n, m in pairwise((x.shape[1], *job.hidden, y.shape[1]))
]
compiled = train_epoch.lower(parameters, x, y, draw_order()).compile()
started = time.perf_counter()
for _ in range(job.epochs):
    parameters, losses = compiled(parameters, x, y, draw_order())
jax.block_until_ready(parameters)
seconds = time.perf_counter() - started
accuracy = (network(parameters, jnp.asarray(job.x_val)).argmax(axis=1) == job.y_val.argmax(axis=1)).mean()
show(len(losses) * job.epochs, seconds, float(accuracy))
