import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "thanos_jax" / "version.py").read_text(encoding="utf-8")
).group(1)

CORE = [
    "jax>=0.10.2",  # the last for Python 3.11; jax.shard_map and explicit axis types as used here
    "flax>=0.12",  # Linen; the first line that supports this jax
    "optax>=0.2.6",  # optax.tree.norm
    "orbax-checkpoint>=0.11,<1",  # 1.0 changes the checkpoint manager
    "ml-collections>=1.0",  # config files as flags
    "absl-py>=2.0",
    "numpy>=2.0",
    "scikit-learn>=1.5",  # the embedded digits; nearest neighbours, class means, t-SNE
    "scipy>=1.13",
    "threadpoolctl>=3.1",
    "pillow>=10.0",  # resizing images
    "matplotlib>=3.8",  # figures of the report
    "rich>=13.0",  # progress bars
    "flatbuffers>=24.3",  # in which jax.export writes programs
]
# Reading prepared TFDS data (array_record), without TensorFlow.
TFDS = [
    "tensorflow-datasets>=4.9.7",  # data_source for array_record
    "array_record>=0.5",
    "grain>=0.2.10",  # streams images that do not fit in memory
    "importlib_resources",  # imported by tensorflow-datasets, which does not declare it
    "etils[epath]>=1.5",  # paths as tensorflow-datasets has them
]
EXTRAS = {
    "gpu": ["jax[cuda13]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    # benchmarks/pod.py, on any machine: the TPU compiler that goes with jax. In an environment of
    # its own, for jax looks for TPUs wherever libtpu is installed.
    "pod": ["jax[tpu]>=0.10.2"],
    "tfds": TFDS,
    "tensorboard": ["tensorboardX>=2.6.2"],  # config.log.tensorboard
    "wandb": ["wandb>=0.18"],  # config.log.wandb
    "parquet": ["pyarrow>=16"],  # thanos_jax.embed --out=PATH.parquet
    "umap": ["umap-learn>=0.5"],  # thanos_jax.downstream.groups with projection="umap"
    "opentsne": ["openTSNE>=1.0"],  # config.report.projection="opentsne"
    # Downloads and prepares TFDS data; best in an environment of its own, for TensorFlow holds
    # numpy and protobuf back. The tfds command imports the last two whatever it is asked to do.
    "prepare": [*TFDS, "tensorflow>=2.16", "apache-beam", "mlcroissant"],
    # The peers of benchmarks/pairwise.py, input.py and training.py, which list those that are
    # missing.
    "benchmark": [
        *("torch>=2.2", "torchvision>=0.17", "pytorch-metric-learning>=2.5", "lightly>=1.5"),
    ],
    "examples": ["equinox>=0.11", "torch>=2.2"],  # of examples/, one each; the others need neither
    # docs/, as a site.
    "docs": [
        *("sphinx>=8.1", "myst-nb>=1.2", "sphinx-book-theme>=1.1.4", "sphinx-external-toc>=1.0"),
        *("jupytext>=1.16", "latex2mathml>=3.77"),
    ],
    # tests/report/test_browser.py, with Debian's chromium or another: its tests skip without.
    "browser": ["playwright>=1.50"],
    "test": [
        *TFDS,
        "chex>=0.1.90",
        "codespell>=2.3",
        "flatbuffers>=24.3",  # jax.export writes programs with it
        "hypothesis>=6.100",
        "markdown-it-py>=3.0",  # the code blocks of README.md and docs/
        "mypy>=1.11",
        "pyarrow>=16",
        "pytest>=8.0",
        "pytest-xdist>=3.6",
        "pyyaml>=6.0",  # files for Kubernetes and for the forge
        "ruff>=0.8",
        "setuptools>=77",
        "tensorboardX>=2.6.2",
    ],
}

setup(
    name="thanos_jax",
    version=VERSION,
    description="Supervised contrastive learning without class collapse, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["thanos_jax", "thanos_jax.*"]), "thanos_jax.configs"],
    package_dir={"thanos_jax.configs": "configs"},
    entry_points={"console_scripts": ["thanos-jax = thanos_jax.__main__:main"]},
    package_data={
        "thanos_jax": [
            *("py.typed", "data/tiny_imagenet_superclasses.csv"),
            *("report/map/*.js", "report/map.css", "report/page.css"),
        ]
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
