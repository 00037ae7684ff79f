"""The methods of every task: their names, meanings, and the properties that the code needs.

This module is data only, without slow imports; the schema, the tables and the tasks read it. The
losses of a method are in `thanos_jax.train.objective`, under its name.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Method(NamedTuple):
    """A method of a task.

    Attributes:
      meaning: for the schema, in a few words.
      needs: what must exist before its classifier is trained. "training": a training of
        config.method, whose outputs are used; "trainings": several, over which scores are
        averaged; "errors": a first training of the classifier, whose errors are used; "fine": the
        fine labels; "": nothing.
      group_dro: whether its loss is group DRO; otherwise it is cross-entropy.
    """

    meaning: str
    needs: Literal["training", "trainings", "errors", "fine", ""] = ""
    group_dro: bool = False


# config.method: the losses that train the representation.
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
# config.groups.method: how a classifier is made robust to hidden groups, which are recovered from
# the embedding of an earlier training.
GROUPS: dict[str, Method] = {
    "group_dro": Method("group DRO on recovered groups", "training", group_dro=True),
    "group_dro_true": Method("group DRO on fine labels, the true groups", "fine", group_dro=True),
    "reweight": Method("images weighted so that recovered groups count equally", "training"),
    "undersample": Method("as many images of each recovered group as the smallest has", "training"),
    "jtt": Method("Just Train Twice, which repeats images that a first training errs on", "errors"),
    "erm": Method("cross-entropy"),
    "none": Method("not at all, the classifier of config.method is tested", "training"),
}
# config.noise.method: how training deals with wrong labels.
NOISE: dict[str, Method] = {
    "mend": Method("relabel or drop labels that config.method's embedding contradicts", "training"),
    "ce": Method("cross-entropy on the labels as they are"),
    "co_teaching": Method("two networks, each trained on the other's small losses"),
    "elr": Method("early-learning regularization"),
}
# config.coreset.method: how images are scored, to choose the ones to keep.
CORESETS: dict[str, Method] = {
    "common_strata": Method("how much less sure models are of images not trained on", "trainings"),
    "random": Method("nothing, images are drawn at random"),
    "forgetting": Method("how often an image is forgotten during a training", "training"),
    "el2n": Method("the size of its error early in training", "trainings"),
    "herding": Method("how well it keeps the mean embedding of its class", "training"),
}
