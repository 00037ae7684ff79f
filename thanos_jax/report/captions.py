"""How to read each kind of picture, for readers of the report who do not know the code."""

from __future__ import annotations

HOW_TO_READ: dict[str, str] = {
    "curves": (
        "Training, step by step; dashed lines with dots are the validation split. A validation "
        "curve that turns while its training curve continues is overfitting. Gradient norm and "
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
    "groups_without_truth": (
        "Accuracy on validation images of each group, with its number of training images; the "
        "dashed line is the accuracy of all. The groups are recovered ones, or the classes. True "
        "groups are unknown, because there are no fine labels to compare with. findings.csv names "
        "the images of each group."
    ),
    "contingency": (
        "Training images by true and recovered group. A true group was found if its row is dark "
        "in a column where other rows are light."
    ),
    "worst_recovered": (
        "Training images of a group on which the classifier does worst on validation, each with "
        "its predicted class, wrong predictions first. A feature that they share is one that the "
        "classifier missed."
    ),
    "worst_group": (
        "Test images of the true group on which the classifier does worst, each with its predicted "
        "class, wrong predictions first."
    ),
    "worst_class": (
        "Test images of the class with the lowest accuracy, each with its prediction, wrong "
        "predictions first."
    ),
    "confused": (
        "Test images by label (rows) and prediction (columns): right predictions are blue, wrong "
        "ones red. A strong red cell is a pair of classes that the model confuses."
    ),
    "recovered_map": (
        "Training images as the representation embeds them (t-SNE keeps neighbourhoods, not "
        "distances or sizes), coloured by group."
    ),
    "suspected": (
        "The training images whose labels are most likely wrong, the most suspicious first, each "
        "with its given label → the suggested label. findings.csv lists all images."
    ),
    "audit": (
        "The images of all splits whose labels are most likely wrong, the most suspicious first, "
        "each with its given label → the suggested label, and its file. Each was judged by a model "
        "that was trained without it. The right labels are unknown, so these are suspicions, not "
        "measured errors. findings.csv lists all images."
    ),
    "suspicion": (
        "How likely each training label is wrong, by the method. The less the two histograms "
        "overlap, the better right and wrong labels are told apart."
    ),
    "noisy_map": (
        "Training images as the representation embeds them (t-SNE keeps neighbourhoods, not "
        "distances or sizes). An image with a wrong label lies among images of another class, "
        "unless training has memorized the label."
    ),
    "audit_map": (
        "Images of all splits as the model of the last part embeds them (t-SNE keeps "
        "neighbourhoods, not distances or sizes). An image with a wrong label lies among images of "
        "another class."
    ),
    "kept_share": (
        "Share kept of the training images of each fine label, with their number; the dashed line "
        "is the share of all. A method that keeps images unlike the others keeps more of the fine "
        "labels with few images."
    ),
    "dropped_images": "The training images dropped first, by score.",
    "chosen_images": (
        "Some of the images, drawn at random, because this method has no scores to order them by."
    ),
    "kept_images": (
        "The training images kept longest, by score. If hard images score high, wrong labels and "
        "odd images are among them."
    ),
    "reconstructions": (
        "Test images as the encoder gets them, and under each the decoder's output for its "
        "embedding. Details that are missing below were not kept in the embedding."
    ),
}
