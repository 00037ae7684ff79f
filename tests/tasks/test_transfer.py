"""The task of one training: what it asks of the encoder."""

import collections

from whole_runs import config_of

from thanos_jax import run as run_module
from thanos_jax.train import embed as embed_module


def test_a_split_is_embedded_once_for_one_state(tmp_path, no_report, monkeypatch):
    config = config_of("digits", "ce,mlp")
    config.model.mlp.widths = (16, 8)
    config.train.update(batch_size=128, max_steps=24, evaluate_every_epochs=1.0)
    config.transfer.update(every_epochs=2.0, iterations=5, neighbours=3)
    asked, real = collections.Counter(), embed_module.embed

    def embed(training, state, split, **keywords):
        (name,) = (n for n, one in training.dataset.splits.items() if one is split)
        asked[int(state.step), name] += 1
        return real(training, state, split, **keywords)

    monkeypatch.setattr(embed_module, "embed", embed)
    run_module.run(config, tmp_path)
    # 10.1 steps to an epoch: accuracy after 11, 21 and 24 steps, transfer after 21 and 24 too.
    assert asked == {
        (11, "validation"): 1,
        (21, "validation"): 1,
        (21, "train"): 1,
        (24, "validation"): 1,
        (24, "train"): 1,
        (24, "test"): 1,
    }
