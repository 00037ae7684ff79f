"""The training of benchmarks/training.py in PyTorch, which training.py starts as a process.

It reads JSON lines from stdin: first a description of the training, then requests such as
["loader and step", 10]. It answers each request with a line on stdout: the median seconds and the
processor time of a step, including worker processes.

Model, losses and optimizer follow the config: an MLP with a linear classifier, SupConLoss of
pytorch-metric-learning and cross-entropy on both views, AdamW. Images are augmented one by one by
torchvision, twice, in worker processes of a DataLoader, as in SupContrast's code
(github.com/HobbitLong/SupContrast).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_metric_learning import losses
from torchvision import transforms

# Seconds and processor time of a step.
Found = tuple[float, float]

_SKIPPED = 3  # first steps of a turn, in which workers start


class Pictures(torch.utils.data.Dataset):
    """Images in memory; item i is two views of image i, and its label."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self._images, self._labels, self.transform = images, labels.astype(np.int64), transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> Any:
        pixels = self._images[number]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return self.transform(image), self._labels[number]


class TwoCrops:
    """A transform that returns two views of an image."""

    def __init__(self, transform: Any) -> None:
        self._transform = transform

    def __call__(self, image: Any) -> list[Any]:
        """Returns the views."""
        return [self._transform(image), self._transform(image)]


class Network(torch.nn.Module):
    """An MLP and a classifier on its embedding, with given weights."""

    def __init__(self, arrays: dict[str, np.ndarray], layers: int) -> None:
        super().__init__()
        every = []
        for number in [*range(layers), "classifier"]:
            kernel, bias = arrays[f"kernel_{number}"], arrays[f"bias_{number}"]
            layer = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(kernel.T.copy()))
                layer.bias.copy_(torch.from_numpy(bias))
            every.append(layer)
        between: list[Any] = [torch.nn.Flatten()]
        for layer in every[:-1]:
            between += [layer, torch.nn.ReLU()]
        self.encoder, self.classifier = torch.nn.Sequential(*between[:-1]), every[-1]

    def forward(self, views: Any) -> tuple[Any, Any]:
        """Returns embeddings and logits."""
        embeddings = self.encoder(views)
        return embeddings, self.classifier(embeddings)


class Job:
    """A training, built from the description that the parent process sends."""

    def __init__(self, described: dict[str, Any]) -> None:
        arrays = dict(np.load(described["arrays"]))
        self.described, augment = described, described["augment"]
        self.network = Network(arrays, described["layers"])
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim == 1]
        decay = described["weight_decay"]
        self.optimizer = torch.optim.AdamW(
            [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
            lr=described["learning_rate"],
        )
        self.supcon = losses.SupConLoss(temperature=described["temperature"])
        side, channels = arrays["images"].shape[1], arrays["images"].shape[3]
        steps: list[Any] = [
            transforms.RandomResizedCrop(
                side, scale=augment["crop_scale"], ratio=augment["crop_ratio"]
            )
        ]
        if augment["flip"]:
            steps.append(transforms.RandomHorizontalFlip(augment["flip"]))
        if augment["jitter_probability"]:
            jitter = transforms.ColorJitter(*augment["jitter"])
            steps.append(transforms.RandomApply([jitter], augment["jitter_probability"]))
        if augment["grey_probability"] and channels == 3:
            steps.append(transforms.RandomGrayscale(augment["grey_probability"]))
        steps += [transforms.ToTensor(), transforms.Normalize(described["mean"], described["std"])]
        self.transform = transforms.Compose(steps)
        self.images, self.labels = arrays["images"], arrays["labels"]
        batch = torch.from_numpy(arrays["batch"]).permute(0, 3, 1, 2)
        # In the loader's order: all first views, then all second views.
        self.batch = torch.cat([batch, batch])
        self.batch_labels = torch.from_numpy(arrays["batch_labels"].astype(np.int64))

    def loss(self, views: Any, labels: Any) -> Any:
        """Returns the loss of views [2 b, ...] of b labelled images."""
        embeddings, logits = self.network(views)
        twice = labels.repeat(2)
        weights = self.described["weights"]
        total = weights[0] * self.supcon(embeddings, twice)
        return total + weights[1] * torch.nn.functional.cross_entropy(logits, twice)

    def step(self, views: Any, labels: Any) -> None:
        """Makes one update."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(views, labels).backward()
        self.optimizer.step()

    def loader(self, dataset: Any, steps: int) -> Any:
        """Returns `steps` batches of random images, augmented in worker processes."""
        size = len(self.batch_labels)
        epochs = -(-steps * size // len(dataset))
        order = torch.cat([torch.randperm(len(dataset)) for _ in range(epochs)])
        return torch.utils.data.DataLoader(
            dataset,
            batch_size=size,
            sampler=order[: steps * size].tolist(),
            num_workers=self.described["workers"],
        )


def _check(job: Job, steps: int) -> dict[str, Any]:
    """Returns the loss of the batch, and the norm of its gradient."""
    job.optimizer.zero_grad(set_to_none=True)
    loss = job.loss(job.batch, job.batch_labels)
    loss.backward()
    gradients = [p.grad.flatten() for p in job.network.parameters() if p.grad is not None]
    return {"loss": float(loss), "gradient_norm": float(torch.cat(gradients).norm())}


def _processor() -> float:
    """Returns the processor time of this process and its finished workers, in seconds."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _timed(call: Callable[[], Any], steps: int) -> Found:
    seconds, used = [], _processor()
    for _ in range(steps):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), (_processor() - used) / steps


