"""Flax NNX: the loss inside nnx.jit, with a learnable temperature.

python examples/flax_nnx.py
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from thanos_jax import losses

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = np.arange(1400), np.arange(1400, 1797)


class Encoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.second = nnx.Linear(128, 32, rngs=rngs)
        self.log_temperature = nnx.Param(jnp.log(0.2))

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


@nnx.jit
def step(model, optimizer, views, labels):
    def loss(model):
        temperature = jnp.exp(model.log_temperature[...])
        return losses.supcon(model(views), labels, temperature=temperature)

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


model = Encoder(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
rng = np.random.default_rng(0)
for _ in range(200):
    rows = rng.choice(train, 256)
    views = images[rows][:, None] + rng.normal(0, 0.1, (256, 2, 64)).astype(np.float32)
    value = step(model, optimizer, views, labels[rows])
embeddings = np.asarray(model(images))
found = KNeighborsClassifier(5).fit(embeddings[train], labels[train])
print(f"loss {value:.3f}, temperature {np.exp(model.log_temperature[...]):.3f}")
print(f"accuracy {found.score(embeddings[test], labels[test]):.3f}")
