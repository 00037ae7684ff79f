"""What numbers and pictures mean, for people who read the report and not the code."""

from __future__ import annotations

MEANINGS: dict[str, str] = {
    "dataset": "data set",
    "method": "what was trained",
    "seed": "seed of parameters, sample order, augmentation and dropout",
    "steps": "updates of the parameters",
    "train_seconds": "time spent training, over all starts of the run",
    "images_per_second": "images trained on in a second, median over the log",
    "embedding_dim": "width of the embedding",
    "parameters": "trained numbers in the model",
    "devices": "devices, and their kind",
    "coarse_accuracy": "test images whose coarse class, the one trained on, is predicted right",
    "fine_accuracy": "test images whose fine label is predicted right by a linear classifier "
    "on the frozen embedding; the encoder never saw fine labels",
    "fine_accuracy_validation": "fine_accuracy on the validation split, which chose the L2 weight",
    "fine_regularization": "L2 weight of the linear classifier, chosen on validation",
    "fine_gradient_norm": "where the fit of the linear classifier ended; far above 0.01, it needed "
    "more iterations",
    "fine_accuracy_given_coarse": "the linear classifier when told the true coarse class: it only "
    "has to tell fine labels within it apart",
    "fine_accuracy_collapsed": "reached by always guessing the commonest fine label of the true "
    "coarse class: the ceiling of an embedding that has collapsed",
    "fine_accuracy_worst_class": "accuracy on the fine label the linear classifier does worst on",
    "fine_accuracy_knn": "fine labels by a vote of the nearest training embeddings (cosine)",
    "fine_accuracy_class_mean": "fine labels by the nearest class mean",
    "worst_group_accuracy": "coarse accuracy on the fine class where it is lowest",
    "worst_group": "that fine class",
    "task": "what kind of run it is",
    "robust_method": "how the classifier was trained against its worst groups; see docs/groups.md",
    "adjusted_average_accuracy": "mean accuracy of the true groups, weighted by their shares of "
    "the training set",
    "auroc": "area under the ROC curve; probability that one of each of the two classes, or of "
    "right and wrong labels, are ranked rightly",
    "worst_group_auroc": "that of the true group where it is lowest, against the other class",
    "recovery_f1": "how well recovered groups match the true ones, 1: exactly (mean F1 over true "
    "groups, each with one recovered group at most)",
    "recovered_groups": "groups recovered, over all classes",
    "f1": "mean F1 of true groups and their partners among the recovered; see docs/groups.md",
    "f1_many_to_one": "likewise, a true group's partners being all groups where it is commonest",
    "adjusted_rand": "agreement of recovered and true groups within a class; 0: chance",
    "purity": "share of images in the commonest true group of their recovered group",
    "rarest_recall": "share of the rarest true group that is in its partner",
    "rarest_precision": "share of the partner that is of the rarest true group",
    "accuracy": "test images of the group whose class is predicted right",
    "chosen_step": "of all evaluations on validation, the best: by worst group or by accuracy",
    "validation_worst_group_accuracy": "accuracy of the worst group on the validation split, of "
    "the groups trained with (not the true ones)",
    "groups_without_validation": "groups that had no validation image, and no say in that choice",
    "coreset_method": "how the kept training images were chosen; see docs/coresets.md",
    "fraction": "share of the training images to keep",
    "kept_images": "training images kept, which the classifier was trained on",
    "scoring_seconds": "of train_seconds those of the trainings by which images were scored",
    "validation_balanced_accuracy": "coarse accuracy on the validation split, each fine label "
    "counting alike",
    "largest_group_weight": "the weight that group DRO gives the group of highest loss",
    "noise_method": "how wrong labels were borne; see docs/noisy_labels.md",
    "noise_kind": "to which labels wrong ones changed",
    "noise_rate": "share of the training labels that were made wrong",
    "coarse_accuracy_chosen": "of the step with the best accuracy on the validation split, whose "
    "labels are noisy too",
    "precision": "share of the labels found wrong that are",
    "recall": "share of the wrong labels that are found",
    "average_precision": "precision, averaged over the wrong labels from the most suspicious down",
    "flagged": "share of the labels found wrong",
    "changed": "share of the labels that are wrong",
    "labels_right": "share of the labels trained on, after mending, that are right",
    "images_trained_on": "training images left, all unless labels found wrong are dropped",
    "within_class_spread": "mean squared distance to the mean of the coarse class, on the sphere",
    "between_class_spread": "mean squared distance of the coarse class means to the overall mean",
    "within_stratum_spread": "mean squared distance to the mean of the fine class",
    "collapse_index": "share of the variance that lies within coarse classes; 0: each class has "
    "collapsed to one point, 1: class means coincide",
    "fine_within_coarse": "share of the variance within coarse classes that fine labels explain; "
    "0: fine labels are mixed, 1: each is one point of its own",
    "alignment": "mean squared distance of pairs of one coarse class; 0: all in one point",
    "alignment_fine": "mean squared distance of pairs of one fine class",
    "uniformity": "log of the mean Gaussian kernel of pairs; 0: all in one point, lower: more even",
    "nc1": "neural collapse: scatter within coarse classes against that of their means; 0: each "
    "class is one point",
    "nc2_norms": "neural collapse: variation of the class means' distances to their centre; 0: "
    "equally far, as two always are",
    "nc2_cosines": "neural collapse: how far the angles between class means are from a simplex's; "
    "0: a simplex, as two always are",
    "nc1_strata": "nc1 of the fine classes within a coarse class, averaged over coarse classes; "
    "large: they overlap",
    "nc2_norms_strata": "nc2_norms, likewise",
    "nc2_cosines_strata": "nc2_cosines, likewise",
    "step": "updates of the parameters so far",
    "epoch": "passes over the training set so far",
    "loss": "weighted sum of the terms below",
    "cross_entropy": "coarse cross-entropy",
    "contrastive": "contrastive loss",
    "reconstruction": "mean squared error of the autoencoder, normalized pixels",
    "gradient_norm": "Euclidean length of the gradient",
    "learning_rate": "learning rate",
    "validation_coarse_accuracy": "coarse accuracy on the validation split, in the task noise of "
    "its noisy labels",
    "keep_rate": "share of a batch, of smallest losses, that each network learns from",
    "early_learning_regularization": "mean log of one minus agreement with earlier predictions",
    "validation_fine_accuracy": "fine accuracy of a linear classifier on the validation split",
    "validation_collapse_index": "collapse index of the validation split",
    "seconds": "time spent training so far",
    "jax": "version of jax",
    "thanos_jax": "version of this package",
}

