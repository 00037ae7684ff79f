"""The methods of every task: their names, what each is in a sentence, and the facts code asks for.

Data alone, without imports that take time: the schema, the tables and the tasks read it. What a
representation's method minimizes is in `thanos_jax.train.objective.METHODS`, of the same names.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Method(NamedTuple):
    """A method that trains an encoder, `config.method`.

    Attributes:
      meaning: what is trained.
    """

    meaning: str


class GroupsMethod(NamedTuple):
    """How the task "groups" trains its classifier, `config.groups.method`.

    Attributes:
      meaning: what the classifier is trained on or by.
      groups: the groups it is trained with: "recovered" from the embedding of config.method; the
        "fine" or the "coarse" labels; "errors", each class split by whether a first training errs.
      group_dro: whether its loss is that of group DRO; otherwise cross-entropy.
    """

    meaning: str
    groups: Literal["recovered", "fine", "coarse", "errors"]
    group_dro: bool = False


class NoiseMethod(NamedTuple):
    """How the task "noise" deals with wrong labels, `config.noise.method`.

    Attributes:
      meaning: what is done about them.
      embeds: whether config.method is trained first, and wrong labels found by its embedding.
    """

    meaning: str
    embeds: bool = False


class CoresetMethod(NamedTuple):
    """How the task "coreset" chooses images, `config.coreset.method`.

    Attributes:
      meaning: what an image is scored by.
      trainings: of config.method, for the scores: "several", over which scores are averaged; "one",
        which is looked at; "none".
    """

    meaning: str
    trainings: Literal["several", "one", "none"]


METHODS: dict[str, Method] = {
    "ce": Method("cross-entropy of coarse labels alone"),
    "info_nce": Method("cross-entropy and InfoNCE"),
    "supcon": Method("cross-entropy and SupCon"),
    "supcon_info_nce": Method("cross-entropy, SupCon and InfoNCE"),
    "cauto": Method("cross-entropy and an autoencoder"),
    "spread": Method("cross-entropy and the spread loss"),
    "supcon_cauto": Method("cross-entropy, SupCon and an autoencoder"),
    "thanos": Method("cross-entropy, the spread loss and an autoencoder"),
    "joint": Method("cross-entropy and the joint loss of SupCon and InfoNCE"),
}

GROUPS_METHODS: dict[str, GroupsMethod] = {
    "group_dro": GroupsMethod("group DRO on recovered groups", "recovered", group_dro=True),
    "group_dro_true": GroupsMethod(
        "group DRO on fine labels, the true groups", "fine", group_dro=True
    ),
    "reweight": GroupsMethod("images weighted so that recovered groups count alike", "recovered"),
    "undersample": GroupsMethod(
        "as many images of each recovered group as the smallest has", "recovered"
    ),
    "jtt": GroupsMethod("Just Train Twice, which repeats what a first training errs on", "errors"),
    "erm": GroupsMethod("cross-entropy", "coarse"),
    "none": GroupsMethod("not at all, the classifier of config.method is tested", "recovered"),
}

NOISE_METHODS: dict[str, NoiseMethod] = {
    "mend": NoiseMethod(
        "relabel or drop the labels that the embedding of config.method speaks against", embeds=True
    ),
    "ce": NoiseMethod("cross-entropy on the labels as they are"),
    "co_teaching": NoiseMethod("two networks, each trained on the other's small losses"),
    "elr": NoiseMethod("early-learning regularization"),
}

CORESET_METHODS: dict[str, CoresetMethod] = {
    "common_strata": CoresetMethod(
        "how much less sure models are of an image they were not trained on", "several"
    ),
    "random": CoresetMethod("nothing, images are drawn", "none"),
    "forgetting": CoresetMethod("how often an image is forgotten during a training", "one"),
    "el2n": CoresetMethod("the length of its error early in training", "several"),
    "herding": CoresetMethod(
        "how well it helps the kept images to keep the class's mean embedding", "one"
    ),
}
