"""A PyTorch data loader feeds JAX: batches are converted to NumPy, and nothing else is needed.

pip install torch
python examples/torch_loader.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from thanos_jax import losses

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = np.arange(1400), np.arange(1400, 1797)
rng = np.random.default_rng(0)


class TwoViews(torch.utils.data.Dataset):
    def __len__(self):
        return len(train)

    def __getitem__(self, row):  # two noisy views of an image, and its label
        noise = 0.1 * torch.randn(2, 64)
        return torch.from_numpy(images[row]) + noise, int(labels[row])


def encode(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


@jax.jit
def step(params, state, views, labels):
    def loss(params):
        return losses.supcon(encode(params, views), labels, temperature=0.2)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


sizes = ((64, 128), (128, 32))
params = [jnp.asarray(rng.normal(0, s[0] ** -0.5, s), jnp.float32) for s in sizes]
optimizer = optax.adam(1e-3)
state = optimizer.init(params)
loader = torch.utils.data.DataLoader(TwoViews(), batch_size=256, shuffle=True, drop_last=True)
for _ in range(30):
    for views, targets in loader:
        params, state, value = step(params, state, views.numpy(), targets.numpy())
embeddings = np.asarray(encode(params, images))
found = KNeighborsClassifier(5).fit(embeddings[train], labels[train])
print(f"loss {value:.3f}")
print(f"accuracy {found.score(embeddings[test], labels[test]):.3f}")