HOW_TO_READ: dict[str, str] = {
    "curves": (
        "Training, step by step; dashed lines with dots are the validation split. A validation "
        "curve that turns while its training curve goes on is overfitting. Gradient norm and "
        "learning rate are there to explain jumps in the losses."
    ),
    "coarse": (
        "Each dot is a test image; near dots have similar embeddings (t-SNE keeps neighbourhoods, "
        "not distances or sizes). Coarse classes, which were trained on, should be apart. Under "
        "class collapse all dots of a coarse class form one blob."
    ),
    "fine": (
        "The same dots coloured by fine label, which training never saw. Class collapse: fine "
        "colours are mixed within the blob of their coarse class, and no classifier can tell them "
        "apart. Balanced: fine colours form islands of their own."
    ),
    "group_bars": (
        "Test accuracy of each true group, with its number of training images; the dashed line is "
        "the accuracy of all test images. A classifier that relies on what most images of a class "
        "share fails on the groups that do not share it."
    ),
    "contingency": (
        "Training images by true and recovered group. A true group was found if its row is dark "
        "in a column where other rows are light."
    ),
    "worst_recovered": (
        "Some training images of the recovered group on which the classifier does worst on "
        "validation. What they have in common, it has not learnt."
    ),
    "recovered_map": (
        "Training images as the representation embeds them (t-SNE keeps neighbourhoods, not "
        "distances or sizes), coloured by group."
    ),
    "suspected": (
        "The training images whose labels are most likely wrong, with the label given → the label "
        "that seems right."
    ),
    "suspicion": (
        "How likely each training label seemed to be wrong. The less right and wrong labels "
        "overlap, the better they can be told apart."
    ),
    "noisy_map": (
        "Training images as the representation embeds them (t-SNE keeps neighbourhoods, not "
        "distances or sizes). A label that is wrong lies among images of another class, unless "
        "training has learnt it by heart."
    ),
    "kept_share": (
        "Share kept of the training images of each fine label, with their number; the dashed line "
        "is the share of all. Where images are kept for what few others teach, fine labels with "
        "few images keep more."
    ),
    "dropped_images": ("The training images that go first, by their scores."),
    "kept_images": (
        "The training images that go last, by their scores. Where what is hard scores high, wrong "
        "labels and odd images are among them."
    ),
    "reconstructions": (
        "Test images as the encoder gets them, and under each what the decoder makes of its "
        "embedding. What is missing below was not kept in the embedding."
    ),
}