def _loader_and_step(job: Job, steps: int, *, trains: bool = True) -> Found:
    used, every = _processor(), _SKIPPED + steps
    stream = iter(job.loader(Pictures(job.images, job.labels, TwoCrops(job.transform)), every))
    for number, ((first, second), labels) in enumerate(stream):
        if trains:
            job.step(torch.cat([first, second]), labels)
        if number == _SKIPPED - 1:
            started = time.perf_counter()
    # Averaged over all steps: workers are ahead in one step and behind in the next.
    seconds = (time.perf_counter() - started) / steps
    del stream  # ends the workers
    return seconds, (_processor() - used) / every


def _encoder(job: Job, steps: int) -> Found:
    with torch.no_grad():
        embeddings, logits = job.network(job.batch)
    weights = torch.randn_like(embeddings), torch.randn_like(logits)

    def one() -> None:
        job.optimizer.zero_grad(set_to_none=True)
        found = job.network(job.batch)
        sum((x * weight).sum() for x, weight in zip(found, weights, strict=True)).backward()

    return _timed(one, steps)


def _contrastive(job: Job, steps: int) -> Found:
    embeddings = job.network(job.batch)[0].detach().requires_grad_()
    labels = job.batch_labels.repeat(2)

    def one() -> None:
        embeddings.grad = None
        job.supcon(embeddings, labels).backward()

    return _timed(one, steps)


def _lightly(job: Job, steps: int) -> Found:
    """Times LightlyDataset and MultiViewTransform under the Trainer of lightly's tutorials."""
    import pytorch_lightning
    from lightly.data import LightlyDataset
    from lightly.transforms.multi_view_transform import MultiViewTransform

    plain, every = Pictures(job.images, job.labels, None), _SKIPPED + steps + 1
    views = MultiViewTransform([job.transform, job.transform])
    starts: list[float] = []

    class Module(pytorch_lightning.LightningModule):
        """The losses and the optimizer of the job."""

        def __init__(self) -> None:
            super().__init__()
            self.network = job.network

        def training_step(self, batch: Any, index: int) -> Any:
            """Returns the loss of a batch."""
            starts.append(time.perf_counter())
            (first, second), labels, _ = batch
            return job.loss(torch.cat([first, second]), labels)

        def configure_optimizers(self) -> Any:
            """Returns the optimizer."""
            return job.optimizer

    trainer = pytorch_lightning.Trainer(
        max_steps=every,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    used, every_image = _processor(), LightlyDataset.from_torch_dataset(plain, transform=views)
    trainer.fit(Module(), job.loader(every_image, every))
    seconds = (starts[-1] - starts[_SKIPPED]) / (every - 1 - _SKIPPED)
    return seconds, (_processor() - used) / every


TIMED: dict[str, Callable[[Job, int], Any]] = {
    "check": _check,
    "loader and step": _loader_and_step,
    "loader": lambda job, steps: _loader_and_step(job, steps, trains=False),
    "step": lambda job, n: _timed(lambda: job.step(job.batch, job.batch_labels), n),
    "encoder": _encoder,
    "contrastive": _contrastive,
    "optimizer": lambda job, steps: _timed(job.optimizer.step, steps),
    "lightly": _lightly,
}


def main() -> None:
    """Answers the requests on stdin."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    job = Job(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        name, steps = json.loads(line)
        print(json.dumps(TIMED[name](job, steps)), file=answers, flush=True)


if __name__ == "__main__":
    main()
