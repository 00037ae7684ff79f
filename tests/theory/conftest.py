"""A sample small enough for loops and matrices."""

import pytest

from thanos_jax import theory


@pytest.fixture(params=theory.data.NOISES)
def small(request):
    """16 images of K = 4 features, 8 directions; noise="all" also hits features."""
    model = theory.Model(
        samples=16, augmentations=3, dim=8, features=4, phi_1=0.8, phi_2=1.1, phi_k=1.3, mu=0.6,
        sigma=1.7, noise=request.param,
    )  # fmt: skip
    return theory.draw(model, seed=3)
