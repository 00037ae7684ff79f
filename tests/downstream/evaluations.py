"""Every evaluation that takes rows from where they are, once; for tests and their processes."""

import jax
import numpy as np

from thanos_jax.downstream import (
    audit,
    class_fixing,
    coreset,
    geometry,
    neural_collapse,
    noisy_labels,
    projection,
    strata,
    transfer,
)


def of(train, test, fine, test_fine, coarse, *, predicted, weights, probabilities):
    """Returns name -> what it finds, in NumPy: arrays, numbers and tuples of them.

    Args:
      train, test: embeddings [n, d] and [m, d], in any form that evaluations take.
      fine, test_fine, coarse: labels of the rows.
      predicted: classes [n] that a classifier of the weights predicts.
      weights: [classes, d].
      probabilities: [m, classes] for the test rows.
    """
    classes = {"weights": weights, "predictions": predicted}
    return {
        "geometry": geometry.geometry(train, fine, coarse, samples=150),
        "collapse": neural_collapse.neural_collapse(train, fine, **classes),
        "strata": neural_collapse.strata_neural_collapse(train, fine, coarse, normalize=True),
        "pairs": strata.strata_distances(train, fine, coarse, samples=20).distances,
        "means": strata.strata_distances(train, fine, coarse, kind="means").distances,
        "fixing": class_fixing.class_fixing_permutation_test(
            train, fine, coarse, permutations=2, samples=80
        ),
        "herding": coreset.herding(train, fine, 5),
        "herded": coreset.select("herding", fine, 0.3, embeddings=train),
        "nearest": tuple(noisy_labels.nearest(train, 5)),
        "votes": noisy_labels.suspicion(train, fine, k=5, weighted=True),
        "suspicion": noisy_labels.suspicion(train, fine, method="strata", k=5, clusters=2),
        "suggested": noisy_labels.suggest(train, fine, k=5),
        "judged": tuple(audit.judge(test, test_fine, probabilities, train, fine, k=5)),
        "drawn": tuple(projection.draw(train, limit=50)),
        "neighbours": transfer.nearest_neighbours(train, fine, test, k=5),
        "class means": transfer.class_means(train, fine, test),
    }


def require_close(found, expected):
    """Raises AssertionError unless what was found is the same to 1e-6."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        jax.tree.map(
            lambda one, other, name=name: np.testing.assert_allclose(
                one, other, atol=1e-6, err_msg=name
            ),
            found[name],
            value,
        )
