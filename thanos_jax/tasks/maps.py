"""The maps of images in the reports of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thanos_jax.downstream import projection
from thanos_jax.report import image_map
from thanos_jax.report.captions import HOW_TO_READ
from thanos_jax.report.image_map import (
    Column,
    ImageMap,
    classes,
    right_or_wrong,
    score,
    split_word,
)
from thanos_jax.tasks import problems
from thanos_jax.tasks.stages import Run


def shown(run: Run, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns outputs in which only the embeddings of the map's images are left.

    Every process makes this call, because embeddings may be split over the devices of all
    processes. The map itself is made by the first process.
    """
    drawn = projection.draw(outputs["embedding"], limit=run.config.report.map_points)
    return {**outputs, "embedding": drawn}


def lay_out(run: Run, embeddings: np.ndarray | projection.Sample) -> projection.Layout:
    """Computes the layout of the run's map, and prints how long it took."""
    report = run.config.report
    layout = projection.lay_out(embeddings, limit=report.map_points, projection=report.projection)
    print(f"map of {len(layout.mapped):,} images: {float(layout.seconds):.1f} s", flush=True)
    return layout


def of_split(
    run: Run,
    split: str,
    layout: projection.Layout,
    columns: Sequence[Column],
    images: Any = None,
    names: np.ndarray | None = None,
) -> ImageMap:
    """Makes the map of a split's images.

    Args:
      run: its data set has the images.
      split: "train" or "test"; another name if `images` are given.
      layout: of the split's images, from `lay_out`.
      columns: with a value for each image of the split.
      images: the split, if the data set does not have it.
      names: [n], of the images; None: their files, or their numbers as stored.
    """
    images = run.dataset.splits[split] if images is None else images
    return image_map.of_images(
        split,
        layout,
        columns,
        lambda rows: images.read(rows)["image"],
        names=images.names if names is None else names,
        pixels=run.config.report.thumbnail_pixels,
    )


def of_transfer(run: Run, test: Mapping[str, Any]) -> ImageMap:
    """Makes the map of test images, coloured first by fine labels, which show collapse.

    Args:
      run: its data set has the images.
      test: outputs on the test images, from `shown`.
    """
    dataset = run.dataset
    columns = [
        *_strata(run, "fine label", test, HOW_TO_READ["fine"]),
        classes("coarse label", test["coarse"], dataset.coarse_names, HOW_TO_READ["coarse"]),
        classes("predicted label", test["prediction"], dataset.coarse_names),
        right_or_wrong(test["prediction"], test["coarse"]),
    ]
    return of_split(run, "test", lay_out(run, test["embedding"]), columns)


def of_groups(
    run: Run,
    layout: projection.Layout,
    train: Mapping[str, Any],
    recovered: Column | None,
) -> ImageMap:
    """Makes the map of training images, coloured first by their groups.

    Args:
      run: its data set has the images.
      layout: of the representation's embeddings; if empty, the classifier's are laid out.
      train: outputs of the classifier, from `shown`; "fine" are the true groups.
      recovered: the recovered groups, from `recovered`; None: the groups were known.
    """
    names = run.dataset.coarse_names
    columns = [
        *([] if recovered is None else [recovered]),
        *_strata(run, "true group", train, HOW_TO_READ["recovered_map"]),
        classes("class", train["coarse"], names),
        classes("predicted class", train["prediction"], names),
        right_or_wrong(train["prediction"], train["coarse"]),
    ]
    placed = layout if len(layout.mapped) else lay_out(run, train["embedding"])
    return of_split(run, "train", placed, columns)


def _strata(
    run: Run, name: str, labels: Mapping[str, np.ndarray], reading: str = ""
) -> list[Column]:
    """Returns the column of fine labels; [] if they equal the coarse labels."""
    dataset, fine = run.dataset, labels["fine"]
    if dataset.fine_names == dataset.coarse_names and np.array_equal(fine, labels["coarse"]):
        return []
    return [classes(name, fine, dataset.fine_names, reading)]


def recovered(groups: np.ndarray, names: np.ndarray) -> Column:
    """Returns the column of recovered groups, integer [n], indices of names."""
    return classes("recovered group", groups, names.tolist(), HOW_TO_READ["recovered_map"])


def of_labels(
    run: Run,
    layout: projection.Layout,
    labels: Any,
    found: Any,
    prediction: np.ndarray,
) -> ImageMap:
    """Makes the map of training images with their labels, coloured first by suspicion.

    Args:
      run: its data set has the images, and the names of the labels.
      layout: of training images.
      labels: the training labels, a `thanos_jax.tasks.corrupted.Noise`.
      found: their suspicion and suggestions, a `thanos_jax.tasks.mended.Findings`.
      prediction: integer [n], of the classifier.
    """
    names, reading = run.dataset.coarse_names, HOW_TO_READ["noisy_map"]
    columns = [
        score("suspicion", found.suspicion),
        classes("given label", labels.given, names, reading),
    ]
    if labels.changed.any():
        changed = labels.changed.astype(np.int32)
        columns.append(classes("whether it is wrong", changed, ("right", "wrong"), reading))
    columns += [
        *_judged(found.flagged, found.suggested, names),
        classes("predicted label", prediction, names),
        right_or_wrong(prediction, labels.given),
    ]
    return of_split(run, "train", layout, columns)


def of_audit(
    run: Run, images: Any, splits: np.ndarray, embeddings: Any, found: Mapping[str, Any]
) -> ImageMap:
    """Makes the map of audited images of all splits, coloured first by suspicion.

    Args:
      run: the run.
      images: n images of all splits.
      splits: str [n], the split of each.
      embeddings: floating point [n, d], of one model; or the sample that `shown` has drawn.
      found: the arrays of labels.npz.
    """
    names, reading = run.dataset.coarse_names, HOW_TO_READ["audit_map"]
    kinds, split = np.unique(splits, return_inverse=True)
    # A stored number identifies an image only within its split.
    called = np.array(problems.named(images, np.arange(len(splits)), splits), np.str_)
    columns = [
        score("suspicion", found["suspicion"]),
        classes("given label", found["given"], names, reading),
        *_judged(found["flagged"], found["suggested"], names),
        right_or_wrong(found["predicted_right"], np.ones(len(splits), bool)),
        classes("split", split, [split_word(kind) for kind in kinds.tolist()]),
    ]
    return of_split(run, "audited", lay_out(run, embeddings), columns, images, called)


def _judged(flagged: np.ndarray, suggested: np.ndarray, names: Sequence[str]) -> list[Column]:
    """Returns the columns of suspected and of suggested labels."""
    return [
        classes("suspected", flagged.astype(np.int32), ("not suspected", "suspected")),
        classes("suggested label", suggested, names),
    ]


def of_coreset(
    run: Run, stays: np.ndarray, scores: np.ndarray, train: Mapping[str, Any]
) -> ImageMap:
    """Makes the map of all training images, kept or dropped, under the classifier.

    Args:
      run: its data set has the images.
      stays: bool [n], True for images that are kept.
      scores: floating point [n]; [0] for methods without scores.
      train: outputs of the classifier on all training images, from `shown`.
    """
    names = run.dataset.coarse_names
    columns = [
        *([score("coreset score", scores)] if len(scores) else []),
        classes("kept", stays.astype(np.int32), ("dropped", "kept")),
        *_strata(run, "fine label", train),
        classes("class", train["coarse"], names),
        classes("predicted class", train["prediction"], names),
        right_or_wrong(train["prediction"], train["coarse"]),
    ]
    return of_split(run, "train", lay_out(run, train["embedding"]), columns)
