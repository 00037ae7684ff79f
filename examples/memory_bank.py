"""A memory bank: batches of 64 images are also compared with the last 1,024 embeddings.

python examples/memory_bank.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from thanos_jax import losses

images, labels = load_digits(return_X_y=True)
images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
train, test = np.arange(1400), np.arange(1400, 1797)
rng = np.random.default_rng(0)


def encode(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


@jax.jit
def step(params, state, bank, views, labels):
    def loss(params):
        embeddings = encode(params, views)
        value = losses.supcon(embeddings, labels, temperature=0.2, memory_bank=bank)
        return value, embeddings

    (value, embeddings), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    # After the loss; otherwise each embedding would be a candidate for itself.
    bank = losses.memory_bank.push(bank, embeddings, labels)
    return optax.apply_updates(params, updates), state, bank, value


sizes = ((64, 128), (128, 32))
params = [jnp.asarray(rng.normal(0, s[0] ** -0.5, s), jnp.float32) for s in sizes]
optimizer = optax.adam(1e-3)
state = optimizer.init(params)
bank = losses.memory_bank.init(size=1024, dim=32)
for _ in range(300):
    rows = rng.choice(train, 64)
    views = images[rows][:, None] + rng.normal(0, 0.1, (64, 2, 64)).astype(np.float32)
    params, state, bank, value = step(params, state, bank, views, labels[rows])
embeddings = np.asarray(encode(params, images))
found = KNeighborsClassifier(5).fit(embeddings[train], labels[train])
print(f"loss {value:.3f}, {int(bank.filled.sum())} embeddings in the bank")
print(f"accuracy {found.score(embeddings[test], labels[test]):.3f}")
