"""Title, meaning and unit of every number that a run or a table reports.

To add a number, add an entry to `NUMBERS`; the report, the tables and the command use it.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple


class Number(NamedTuple):
    """How to show and explain a number (or text) of the results.

    Attributes:
      meaning: for readers of the report who do not know the code.
      unit: "percent": a share of 1 that is shown times 100; "seconds"; "count"; "plain".
      title: heading of a column; empty: the key, with spaces.
      digits: decimals of a percentage and of a mean in a table.
      card: its place among the cards at the top of the report; 0: it has no card.
      printed: whether the command prints it at the end of a run.
    """

    meaning: str
    unit: Literal["percent", "seconds", "count", "plain"] = "plain"
    title: str = ""
    digits: int = 3
    card: int = 0
    printed: bool = False

    @property
    def scale(self) -> float:
        """The factor by which a value is multiplied to be shown."""
        return 100.0 if self.unit == "percent" else 1.0


_percent = functools.partial(Number, unit="percent", digits=1)
_seconds = functools.partial(Number, unit="seconds", digits=1)
_count = functools.partial(Number, unit="count", digits=0)

# Key in results.json or metrics.jsonl -> number. Where the last key is not enough, keys are joined
# with dots. The command prints numbers in this order.
NUMBERS: dict[str, Number] = {
    # What was run
    "dataset": Number("data set"),
    "task": Number("what kind of run it is"),
    "method": Number("method that trained the representation; ce: a classifier alone"),
    "robust_method": Number("how the classifier was trained, see docs/groups.md"),
    "noise_method": Number("how training dealt with wrong labels, see docs/noisy_labels.md"),
    "noise_kind": Number("how wrong labels were drawn"),
    "noise_rate": Number("share of the training labels that were made wrong"),
    "coreset_method": Number("how the kept training images were chosen, see docs/coresets.md"),
    "fraction": Number("share of the training images to keep"),
    "seed": Number("seed of parameters, sample order, augmentation and dropout"),
    "devices": Number("devices, and their kind"),
    "jax": Number("version of jax"),
    "thanos_jax": Number("version of this package"),
    # Accuracies
    "coarse_accuracy": _percent(
        "share of images whose coarse class, the label trained on, is predicted right by the "
        "classifier trained with the encoder",
        card=2,
        printed=True,
    ),
    "coarse_accuracy_chosen": _percent(
        "coarse accuracy at the step that is best on the validation split, whose labels are noisy",
        title="stopped early",
        printed=True,
    ),
    "fine_accuracy": _percent(
        "share of test images whose fine label a linear classifier on the frozen embedding "
        "predicts right; the encoder never saw fine labels",
        card=1,
        printed=True,
    ),
    "fine_accuracy_knn": _percent(
        "fine accuracy by a vote of the nearest training embeddings (cosine)",
        title="fine, nearest neighbours",
        printed=True,
    ),
    "fine_accuracy_class_mean": _percent(
        "fine accuracy by the nearest class mean", title="fine, class means"
    ),
    "fine_accuracy_validation": _percent("fine_accuracy on validation, which chose the L2 weight"),
    "fine_accuracy_given_coarse": _percent(
        "fine_accuracy if the true coarse class is given and only its fine labels are considered"
    ),
    "fine_accuracy_collapsed": _percent(
        "fine accuracy of always guessing the commonest fine label of the true coarse class: the "
        "ceiling of an embedding that has collapsed"
    ),
    "fine_accuracy_worst_class": _percent("lowest fine_accuracy over fine labels"),
    "fine_regularization": Number("L2 weight of the linear classifier, chosen on validation"),
    "fine_gradient_norm": Number(
        "gradient norm at the end of the linear classifier's fit; far above 0.01, it needed more "
        "iterations"
    ),
    "worst_group_accuracy": _percent(
        "lowest coarse accuracy over fine classes, by the classifier trained with the encoder",
        title="worst group",
        card=3,
        printed=True,
    ),
    "worst_group": Number("fine class on which the coarse accuracy is lowest"),
    "adjusted_average_accuracy": _percent(
        "mean accuracy of the true groups, weighted by their shares of the training set"
    ),
    "accuracy": _percent("share of the group's test images whose class is predicted right"),
    "auroc": _percent(
        "area under the ROC curve: the probability that random examples of the two classes, or a "
        "right and a wrong label, are ranked correctly"
    ),
    "worst_group_auroc": _percent(
        "lowest area under the ROC curve of a true group against the other class",
        title="worst group, AUROC",
    ),
    "test_images": _count("test images of the group or fine label"),
    "unlabelled_images": _count("images without a label"),
    "unlabelled_trained_on": _count(
        "images without a label that the representation was trained on, by InfoNCE or autoencoder"
    ),
    "train_images": _count("training images of the group or fine label"),
    # Hidden groups
    "recovery_f1": _percent(
        "how well recovered groups match the true ones: mean F1 over true groups, each with one "
        "recovered group at most",
        title="recovery F1",
    ),
    "recovered_groups": _count("groups recovered, over all classes", digits=1),
    "f1": _percent("mean F1 of true groups and their matched recovered groups"),
    "f1_many_to_one": _percent(
        "mean F1 of true groups, each with all recovered groups where it is commonest"
    ),
    "adjusted_rand": _percent(
        "agreement of recovered and true groups within a class; 0: chance",
        title="adjusted Rand index",
    ),
    "purity": _percent("share of images in the commonest true group of their recovered group"),
    "rarest_recall": _percent(
        "share of the rarest true group that is in its matched recovered group",
        title="recall of the rarest group",
    ),
    "rarest_precision": _percent(
        "share of the rarest true group's matched recovered group that belongs to it"
    ),
    "rarest_recall_many_to_one": _percent(
        "share of the rarest true group that is in recovered groups where it is commonest"
    ),
    "rarest_precision_many_to_one": _percent(
        "share of the recovered groups where the rarest true group is commonest that belongs to it"
    ),
    "groups_without_validation": Number(
        "groups without validation images, which had no part in the choice of the step"
    ),
    # Wrong labels
    "precision": _percent("share of the flagged labels that are wrong"),
    "recall": _percent("share of the wrong labels that are flagged"),
    "average_precision": _percent("precision, averaged over wrong labels, most suspicious first"),
    "validation_accuracy": _percent(
        "share of the group's validation images whose class is predicted right"
    ),
    "validation_images": _count("validation images of the group"),
    "judged_images": _count(
        "images whose label was judged by a model that was trained without them"
    ),
    "suspected_images": _count("images whose label is suspected; the right labels are unknown"),
    "flagged": _percent("share of the labels that are flagged as wrong"),
    "changed": _percent("share of the labels that are wrong"),
    "labels_right": _percent(
        "share of right labels among the labels trained on, after repair",
        title="labels right after mending",
        printed=True,
    ),
    "recovered": _percent("share regained of the accuracy that cross-entropy loses by noise"),
    "images_trained_on": _count("training images used: all, unless flagged images are dropped"),
    # Coresets
    "kept_images": _count("training images kept, which the classifier was trained on"),
    "kept_share": _percent("share of the training images of a fine label that was kept"),
    # Geometry
    "within_class_spread": Number("mean squared distance to the coarse class's mean on the sphere"),
    "predicted_within_class_spread": Number(
        "within_class_spread at the minimum of the contrastive loss alone, for training images in "
        "an embedding with a direction for each image, see docs/methods.md"
    ),
    "spread_threshold": Number(
        "the minimum is collapse for alpha up to this value, or with the joint loss for beta from "
        "this value"
    ),
    "prediction_leaves_out": Number(
        "influences on the measured spread that the prediction ignores"
    ),
    "between_class_spread": Number("mean squared distance of class means to the overall mean"),
    "within_stratum_spread": Number("mean squared distance to the mean of the fine class"),
    "collapse_index": Number(
        "share of the variance that lies within coarse classes; 0: each class has collapsed to one "
        "point, 1: class means coincide",
        card=4,
    ),
    "fine_within_coarse": Number(
        "share of the variance within coarse classes that fine labels explain; 0: fine labels are "
        "mixed, 1: each is one point of its own"
    ),
    "alignment": Number("mean squared distance of pairs of one coarse class; 0: all in one point"),
    "alignment_fine": Number("mean squared distance of pairs of one fine class"),
    "uniformity": Number("log mean Gaussian kernel of pairs; 0: one point, lower: more even"),
    "nc1": Number(
        "neural collapse: scatter within coarse classes relative to the scatter of their means; 0: "
        "each class is one point"
    ),
    "nc2_norms": Number(
        "neural collapse: variation of the class means' distances to their centre; 0: all equally "
        "far (always so for two classes)"
    ),
    "nc2_cosines": Number(
        "neural collapse: how far the angles between class means are from a simplex's; 0: a "
        "simplex (always so for two classes)"
    ),
    "nc1_strata": Number("nc1 of the fine classes within a coarse class; large: they overlap"),
    "nc2_norms_strata": Number("nc2_norms of the fine classes within a coarse class"),
    "nc2_cosines_strata": Number("nc2_cosines of the fine classes within a coarse class"),
    # Training
    "step": _count("updates of the parameters so far"),
    "steps": _count("updates of the parameters"),
    "epoch": Number("passes over the training set so far"),
    "loss": Number("weighted sum of the terms below"),
    "cross_entropy": Number("coarse cross-entropy"),
    "contrastive": Number("contrastive loss"),
    "reconstruction": Number("mean squared error of the autoencoder, normalized pixels"),
    "early_learning_regularization": Number("log of one minus agreement with earlier predictions"),
    "keep_rate": Number(
        "share of a batch, with the smallest losses, that each network learns from"
    ),
    "largest_group_weight": Number("weight that group DRO gives the group of highest loss"),
    "gradient_norm": Number("Euclidean length of the gradient"),
    "learning_rate": Number("learning rate"),
    "validation_coarse_accuracy": _percent(
        "coarse accuracy on the validation split; in the task noise, with its noisy labels"
    ),
    "validation_balanced_accuracy": _percent(
        "coarse accuracy on the validation split, averaged over fine labels"
    ),
    "validation_worst_group_accuracy": _percent(
        "lowest validation accuracy over the groups trained with (not the true groups)"
    ),
    "validation_fine_accuracy": _percent(
        "fine accuracy of a linear classifier on the validation split",
        title="fine accuracy, validation",
    ),
    "validation_collapse_index": Number(
        "collapse index of the validation split", title="collapse index, validation"
    ),
    "chosen_step": _count("step of the best evaluation on validation, by worst group or accuracy"),
    "skipped_steps": _count("steps left out, whose loss or gradient was not finite"),
    "skipped_examples": _count("stored images left out, which could not be read"),
    "classes_in_batch": Number("mean number of classes in a batch of the first training"),
    "class_images_min": _count("fewest images of a class that a batch has"),
    "class_images_mean": Number("mean number of images of a class that a batch has"),
    "class_images_max": _count("most images of a class that a batch has"),
    "seconds": _seconds("time spent training so far"),
    "train_seconds": _seconds("time spent training, over all starts of the run", printed=True),
    "scoring_seconds": _seconds("the part of train_seconds spent on trainings that score images"),
    "images_per_second": Number("training images per second, median over the log"),
    "embedding_dim": _count("width of the embedding"),
    "parameters": _count("number of trained parameters"),
}


def find(path: Sequence[str]) -> Number | None:
    """Returns the entry of a number; None if it has none.

    Args:
      path: its keys in results.json. The entry is looked up by the whole path, then by single keys
        from the last to the first: the last key may be a label of the data set.
    """
    return next((NUMBERS[key] for key in (".".join(path), *reversed(path)) if key in NUMBERS), None)


def shown(path: Sequence[str], value: Any) -> str:
    """Returns a value of results.json or metrics.jsonl as the report shows it.

    Args:
      path: its keys.
      value: any value; text is returned as it is.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    entry, number = find(path), float(value)
    unit = entry.unit if entry else "count"
    if not math.isfinite(number):
        return str(number)
    if entry and unit == "percent":
        return f"{entry.scale * number:.{entry.digits}f}\N{NO-BREAK SPACE}%"
    if unit == "seconds":
        return _duration(number)
    if isinstance(value, numbers.Integral):
        return f"{value:,}" if unit == "count" else str(value)
    return f"{number:.4g}"


def _duration(number: float) -> str:
    minutes, seconds = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}\N{NO-BREAK SPACE}h {minutes}\N{NO-BREAK SPACE}min"
    if minutes:
        return f"{minutes}\N{NO-BREAK SPACE}min {seconds}\N{NO-BREAK SPACE}s"
    return f"{number:.1f}\N{NO-BREAK SPACE}s"
