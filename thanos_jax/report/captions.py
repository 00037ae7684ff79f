"""How to read each kind of picture, for people who read the report and not the code."""

from __future__ import annotations

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
    "groups_without_truth": (
        "Accuracy on validation images of each group, with its number of training images; the "
        "dashed line is the accuracy of all. The groups are found or are the classes: fine labels "
        "would be the true groups, and there are none, so nothing is measured by them. "
        "findings.csv names the images of each group."
    ),
    "contingency": (
        "Training images by true and recovered group. A true group was found if its row is dark "
        "in a column where other rows are light."
    ),
    "worst_recovered": (
        "Training images of a group on which the classifier does worst on validation, each with "
        "the class that is predicted, the wrong ones first. What they share is what the classifier "
        "missed."
    ),
    "worst_group": (
        "Test images of the true group on which the classifier does worst, each with the class "
        "that is predicted, the wrong ones first."
    ),
    "worst_class": (
        "Test images of the class that is predicted worst, each with what is predicted, the wrong "
        "ones first."
    ),
    "confused": (
        "Test images by label (rows) and prediction (columns): right ones are blue, wrong ones "
        "red. A strong red cell is a pair of classes that the model does not tell apart."
    ),
    "recovered_map": (
        "Training images as the representation embeds them (t-SNE keeps neighbourhoods, not "
        "distances or sizes), coloured by group."
    ),
    "suspected": (
        "The training images whose labels are most likely wrong, the most suspicious first, each "
        "with the label given → the label that seems right. findings.csv lists all."
    ),
    "audit": (
        "The images whose labels are most likely wrong, of every split, the most suspicious first, "
        "each with its label → the label that seems right and its file. Each was judged by a model "
        "that was trained without it. Nothing is known of right labels: this is suspected, not "
        "measured. findings.csv lists all."
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
    "audit_map": (
        "Images of every split as the model of the last part embeds them (t-SNE keeps "
        "neighbourhoods, not distances or sizes). A label that is wrong lies among images of "
        "another class."
    ),
    "kept_share": (
        "Share kept of the training images of each fine label, with their number; the dashed line "
        "is the share of all. Where images are kept for what few others teach, fine labels with "
        "few images keep more."
    ),
    "dropped_images": "The training images dropped first, by score.",
    "chosen_images": (
        "Some of the images, drawn at random: this method has no scores that order them."
    ),
    "kept_images": (
        "The training images kept longest, by score. Where what is hard scores high, wrong labels "
        "and odd images are among them."
    ),
    "reconstructions": (
        "Test images as the encoder gets them, and under each what the decoder makes of its "
        "embedding. What is missing below was not kept in the embedding."
    ),
}
