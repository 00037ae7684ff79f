"""The model card of an exported model: its training, results, intended use and loading."""

from __future__ import annotations

from typing import Any

from thanos_jax.methods import METHODS
from thanos_jax.models import ResNet
from thanos_jax.report import numbers
from thanos_jax.trained.model import Model

NAME = "README.md"
_SHOWN = 20  # names of classes


def card(model: Model, described: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the card as Markdown.

    Args:
      model: the exported model.
      described: the content of the export's model.json.
      results: the content of the run's results.json; {} if it has none.
    """
    config, sizes = model.config, described["sizes"]
    encoders = len(model.module.encoders)
    fine = ""
    if model.classes != model.fine_classes:
        fine = (
            f" Evaluated on {len(model.fine_classes)} fine classes within them: "
            f"{_names(model.fine_classes)}."
        )
    training = f"{sizes.get('train', 0):,} training images"
    parts = [
        f"# {config.method}, {config.model.encoder}, trained on {model.dataset}",
        f"An image encoder trained by thanos_jax: {METHODS[config.method].meaning} "
        f"(`{config.method}`), step {model.step} of the run's training `{model.part}`, seed "
        f"{config.seed}. {encoders} x {config.model.encoder}, embedding of {model.embedding_dim} "
        f"numbers. `{config.model.encoder}` and all other settings are in `model.json`.",
        "## Trained on",
        f"{training} of `{model.dataset}`, with labels of {len(model.classes)} classes: "
        f"{_names(model.classes)}." + fine,
        "## Numbers",
        _numbers(results),
        "## Intended use",
        "Embeddings of images like the training images: to find similar images, to cluster them, "
        "as features of a small classifier, or as initial weights of another training "
        "(`--config.model.weights=encoder.safetensors`). The model was not measured on other "
        "images. Before it decides anything about people or safety, test it on your own data, each "
        "group by itself: an average hides the worst group.",
        "## Input",
        _input(described),
        "## How to load it",
        _loading(model, described),
    ]
    return "\n\n".join(parts) + "\n"


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _numbers(results: dict[str, Any]) -> str:
    """Returns the headline numbers, collapse and the worst group, as a table."""
    known = {**results.get("geometry", {}).get("test", {}), **results}
    wanted = [key for key, entry in numbers.NUMBERS.items() if entry.card or entry.printed]
    wanted += ["worst_group_accuracy", "worst_group"]
    rows = []
    for key in dict.fromkeys(wanted):
        if key in known:
            entry = numbers.find([key])
            value = numbers.shown([key], known[key])
            rows.append(f"| `{key}` | {value} | {entry.meaning if entry else ''} |")
    if not rows:
        return "None: the run has not ended, or its results belong to another training or step."
    return "\n".join(["| number | value | meaning |", "|---|---|---|", *rows])


def _input(described: dict[str, Any]) -> str:
    images = described["images"]
    bits = described["config"]["data"]["random_bits"]
    return (
        f"Images of {images['height']} x {images['width']} pixels and {images['channels']} "
        f"channel(s), uint8. A picture is converted to this shape: {images['preprocessing']}. "
        "`encoder.stablehlo` takes uint8 and normalizes by itself. The weights take "
        f"(pixels / 255 - mean) / std with mean {images['mean']} and std {images['std']}."
        + (f" The image's {bits} random bits are appended as channels." if bits else "")
    )


def _loading(model: Model, described: dict[str, Any]) -> str:
    version = described["export"]["jax"]
    numeric = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    height, width, channels = model.image_shape
    return f"""jax and flatbuffers, no other package, for images uint8 [n, {height}, {width}, \
{channels}] of any n:

```python
import jax, jax.export
assert jax.__version_info__ >= {numeric}, "encoder.stablehlo needs jax {version} or newer"
program = jax.export.deserialize(bytearray(open("encoder.stablehlo", "rb").read()))
encode = jax.jit(program.call)
outputs = encode(images)
outputs["embedding"]  # [n, {model.embedding_dim}]
outputs["probability"]  # [n, {len(model.classes)}]
```

numpy, the weights by name:

```python
from safetensors.numpy import load_file
weights = load_file("encoder.safetensors")
for name, array in weights.items():
    print(name, array.shape)
```

torch:

{_torch(model)}"""


def _torch(model: Model) -> str:
    encoder, config = model.module.encoders[0], model.config.model
    if not isinstance(encoder, ResNet) or encoder.width != 64:
        return """```python
from safetensors.torch import load_file
weights = load_file("encoder.safetensors")
for name, tensor in weights.items():
    print(name, tuple(tensor.shape))  # kernels of linear layers are [in, out]
```"""
    lines = [
        "import torch, torchvision",
        "from safetensors.torch import load_file",
        f"encoder = torchvision.models.{config.encoder}()",
    ]
    inputs = model.variables["params"]["encoders_0"]["stem"]["kernel"].shape[2]
    if config.embedding_dim:
        features = encoder.width * 2 ** (len(encoder.stage_sizes) - 1)
        features *= 4 if encoder.bottleneck else 1
        lines.append(f"encoder.fc = torch.nn.Linear({features}, {config.embedding_dim})")
    else:
        lines.append("encoder.fc = torch.nn.Identity()")
    if encoder.stem == "small":
        lines.append(f"encoder.conv1 = torch.nn.Conv2d({inputs}, 64, 3, 1, 1, bias=False)")
        lines.append("encoder.maxpool = torch.nn.Identity()")
    elif inputs != 3:
        lines.append(f"encoder.conv1 = torch.nn.Conv2d({inputs}, 64, 7, 2, 3, bias=False)")
    lines += [
        'encoder.load_state_dict(load_file("encoder.safetensors"))',
        "encoder.eval()  # of float32 [n, channels, height, width], normalized",
    ]
    return "\n".join(["```python", *lines, "```"])
