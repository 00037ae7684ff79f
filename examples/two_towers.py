"""Two towers, as in CLIP: images of digits and their names, with a learnable temperature.

python examples/two_towers.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import CountVectorizer

from thanos_jax import losses

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train, test = np.arange(1400), np.arange(1400, 1797)
letters = CountVectorizer(analyzer="char", ngram_range=(1, 2)).fit(NAMES)
texts = letters.transform(NAMES).toarray().astype(np.float32)  # one row for each name


def encode(layers, x):
    return jax.nn.relu(x @ layers[0]) @ layers[1]


def loss(params, image, text, labels):
    image, text = encode(params["image"], image), encode(params["text"], text)
    # Several images of a batch have the same name; with labels, none of them is a negative.
    return losses.cross_modal(image, text, labels, temperature=jnp.exp(-params["log_scale"]))


@jax.jit
def step(params, state, image, text, labels):
    value, gradient = jax.value_and_grad(loss)(params, image, text, labels)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


rng = np.random.default_rng(0)


def tower(width):
    return [rng.normal(0, a**-0.5, (a, b)).astype("f") for a, b in ((width, 128), (128, 32))]


params = {"image": tower(64), "text": tower(texts.shape[1]), "log_scale": jnp.log(1 / 0.07)}
optimizer = optax.adam(1e-3)
state = optimizer.init(params)
for _ in range(300):
    rows = rng.choice(train, 256)
    batch = images[rows], texts[labels[rows]], labels[rows]
    params, state, value = step(params, state, *batch)
image, text = encode(params["image"], images[test]), encode(params["text"], texts)
chosen = np.argmax(image @ (text / jnp.linalg.norm(text, axis=1, keepdims=True)).T, axis=1)
print(f"loss {value:.3f}, temperature {jnp.exp(-params['log_scale']):.3f}")
print(f"accuracy {np.mean(chosen == labels[test]):.3f}")  # how often the nearest name is right
