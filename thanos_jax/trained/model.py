"""The trained model of a run, applied to images; it does not need the run's data set."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import linen as nn

from thanos_jax import sharding
from thanos_jax.checks import check_at_least
from thanos_jax.data import augment, preprocess
from thanos_jax.data.ahead import ahead
from thanos_jax.data.splits import DataError
from thanos_jax.downstream.arrays import unit_rows
from thanos_jax.train import description, forward

# A path, a PIL image, or uint8 [h, w, c].
Picture = Any
Pictures = np.ndarray | Picture | Iterable[Picture]
_UNDER_WAY = 2  # batches submitted to the devices ahead of the results


class Predictions(NamedTuple):
    """Predicted classes of n images.

    Attributes:
      names: str [n], of the most probable class.
      probability: float32 [n], of that class.
      probabilities: float32 [n, classes], in the order of `Model.classes`; each row's sum is 1.
    """

    names: np.ndarray
    probability: np.ndarray
    probabilities: np.ndarray


class Model:
    """A trained model, on all devices of this process; made by `thanos_jax.load`.

    Methods take images as uint8 [n, h, w, c], as a path, a PIL image or an array uint8 [h, w, c],
    or as a sequence or iterator of these. `preprocess` converts them to the shape of the training
    images. Outputs equal the run's own evaluation, bit for bit on the same devices with the same
    batch size and order: no augmentation, no dropout, and the final statistics of BatchNorm.

    Attributes:
      config: the whole config of the training.
      part: the name of the training in the run: "representation", "classifier" or another.
      step: of the checkpoint.
      reported: whether results.json of the run is about this part and step.
      dataset: name of the training data set.
      classes: names of the classes that it was trained on and predicts.
      fine_classes: names of the fine classes (strata), which were hidden in training.
      image_shape: (height, width, channels) of images as `preprocess` returns them.
      rule: how `preprocess` converts a picture to this shape.
      batch_size: default number of images encoded at a time: the run's batch size in evaluation.
      fingerprint: hexadecimal hash that identifies the parameters.
      module: a `thanos_jax.models.thanos.Thanos`.
      variables: parameters and statistics for `module.apply`, on the devices.
    """

    def __init__(
        self,
        described: dict[str, Any],
        config: ml_collections.ConfigDict,
        module: nn.Module,
        variables: Any,
        *,
        step: int,
        reported: bool,
        fingerprint: str,
    ) -> None:
        dataset = description.dataset_of(described)
        self.described, self.config, self.module, self.variables = (
            described, config, module, variables,
        )  # fmt: skip
        self.part: str = described["part"]
        self.dataset = dataset.name
        self.step, self.reported, self.fingerprint = step, reported, fingerprint
        self.classes, self.fine_classes = dataset.coarse_names, dataset.fine_names
        self.image_shape = dataset.image_shape
        self.batch_size: int = described["batch_size"]
        self.rule = preprocess.rule(config.data, dataset.image_shape)
        self.inputs = forward.make_inputs(config.data, dataset)
        self._units = (dataset.mean, dataset.std)
        self._mesh = sharding.make_local_mesh()
        self._forward = forward.make_forward(module, self.inputs)
        self._project = forward.make_projection(module, self.inputs)

    @property
    def embedding_dim(self) -> int:
        """The width of `encode`'s result."""
        return self._shapes["embedding"].shape[-1]

    @property
    def reconstructs(self) -> bool:
        """Whether the model has a decoder."""
        return "reconstruction" in self._shapes

    def encode(
        self,
        images: Pictures,
        *,
        batch_size: int | None = None,
        normalize: bool = False,
        projected: bool = False,
    ) -> np.ndarray:
        """Embeds images.

        Args:
          images: see the class.
          batch_size: images encoded at a time, over all devices; rounded up to a multiple of the
            number of devices. None: `self.batch_size`. It does not change the result beyond
            rounding.
          normalize: whether each embedding is divided by its length.
          projected: whether to return the output of the projection head, the input of the
            contrastive loss, instead of the encoder's output.

        Returns:
          float32 [n, d]: the encoder's output; the outputs of two encoders are concatenated.

        Raises:
          DataError: an image cannot be used; names it.
          ValueError: a batch size below 1, or `projected` for a model without a projection head.
        """
        if projected and not self.module.projection:
            raise ValueError(
                "projected: expected False for a model without a projection head "
                "(config.model.projection), got True"
            )
        name = "contrastive" if projected else "embedding"
        found = self._all(images, (name,), batch_size)[name]
        return unit_rows(found) if normalize else found

    def predict(self, images: Pictures, *, batch_size: int | None = None) -> Predictions:
        """Predicts the class of images, with probabilities; arguments and errors as `encode`."""
        found = self._all(images, ("prediction", "probability"), batch_size)
        return self.predictions(found)

    def reconstruct(self, images: Pictures, *, batch_size: int | None = None) -> np.ndarray:
        """Passes images through encoder and decoder.

        Args:
          images: see the class.
          batch_size: as for `encode`.

        Returns:
          float32 [n, h, w, c] in [0, 1], of the shape that `preprocess` returns.

        Raises:
          DataError: an image cannot be used; names it.
          ValueError: the model has no decoder, or a batch size below 1.
        """
        if not self.reconstructs:
            raise ValueError(
                "reconstruct: expected a model with a decoder, of a method with an autoencoder, "
                f"got method {self.config.method!r}"
            )
        found = self._all(images, ("reconstruction",), batch_size)["reconstruction"]
        pixels = found[..., : self.image_shape[2]]  # the random bits come after them
        return np.asarray(augment.unnormalize(jax.numpy.asarray(pixels), *self._units))

    def preprocess(self, images: Pictures) -> np.ndarray:
        """Converts images to the shape of the training images, as training does.

        A picture is turned upright and converted to the same number of channels. Its largest
        centred box with the proportions of the training images is resized to their height and
        width. An array of the right shape is left as it is. The model itself normalizes, on the
        devices.

        Args:
          images: see the class.

        Returns:
          uint8 [n, h, w, c].

        Raises:
          DataError: an image cannot be used; names it.
        """
        parts = list(self._batches(images, 256))
        return np.concatenate(parts) if parts else self._nothing()

    def predictions(self, found: dict[str, np.ndarray]) -> Predictions:
        """Converts "prediction" and "probability" of `submit` to names and probabilities."""
        chosen = found["prediction"]
        probabilities = found["probability"]
        each = probabilities[np.arange(len(chosen)), chosen]
        return Predictions(np.array(self.classes)[chosen], each, probabilities)

    def submit(
        self, images: np.ndarray, keep: Sequence[str], batch_size: int | None = None
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Starts one batch on the devices.

        Args:
          images: uint8 [n, h, w, c] as from `preprocess`, n at most the batch size.
          keep: outputs to return: "contrastive" alone, or some of "embedding", "prediction",
            "probability", "input" and "reconstruction"; see
            `thanos_jax.train.forward.make_forward`.
          batch_size: as for `encode`; a smaller batch is padded, so that nothing is compiled again.

        Returns:
          A function that waits for the outputs and returns name -> [n, ...].
        """
        missing = self.padded(batch_size) - len(images)
        padded = np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
        function = self._project if "contrastive" in keep else self._forward
        outputs = function(self.variables, sharding.shard(self._mesh, padded))
        kept = {name: outputs[name] for name in keep}
        return lambda: {name: np.asarray(array)[: len(images)] for name, array in kept.items()}

    def _all(
        self, images: Pictures, keep: Sequence[str], batch_size: int | None
    ) -> dict[str, np.ndarray]:
        """Returns outputs of all images, name -> [n, ...]."""
        under_way: collections.deque[Any] = collections.deque()
        parts = []
        for batch in self._batches(images, self.padded(batch_size)):
            under_way.append(self.submit(batch, keep, batch_size))
            if len(under_way) > _UNDER_WAY:
                parts.append(under_way.popleft()())
        parts += [wait() for wait in under_way]
        if not parts:
            shapes = [self._shapes[name] for name in keep]
            return {
                name: np.zeros((0, *shape.shape[1:]), shape.dtype)
                for name, shape in zip(keep, shapes, strict=True)
            }
        return {name: np.concatenate([part[name] for part in parts]) for name in keep}

    def padded(self, batch_size: int | None) -> int:
        """Rounds a batch size up to a multiple of the devices; None: `self.batch_size`."""
        check_at_least("batch_size", batch_size, 1)
        size = self.batch_size if batch_size is None else batch_size
        return -(-size // self._mesh.size) * self._mesh.size

    def _batches(self, images: Pictures, size: int) -> Iterator[np.ndarray]:
        """Yields images as `preprocess` returns them, `size` at a time."""
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if images.shape[1:] == self.image_shape and images.dtype == np.uint8:
                yield from (images[start : start + size] for start in range(0, len(images), size))
                return
        elif isinstance(images, np.ndarray | str | os.PathLike) or not _is_many(images):
            images = [images]
        batch = []
        threads = min(os.cpu_count() or 1, 16)
        for image in ahead(self._one, enumerate(images), threads=threads):
            batch.append(image)
            if len(batch) == size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)

    def _one(self, numbered: tuple[int, Picture]) -> np.ndarray:
        number, picture = numbered
        try:
            return preprocess.preprocess(picture, self.rule)
        except Exception as error:
            named = f" ({picture})" if isinstance(picture, str | os.PathLike) else ""
            raise DataError(f"image {number}{named}: {error}") from error

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, *self.image_shape), np.uint8)

    @property
    def _shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Name -> shape and dtype of the outputs for one image, found without compiling."""
        one = jax.ShapeDtypeStruct((1, *self.image_shape), np.uint8)
        return jax.eval_shape(self._forward, self.variables, one) | jax.eval_shape(
            self._project, self.variables, one
        )


def _is_many(images: Any) -> bool:
    """Whether `images` is an iterable of images; a PIL image or an open file is a single one."""
    return hasattr(images, "__iter__") and not hasattr(images, "read")
