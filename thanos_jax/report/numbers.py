"""Every number that a run or a table reports: what it is called, means and is measured in.

A new number is an entry of `NUMBERS`; the report's page, the tables and the command read it there.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple


class Number(NamedTuple):
    """What is to know of a number, or of a word among the numbers.

    Attributes:
      meaning: for people who read the report and not the code.
      unit: "percent": a share of 1 that is shown times 100; "seconds"; "count"; "plain".
      title: as the head of a column; empty: the key, with spaces.
      digits: after the point, of a percentage and of a mean in a table.
      card: its place among the cards at the head of the report; 0: it has none.
      printed: whether the command prints it when a run has ended.
    """

    meaning: str
    unit: Literal["percent", "seconds", "count", "plain"] = "plain"
    title: str = ""
    digits: int = 3
    card: int = 0
    printed: bool = False

    @property
    def scale(self) -> float:
        """What it is multiplied by to be shown."""
        return 100.0 if self.unit == "percent" else 1.0


_percent = functools.partial(Number, unit="percent", digits=1)
_seconds = functools.partial(Number, unit="seconds", digits=1)
_count = functools.partial(Number, unit="count", digits=0)

# By key of results.json and metrics.jsonl, or by keys joined with dots where a key alone is not
# enough; in the order in which the command prints them.
NUMBERS: dict[str, Number] = {
    # What was run
    "dataset": Number("data set"),
    "task": Number("what kind of run it is"),
    "method": Number("what the representation was trained by; ce: a classifier alone"),
    "robust_method": Number("how the classifier was trained, see docs/groups.md"),
    "noise_method": Number("how training dealt with wrong labels, see docs/noisy_labels.md"),
    "noise_kind": Number("to which labels wrong ones changed"),
    "noise_rate": Number("share of the training labels that were made wrong"),
    "coreset_method": Number("how the kept training images were chosen, see docs/coresets.md"),
    "fraction": Number("share of the training images to keep"),
    "seed": Number("seed of parameters, sample order, augmentation and dropout"),
    "devices": Number("devices, and their kind"),
    "jax": Number("version of jax"),
    "thanos_jax": Number("version of this package"),
    # Accuracies
    "coarse_accuracy": _percent(
        "images whose coarse class, the one trained on, is predicted right", card=2, printed=True
    ),
    "coarse_accuracy_chosen": _percent(
        "coarse accuracy of the step that is best on the validation split, of noisy labels too",
        title="stopped early",
        printed=True,
    ),
    "fine_accuracy": _percent(
        "test images whose fine label is predicted right by a linear classifier on the frozen "
        "embedding; the encoder never saw fine labels",
        card=1,
        printed=True,
    ),
    "fine_accuracy_knn": _percent(
        "fine labels by a vote of the nearest training embeddings (cosine)",
        title="fine, nearest neighbours",
        printed=True,
    ),
    "fine_accuracy_class_mean": _percent(
        "fine labels by the nearest class mean", title="fine, class means"
    ),
    "fine_accuracy_validation": _percent("fine_accuracy on validation, which chose the L2 weight"),
    "fine_accuracy_given_coarse": _percent(
        "fine_accuracy when the true coarse class is told, within which to tell fine labels apart"
    ),
    "fine_accuracy_collapsed": _percent(
        "reached by always guessing the commonest fine label of the true coarse class: the ceiling "
        "of an embedding that has collapsed"
    ),
    "fine_accuracy_worst_class": _percent("fine_accuracy on the fine label where it is lowest"),
    "fine_regularization": Number("L2 weight of the linear classifier, chosen on validation"),
    "fine_gradient_norm": Number(
        "where the fit of the linear classifier ended; far above 0.01, it needed more iterations"
    ),
    "worst_group_accuracy": _percent(
        "coarse accuracy on the fine class where it is lowest",
        title="worst group",
        card=3,
        printed=True,
    ),
    "worst_group": Number("fine class on which the coarse accuracy is lowest"),
    "adjusted_average_accuracy": _percent(
        "mean accuracy of the true groups, weighted by their shares of the training set"
    ),
    "accuracy": _percent("test images of the group whose class is predicted right"),
    "auroc": _percent(
        "area under the ROC curve: the probability that one of each of the two classes, or of "
        "right and wrong labels, are ranked rightly"
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
    "f1": _percent("mean F1 of true groups and their partners among the recovered"),
    "f1_many_to_one": _percent("mean F1 of true groups and all groups where each is commonest"),
    "adjusted_rand": _percent(
        "agreement of recovered and true groups within a class; 0: chance",
        title="adjusted Rand index",
    ),
    "purity": _percent("share of images in the commonest true group of their recovered group"),
    "rarest_recall": _percent(
        "share of the rarest true group that is in its partner", title="recall of the rarest group"
    ),
    "rarest_precision": _percent("share of the rarest true group's partner that is of that group"),
    "rarest_recall_many_to_one": _percent(
        "share of the rarest true group that is in recovered groups where it is commonest"
    ),
    "rarest_precision_many_to_one": _percent(
        "share of the recovered groups where the rarest true group is commonest that is of it"
    ),
    "groups_without_validation": Number(
        "groups that had no validation image, and no say in the choice of the step"
    ),
    # Wrong labels
    "precision": _percent("share of the labels found wrong that are"),
    "recall": _percent("share of the wrong labels that are found"),
    "average_precision": _percent("precision, averaged over wrong labels, most suspicious first"),
    "validation_accuracy": _percent(
        "validation images of the group whose class is predicted right"
    ),
    "validation_images": _count("validation images of the group"),
    "judged_images": _count(
        "images whose label was judged by a model that was trained without them"
    ),
    "suspected_images": _count("images whose label is suspected; not measured, for nobody knows"),
    "flagged": _percent("share of the labels found wrong"),
    "changed": _percent("share of the labels that are wrong"),
    "labels_right": _percent(
        "share of the labels trained on, after mending, that are right",
        title="labels right after mending",
        printed=True,
    ),
    "recovered": _percent("share of what noise costs cross-entropy that the run does not lose"),
    "images_trained_on": _count("training images left, all unless labels found wrong are dropped"),
    # Coresets
    "kept_images": _count("training images kept, which the classifier was trained on"),
    "kept_share": _percent("share of the training images of a fine label that was kept"),
    # Geometry
    "within_class_spread": Number("mean squared distance to the coarse class's mean on the sphere"),
    "predicted_within_class_spread": Number(
        "within_class_spread at the minimum of the contrastive loss alone, of training images in "
        "an embedding with a direction for each, see docs/methods.md"
    ),
    "spread_threshold": Number(
        "alpha at and below which, or with the joint loss beta at and above which, collapse is "
        "that minimum"
    ),
    "prediction_leaves_out": Number("what acts on the measured spread beside the contrastive loss"),
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
        "neural collapse: scatter within coarse classes against that of their means; 0: each class "
        "is one point"
    ),
    "nc2_norms": Number(
        "neural collapse: variation of the class means' distances to their centre; 0: equally far, "
        "as two always are"
    ),
    "nc2_cosines": Number(
        "neural collapse: how far the angles between class means are from a simplex's; 0: a "
        "simplex, as two always are"
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
    "keep_rate": Number("share of a batch, of smallest losses, that each network learns from"),
    "largest_group_weight": Number("weight that group DRO gives the group of highest loss"),
    "gradient_norm": Number("Euclidean length of the gradient"),
    "learning_rate": Number("learning rate"),
    "validation_coarse_accuracy": _percent(
        "coarse accuracy on the validation split, in the task noise of its noisy labels"
    ),
    "validation_balanced_accuracy": _percent(
        "coarse accuracy on the validation split, each fine label counting alike"
    ),
    "validation_worst_group_accuracy": _percent(
        "accuracy on validation of the worst of the groups trained with (not the true ones)"
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
    "classes_in_batch": Number("classes that a batch of the first training has, in the mean"),
    "class_images_min": _count("fewest images of a class that a batch has"),
    "class_images_mean": Number("mean number of images of a class that a batch has"),
    "class_images_max": _count("most images of a class that a batch has"),
    "seconds": _seconds("time spent training so far"),
    "train_seconds": _seconds("time spent training, over all starts of the run", printed=True),
    "scoring_seconds": _seconds("time in train_seconds of the trainings that scored images"),
    "images_per_second": Number("images trained on in a second, median over the log"),
    "embedding_dim": _count("width of the embedding"),
    "parameters": _count("trained numbers in the model"),
}


def find(path: Sequence[str]) -> Number | None:
    """Returns the entry of a number; None if it has none.

    Args:
      path: its keys in results.json. Its last key alone, or one above it where the last is a
        label of the data set, may be what has the entry.
    """
    return next((NUMBERS[key] for key in (".".join(path), *reversed(path)) if key in NUMBERS), None)


def shown(path: Sequence[str], value: Any) -> str:
    """Returns a value of results.json or metrics.jsonl as the report shows it.

    Args:
      path: its keys.
      value: any; what is no number is its own text.
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
