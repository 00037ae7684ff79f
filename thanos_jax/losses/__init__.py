"""Losses as pure functions of arrays; importing this imports jax and NumPy only.

    from thanos_jax import losses
    loss = losses.spread(embeddings, labels, alpha=0.5, temperature=0.1)

Notation. The batch holds one row for each image, with one or more views of it; every view is an
entry. s_ij is the cosine of entries i and j over the temperature. For an anchor i, A(i) are its
candidates, P(i) those of its class, N(i) those of other classes, a(i) the other views of its image.

What the contrastive losses share:

  embeddings      float [batch, views, dim], or [batch, dim] for one view, or a list of views, each
                  [batch, dim]. bfloat16, float16, float32 or float64; computed and returned in
                  float32, or float64 for float64.
  labels          integer [batch], any values. (Under `jax.jit` without x64, jax itself cuts NumPy's
                  64-bit labels to 32 bits before a loss sees them.)
  temperature     positive number, scalar array or what has `__jax_array__`, as flax.nnx.Param has;
                  differentiable. The papers use 0.5. Values are checked only if they are concrete:
                  under `jax.jit` a traced temperature of 0 gives NaN, not an error.
  views           "all": every entry is an anchor, every other entry its candidate (Khosla et al.).
                  "cross": candidates are the entries of the other views only.
  where           bool [batch]; False is padding, neither anchor nor candidate. Gradient exactly 0.
                  bool [batch, views] where images lack views: a term that compares an anchor with
                  its other views is then a mean over the anchors that have one.
  normalize       True: embeddings are divided by their Euclidean length; a zero vector stays zero,
                  with gradient 0. False: similarities are plain inner products.
  memory_bank     embeddings of earlier batches, made by `losses.memory_bank.init` and
                  `losses.memory_bank.push`: further candidates of every anchor, positives where
                  labels are equal (never for `info_nce`), no anchors, without gradient. None: the
                  batch alone.
  axis_name       the axis, or several, over which the batch is sharded; see Devices.
  implementation  how pairs are computed: "dense" builds the similarity matrix of this device's
                  anchors and all candidates; "streaming" goes through it by tiles, in linear
                  memory, reverse mode only ("streaming_gather", "streaming_ring": how devices
                  share it); "pallas" has kernels for the tiles; "auto" chooses between the first
                  two. docs/scaling.md says what each costs. Second derivatives: "dense" has all of
                  them, "streaming" those of its gradient (`jax.grad` or `jax.jvp` of `jax.grad`).
  reduction       "mean": over the anchors of the global batch that have a positive, 0.0 if there is
                  none. "none": [batch, views], one value per anchor, 0 where there is no positive.

Call a loss inside `jax.jit`. Outside, every call costs dozens of dispatches, and nothing is fused.

Devices. The result is always the loss of the global batch, the same on every device.

  jit, Explicit axes      nothing to say: the type of `embeddings` has the axes of the batch. Their
                          gradient is sharded as they are.
  jit, Auto axes          axis_name="data", with the mesh in context (`jax.set_mesh`). Without it,
                          streaming spreads rows over all Auto axes, if the mesh can be seen.
  pmap, shard_map, vmap   axis_name: the arrays are this device's shard. The shard_map may be over
                          some axes of the mesh. Several names at once: shard_map alone.
  outside of all          sharded arrays say where they lie.

A memory bank is whole on every device. Gradients inside shard_map, loss(params, shard) being one
with axis_name="data":

  params                  gradient
  the same everywhere     lax.pmean(grad(loss)(params, shard), "data"), with check_vma or without
  the same, by psum       lax.psum(grad(loss / devices)(params, shard), "data"), check_vma=False
  lax.pcast to varying    lax.psum(grad(loss)(params, shard), "data")
  shards (FSDP)           grad(loss of lax.all_gather(params, "data", tiled=True))(params, shard)
  differentiated outside  grad(shard_map(loss, out_specs=P()))(params, batch)

`cross_modal` takes two arrays [batch, dim] in place of `embeddings`, has the two as its views, and
CLIP's temperature of 0.07 unless another is given.

`robust` holds what works on the losses of single images instead, against rare groups and wrong
labels: group DRO, weighted means, early-learning regularization, small-loss selection. `where`
[batch] and `axis_name` mean the same there.

The error of a float32 result is that of the similarities, about 1e-6 of the largest |s_ij|. At low
temperatures a loss that is nearly 0 is the small difference of large numbers and has fewer digits.
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
