"""The robust losses in loops and float64, each from the formula of its paper."""

import numpy as np

BATCH, FEATURES, CLASSES, GROUPS = 16, 3, 4, 5
STEP_SIZE, ADJUSTMENT, SIZES, KEEP_RATE = 0.5, 2.0, (50, 10, 400, 3, 7), 0.4


def expect_means(values, groups, num_groups, where):
    means, counts = np.zeros(num_groups), np.zeros(num_groups, int)
    for group in range(num_groups):
        members = [
            float(v) for v, g, w in zip(values, groups, where, strict=True) if w and g == group
        ]
        counts[group] = len(members)
        means[group] = sum(members) / len(members) if members else 0.0
    return means, counts


def expect_weights(weights, group_losses, step_size, adjustment, sizes):
    factors = [
        np.exp(step_size * (float(loss) + adjustment / np.sqrt(size)))
        for loss, size in zip(group_losses, sizes, strict=True)
    ]
    products = np.asarray(weights, np.float64) * factors
    return products / products.sum()


def expect_weighted_mean(values, weights, where):
    rows = np.flatnonzero(where)
    return sum(float(weights[i]) * float(values[i]) for i in rows) / max(len(rows), 1)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def expect_regularization(logits, targets, where):
    rows = [
        np.log(1 - softmax(logits[i].astype(np.float64)) @ targets[i].astype(np.float64))
        for i in np.flatnonzero(where)
    ]
    return np.mean(rows) if rows else 0.0


def expect_targets(targets, logits, momentum):
    clamped = np.clip(softmax(logits.astype(np.float64)), 1e-4, 1 - 1e-4)
    return momentum * targets + (1 - momentum) * clamped / clamped.sum(axis=1, keepdims=True)


def expect_selection(values, kept, where):
    chosen = np.zeros(len(values), bool)
    real = sorted(np.flatnonzero(where), key=lambda i: (float(values[i]), i))
    chosen[real[:kept]] = True
    return chosen
