"""Plain JAX on all devices: under jax.jit the sharding of the batch is all the loss needs.

python examples/mesh.py
XLA_FLAGS=--xla_force_host_platform_device_count=8 python examples/mesh.py  # eight devices on a CPU
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from thanos_jax import losses

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = np.arange(1400), np.arange(1400, 1797)
mesh = jax.make_mesh((jax.device_count(),), ("data",))
over_devices, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())


def encode(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


def loss(params, views, labels):  # views [batch, views, 64]
    return losses.spread(encode(params, views), labels, alpha=0.3, temperature=0.2)


@jax.jit
def step(params, state, views, labels):
    value, gradient = jax.value_and_grad(loss)(params, views, labels)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


optimizer = optax.adam(1e-3)
rng = np.random.default_rng(0)
with jax.set_mesh(mesh):
    params = [rng.normal(0, s[0] ** -0.5, s).astype(np.float32) for s in ((64, 128), (128, 32))]
    params = jax.device_put(params, everywhere)
    state = jax.device_put(optimizer.init(params), everywhere)
    for _ in range(200):
        rows = rng.choice(train, 256)
        views = images[rows][:, None] + rng.normal(0, 0.1, (256, 2, 64)).astype(np.float32)
        batch = jax.device_put((views, labels[rows]), over_devices)
        params, state, value = step(params, state, *batch)
        value.block_until_ready()  # several steps at once would compete for the CPU's threads
embeddings = np.asarray(encode(jax.device_get(params), jnp.asarray(images)))
found = KNeighborsClassifier(5).fit(embeddings[train], labels[train])
print(f"{jax.device_count()} devices, loss {value:.3f}")
print(f"accuracy {found.score(embeddings[test], labels[test]):.3f}")
