"""Losses as pure functions of arrays; importing this module imports only jax and NumPy.

    from thanos_jax import losses
    loss = losses.spread(embeddings, labels, alpha=0.5, temperature=0.1)

Notation. The batch has one row per image, with one or more views of it; every view is an entry.
s_ij is the cosine similarity of entries i and j divided by the temperature. For an anchor i, A(i)
are its candidates, P(i) the candidates of its class, N(i) the candidates of other classes, and a(i)
the other views of its image.

Arguments that the contrastive losses share:

  embeddings      float [batch, views, dim], or [batch, dim] for one view, or a list of views, each
                  [batch, dim]. bfloat16, float16, float32 or float64; computed and returned in
                  float32, or float64 for float64.
  labels          integer [batch], any values. (Under `jax.jit` without x64, jax truncates 64-bit
                  NumPy labels to 32 bits before a loss sees them.)
  temperature     positive number, scalar array, or an object with `__jax_array__` such as
                  flax.nnx.Param; differentiable. The papers use 0.5. Only concrete values are
                  checked: under `jax.jit` a traced temperature of 0 gives NaN, not an error.
  views           "all": every entry is an anchor, every other entry its candidate (Khosla et al.).
                  "cross": candidates are the entries of the other views only.
  where           bool [batch]; False marks padding, which is neither anchor nor candidate and has
                  gradient exactly 0. bool [batch, views] if images lack views; a term that compares
                  an anchor with its other views is then a mean over the anchors that have one.
  normalize       True: embeddings are divided by their Euclidean length; a zero vector stays zero,
                  with gradient 0. False: similarities are plain inner products.
  memory_bank     embeddings of earlier batches, made by `losses.memory_bank.init` and
                  `losses.memory_bank.push`: further candidates of every anchor, without gradient.
                  They are positives if labels are equal (never for `info_nce`), and never anchors.
                  None: candidates are from the batch only.
  axis_name       the axis, or several axes, over which the batch is sharded; see Devices.
  implementation  how pairs are computed: "dense" builds the similarity matrix of this device's
                  anchors and all candidates; "streaming" computes it tile by tile, in linear
                  memory, in reverse mode only ("streaming_gather" and "streaming_ring" select how
                  devices share it); "pallas" has kernels for the tiles; "auto" chooses between the
                  first two. docs/scaling.md has the costs. Second derivatives: "dense" has all,
                  "streaming" only the ones of its gradient (`jax.grad` or `jax.jvp` of `jax.grad`).
  reduction       "mean": over the anchors of the global batch that have a positive, 0.0 if there is
                  none. "none": [batch, views], one value per anchor, 0 if it has no positive.

Call a loss inside `jax.jit`. Outside, every call costs dozens of dispatches, and nothing is fused.

Devices. The result is always the loss of the global batch, the same on every device.

  jit, Explicit axes      no argument is needed: the type of `embeddings` has the axes of the batch.
                          The gradient is sharded like the embeddings.
  jit, Auto axes          axis_name="data", with the mesh in context (`jax.set_mesh`). Without it,
                          streaming spreads rows over all Auto axes, if the mesh is in context.
  pmap, shard_map, vmap   axis_name: the arrays are this device's shard. The shard_map may be over
                          some axes of the mesh. Several names at once work in shard_map only.
  outside of all          the sharding of the arrays is used.

A memory bank is replicated on every device. Gradients inside shard_map, where loss(params, shard)
has axis_name="data":

  params                  gradient
  the same everywhere     lax.pmean(grad(loss)(params, shard), "data"), with check_vma or without
  the same, by psum       lax.psum(grad(loss / devices)(params, shard), "data"), check_vma=False
  lax.pcast to varying    lax.psum(grad(loss)(params, shard), "data")
  shards (FSDP)           grad(loss of lax.all_gather(params, "data", tiled=True))(params, shard)
  differentiated outside  grad(shard_map(loss, out_specs=P()))(params, batch)

`cross_modal` takes two arrays [batch, dim] instead of `embeddings`; they are its two views. Its
default temperature is CLIP's, 0.07.

`robust` has losses against rare groups and wrong labels, which act on the losses of single images:
group DRO, weighted means, early-learning regularization, small-loss selection. `where` [batch] and
`axis_name` have the same meaning there.

The error of a float32 result is the error of the similarities, about 1e-6 of the largest |s_ij|. At
low temperatures a loss near 0 is the small difference of large numbers and has fewer digits.
Non-finite embeddings give a non-finite loss; nothing is hidden.
"""

from thanos_jax.losses import memory_bank, robust
from thanos_jax.losses.contrastive import (
    class_conditional_info_nce,
    info_nce,
    joint,
    spread,
    supcon,
)
from thanos_jax.losses.cross_modal import cross_modal
from thanos_jax.losses.reconstruction import reconstruction

__all__ = [
    "class_conditional_info_nce",
    "cross_modal",
    "info_nce",
    "joint",
    "memory_bank",
    "reconstruction",
    "robust",
    "spread",
    "supcon",
]
