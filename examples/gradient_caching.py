"""Gradient caching: the exact loss of 1,024 images, while only 128 are encoded at a time.

python examples/gradient_caching.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from thanos_jax import losses
from thanos_jax.train import grad_cache

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = np.arange(1400), np.arange(1400, 1797)
rng = np.random.default_rng(0)


def embed(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


def encode(params, chunk):
    return embed(params, chunk["views"]), 0.0, None  # no loss within a chunk, no auxiliary output


@jax.jit
def step(params, state, views, labels):
    def loss(embeddings):  # of all chunks; `merge` puts them in the order of the batch
        return losses.spread(grad_cache.merge(embeddings), labels, temperature=0.2), None

    chunks = grad_cache.split({"views": views}, 128)
    (value, _), gradient = grad_cache.value_and_grad(encode, loss)(params, chunks)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


sizes = ((64, 128), (128, 32))
params = [jnp.asarray(rng.normal(0, s[0] ** -0.5, s), jnp.float32) for s in sizes]
optimizer = optax.adam(2e-3)
state = optimizer.init(params)
for _ in range(60):
    rows = rng.choice(train, 1024)
    views = images[rows][:, None] + rng.normal(0, 0.1, (1024, 2, 64)).astype(np.float32)
    params, state, value = step(params, state, views, labels[rows])
embeddings = np.asarray(embed(params, images))
found = KNeighborsClassifier(5).fit(embeddings[train], labels[train])
print(f"loss {value:.3f}")
print(f"accuracy {found.score(embeddings[test], labels[test]):.3f}")
