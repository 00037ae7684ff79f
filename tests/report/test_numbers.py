"""Every number that is reported is explained, and shown in its unit."""

import pytest

from thanos_jax.report import numbers

# Of short runs of every method of every task: numbers and words of results.json, and of a line of
# metrics.jsonl; labels of the digits stand for those of any data set.
RESULTS = """
dataset task method robust_method noise_method noise_kind noise_rate coreset_method fraction seed
steps train_seconds scoring_seconds skipped_steps skipped_examples devices parameters
embedding_dim images_per_second versions.jax versions.thanos_jax chosen_step coarse_accuracy
coarse_accuracy_chosen adjusted_average_accuracy worst_group_accuracy worst_group auroc
worst_group_auroc groups_without_validation validation_coarse_accuracy
validation_balanced_accuracy validation_worst_group_accuracy fine_accuracy
fine_accuracy_validation fine_accuracy_given_coarse fine_accuracy_collapsed
fine_accuracy_worst_class fine_accuracy_knn fine_accuracy_class_mean fine_regularization
fine_gradient_norm groups.0.accuracy groups.0.test_images groups.0.train_images groups.0.auroc
fine_labels.0.accuracy fine_labels.0.test_images fine_labels.0.train_images
fine_labels.0.kept_images kept_images kept_share.0 recovery_f1 recovered_groups recovery.f1
recovery.f1_many_to_one recovery.adjusted_rand recovery.purity recovery.rarest_recall
recovery.rarest_precision recovery.rarest_recall_many_to_one recovery.rarest_precision_many_to_one
detection.precision detection.recall detection.auroc detection.average_precision detection.flagged
detection.changed labels_right images_trained_on geometry.test.within_class_spread
geometry.test.between_class_spread geometry.test.within_stratum_spread
geometry.test.collapse_index geometry.test.fine_within_coarse geometry.test.alignment
geometry.test.alignment_fine geometry.test.uniformity geometry.test.nc1 geometry.test.nc2_norms
geometry.test.nc2_cosines geometry.test.nc1_strata geometry.test.nc2_norms_strata
geometry.test.nc2_cosines_strata along_training.epoch along_training.validation_fine_accuracy
along_training.validation_collapse_index batches.classes_in_batch batches.class_images_min
batches.class_images_mean batches.class_images_max spread.within_class_spread
spread.predicted_within_class_spread spread.spread_threshold spread.prediction_leaves_out
"""
RECORDS = """
step epoch loss cross_entropy contrastive reconstruction early_learning_regularization keep_rate
coarse_accuracy gradient_norm largest_group_weight learning_rate seconds images_per_second
skipped_steps skipped_examples validation_coarse_accuracy validation_worst_group_accuracy
validation_fine_accuracy validation_collapse_index
"""


@pytest.mark.parametrize("path", (RESULTS + RECORDS).split())
def test_every_number_of_a_run_has_an_entry(path):
    entry = numbers.find(path.split("."))
    assert entry
    assert entry.meaning
    assert "likewise" not in entry.meaning
    if "accuracy" in path:
        assert entry.unit == "percent"


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("fine_accuracy", 0.9866, "98.7 %"),
        ("recovery.f1", 1.0, "100.0 %"),
        ("kept_share.7", 0.25, "25.0 %"),
        ("scoring_seconds", 2.34, "2.3 s"),
        ("train_seconds", 125.3, "2 min 5 s"),
        ("train_seconds", 7300, "2 h 1 min"),
        ("steps", 4321, "4,321"),
        ("seed", 12345, "12345"),
        ("geometry.test.collapse_index", 0.98765, "0.9877"),
        ("fine_accuracy", float("nan"), "nan"),
        ("worst_group", "5 to 9, red", "5 to 9, red"),
        ("unheard_of", 1234, "1,234"),
        ("unheard_of", 0.12345, "0.1235"),
        ("unheard_of", True, "True"),
    ],
)
def test_a_value_is_shown_in_its_unit(path, value, text):
    assert numbers.shown(path.split("."), value).replace("\xa0", " ") == text


def test_cards_and_printed_lines_have_their_order():
    printed = [key for key, entry in numbers.NUMBERS.items() if entry.printed]
    assert printed == [
        *("coarse_accuracy", "coarse_accuracy_chosen", "fine_accuracy", "fine_accuracy_knn"),
        *("worst_group_accuracy", "labels_right", "train_seconds"),
    ]
    cards = {entry.card: key for key, entry in numbers.NUMBERS.items() if entry.card}
    assert [cards[place] for place in (1, 2, 3, 4)] == [
        *("fine_accuracy", "coarse_accuracy", "worst_group_accuracy", "collapse_index"),
    ]
