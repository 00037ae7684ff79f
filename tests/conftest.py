"""Eight host devices for every test, chosen before jax starts."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_COUNT = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_COUNT}".strip()


def pytest_addoption(parser):
    parser.addoption(
        "--everything",
        action="store_true",
        help="also run the tests of the losses that are left out by default (an hour)",
    )
