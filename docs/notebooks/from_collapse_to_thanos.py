# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From collapse to Thanos
#
# This notebook shows on handwritten digits what class collapse is, why SupCon has it, and how the
# losses of Thanos avoid it. It takes about two minutes on two CPU cores. Its source is a plain
# script: `python docs/notebooks/from_collapse_to_thanos.py` runs it too.
#
# The task: an encoder learns 1,797 digits and is told only whether a digit is at least 5. That is
# the coarse label. Does its embedding still know which digit it is, the fine label?

# %%
import functools
import html
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from thanos_jax import losses
from thanos_jax.configs import digits
from thanos_jax.downstream.geometry import geometry
from thanos_jax.report import folder, side_by_side
from thanos_jax.run import run
from thanos_jax.theory import balance

RUNS = pathlib.Path("runs/notebook")

# %% [markdown]
# ## The minimum of a loss
#
# Leave the encoder out for a moment. Here are 64 embeddings of two classes, free to go wherever
# the loss sends them. Both views of an image are one point.
#
# W is the mean squared distance of an embedding to the mean of its class, on the unit sphere. Where
# it is 0, classes have collapsed: all images of a class lie on one point. `geometry` measures it,
# and more, of any embeddings.

# %%
COARSE = np.arange(64) % 2


def spread_within_classes(points):
    """Returns W of embeddings, which `geometry` normalizes."""
    return geometry(np.asarray(points), COARSE, COARSE)["within_class_spread"]


def descended(loss, steps=2000):
    """Returns embeddings after gradient descent on the loss from a random start."""
    points = jax.random.normal(jax.random.key(0), (64, 96))
    optimizer = optax.adam(0.02)

    def step(carry, _):
        points, state = carry
        gradient = jax.grad(lambda z: loss(jnp.stack([z, z], axis=1), COARSE))(points)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(points, updates), state), None

    start = points, optimizer.init(points)
    (points, _), _ = jax.lax.scan(step, start, length=steps)
    return points


collapsed = jax.jit(lambda: descended(losses.supcon))()
print(f"SupCon: W = {spread_within_classes(collapsed):.3f}")

# %% [markdown]
# SupCon is smallest where each class is a point. The spread loss is the sum of SupCon, with weight
# 1 - alpha, and a term with weight alpha that pushes the images of a class apart. Their spread at
# the minimum can be calculated without any training, and descent arrives at the same value:

# %%
ALPHAS = (0.05, 0.1, 0.3, 0.5, 0.7)
batches = {"classes": 2, "images_per_class": 32}
descend = jax.jit(lambda alpha: descended(functools.partial(losses.spread, alpha=alpha)))
print("alpha  by descent  by calculation")
for alpha in ALPHAS:
    found = spread_within_classes(descend(alpha))
    minimum = balance.within_class_spread(alpha=alpha, temperature=0.5, **batches)
    print(f"{alpha:5}  {found:10.3f}  {minimum:14.3f}")

# %%
grid = np.linspace(0, 1, 41)
figure, axes = plt.subplots(figsize=(6, 3.5))
for temperature in (0.1, 0.2, 0.5):
    setting = {"temperature": temperature, **batches}
    curve = [balance.within_class_spread(alpha=alpha, **setting) for alpha in grid]
    axes.plot(grid, curve, label=f"temperature {temperature}")
axes.set(xlabel="alpha", ylabel="W at the minimum")
_ = axes.legend()

# %% [markdown]
# At low temperatures W rises slowly with alpha; at 0.5 it is near 1 from the middle on. [How far a
# class spreads](../balance.md) has the calculation, and tables for more classes.
#
# ## The same with an encoder
#
# Two whole runs: augmentation, a small MLP, training, evaluation, report. They differ in one
# word, the method. Thanos is the spread loss, cross-entropy of the coarse labels, and an
# autoencoder. The run of SupCon warns beforehand that its classes will collapse.

# %% tags=["hide-output"]
METHODS = ("supcon", "thanos")
results = {}
for method in METHODS:
    results[method] = run(digits.get_config(method), RUNS / method)

# %% [markdown]
# Running the cell again would find finished runs and do nothing. These are the results on the test
# images:

# %%
ROWS = {
    "coarse accuracy": lambda found: found["coarse_accuracy"],
    "fine accuracy of a linear classifier": lambda found: found["fine_accuracy"],
    "fine accuracy of the worst digit": lambda found: found["fine_accuracy_worst_class"],
    "W": lambda found: found["geometry"]["test"]["within_class_spread"],
}
print(f"{'':38}" + "".join(f"{method:>8}" for method in METHODS))
for name, value in ROWS.items():
    print(f"{name:38}" + "".join(f"{value(results[method]):8.3f}" for method in METHODS))

# %% [markdown]
# Both predict the coarse label about equally well. A linear classifier predicts the digit more
# accurately from the embedding of Thanos, and the gain is largest for the worst digit. SupCon's W
# is not exactly 0: the encoder has not seen the test images, and training ends before the minimum.
#
# ## Look at it
#
# Here are the test images in both embeddings, at one scale. Point at a dot to see its image; click
# it to see its nearest neighbours in both maps; draw around a region to list its images; choose
# what to colour by.


# %%
class Page(str):
    """An HTML page, which a notebook shows in a frame."""

    def _repr_html_(self):
        style = "width: 100%; height: 62rem; border: 1px solid #8884; zoom: 0.8"
        source = html.escape(self)  # the whole page, so that no other file is needed
        return f'<iframe title="Maps" style="{style}" srcdoc="{source}"></iframe>'


beside = RUNS / "beside.html"
kept = {method: folder.read(RUNS / method) for method in METHODS}
side_by_side.write(beside, kept)
print(f"The page is in {beside}.")
Page(beside.read_text(encoding="utf-8"))

# %% [markdown]
# Under SupCon each half of the digits is a dense spot. Under Thanos the halves are apart too, and
# the digits lie side by side within them.
#
# ## What next
#
# - Your own images: [Start](../start.md#your-own-images).
# - All methods and what each is for: [Methods](../methods.md).
# - What a spread embedding is good for: [hidden groups](../groups.md), [wrong
#   labels](../noisy_labels.md), [coresets](../coresets.md).
# - The measures of collapse: [Geometry](../geometry.md).
