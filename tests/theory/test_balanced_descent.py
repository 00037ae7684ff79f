"""Free embeddings, descended on the class-balanced batches of a run, end where it is predicted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thanos_jax import losses
from thanos_jax.data.balanced import ClassBalance
from thanos_jax.downstream.geometry import geometry
from thanos_jax.theory import balance


def descend(rows, labels, *, steps, dim=256, **options):
    """Embeddings [n, 2, dim], both views free, after Adam on the batches of `rows` [steps, b]."""
    # The learning rate falls to nothing, and with it what a single batch moves.
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, steps))
    start = jax.random.normal(jax.random.key(0), (len(labels), 2, dim))
    labels = jnp.asarray(labels)

    def step(carry, batch):
        embeddings, state = carry
        gradient = jax.grad(lambda z: losses.spread(z[batch], labels[batch], **options))(embeddings)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(embeddings, updates), state), None

    run = jax.jit(lambda carry, rows: jax.lax.scan(step, carry, rows)[0])
    return np.asarray(run((start, optimizer.init(start)), jnp.asarray(rows))[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "size", "each", "present", "temperature", "alpha"),
    [(8, 16, 4, 4, 0.2, 0.5), (6, 12, 3, 5, 0.5, 0.5), (5, 20, 6, 5, 0.3, 0.4)],
)
def test_balanced_batches_end_at_the_prediction(classes, size, each, present, temperature, alpha):
    labels, steps = np.repeat(np.arange(classes), size), 12_000
    drawn = ClassBalance(labels, images_per_class=each)
    rows = np.stack(
        [
            drawn.draw(seed=0, step=s, batch_size=each * present, size=len(labels))
            for s in range(steps)
        ]
    )
    options = {"temperature": temperature, "alpha": alpha}
    found = descend(rows, labels, steps=steps, **options).reshape(-1, 256)
    coarse = np.repeat(labels, 2)
    measured = geometry(found, coarse, coarse)["within_class_spread"]
    expected = balance.within_class_spread(
        **options, classes=classes, images_per_class=each, images_in_all=size,
        classes_in_batch=present,
    )  # fmt: skip
    print(f"predicted {expected:.3f}, measured {measured:.3f}")
    assert 0.05 < expected < 0.95
    np.testing.assert_allclose(measured, expected, atol=0.01)
