"""No images: rows of a table (wines, 13 measurements), whose views hide some of the columns.

python examples/table_rows.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from thanos_jax import losses

rows, labels = load_wine(return_X_y=True)
train, test, train_labels, test_labels = train_test_split(
    rows, labels, test_size=0.4, random_state=0, stratify=labels
)
scale = StandardScaler().fit(train)
train, test = (scale.transform(x).astype(np.float32) for x in (train, test))
rng = np.random.default_rng(0)


def encode(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


@jax.jit
def step(params, state, views, labels):
    def loss(params):
        return losses.spread(encode(params, views), labels, alpha=0.2, temperature=0.2)

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


sizes = ((13, 64), (64, 16))
params = [jnp.asarray(rng.normal(0, s[0] ** -0.5, s), jnp.float32) for s in sizes]
optimizer = optax.adam(1e-3)
state = optimizer.init(params)
for _ in range(150):
    shown = rng.random((len(train), 2, 13)) > 0.2  # hidden columns get their mean, 0
    params, state, value = step(params, state, train[:, None] * shown, train_labels)
found = KNeighborsClassifier(5).fit(encode(params, train), train_labels)
print(f"loss {value:.3f}")
print(f"accuracy {found.score(encode(params, test), test_labels):.3f}")
