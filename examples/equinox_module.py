"""Equinox: a module is a pytree, so jax.vmap and filter_value_and_grad are all that is needed.

pip install equinox
python examples/equinox_module.py
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from thanos_jax import losses

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = np.arange(1400), np.arange(1400, 1797)


def embed(model, x):  # [..., 64] -> [..., 32]; an Equinox module takes one example
    return jax.vmap(model)(x.reshape(-1, 64)).reshape(*x.shape[:-1], 32)


@eqx.filter_jit
def step(model, state, views, labels):
    def loss(model):
        return losses.spread(embed(model, views), labels, alpha=0.3, temperature=0.2)

    value, gradient = eqx.filter_value_and_grad(loss)(model)
    updates, state = optimizer.update(gradient, state)
    return eqx.apply_updates(model, updates), state, value


model = eqx.nn.MLP(64, 32, width_size=128, depth=1, key=jax.random.key(0))
optimizer = optax.adam(1e-3)
state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
rng = np.random.default_rng(0)
for _ in range(200):
    rows = rng.choice(train, 256)
    views = images[rows][:, None] + rng.normal(0, 0.1, (256, 2, 64)).astype(np.float32)
    model, state, value = step(model, state, views, labels[rows])
embeddings = np.asarray(embed(model, images))
found = KNeighborsClassifier(5).fit(embeddings[train], labels[train])
print(f"loss {value:.3f}")
print(f"accuracy {found.score(embeddings[test], labels[test]):.3f}")
