"""What tests of logs share: event files read back, loggers that remember, a wandb that is none."""

import struct
import types

import numpy as np

from thanos_jax.live.contract import Backend, Ending, Logger, Points


def events(folder):
    """Yields the events of a folder's files, with tensorboardX's messages alone."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def logged(folder):
    """The scalars of a folder: (step, tag) -> value; none is there twice."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert (event.step, value.tag) not in found
                found[event.step, value.tag] = value.simple_value
    return found


def expected(records, prefix="train/"):
    """What `logged` finds of records: all numbers of metrics.jsonl, in float32."""
    return {
        (record["step"], prefix + name): float(np.float32(value))
        for record in records
        for name, value in record.items()
        if name != "step"
    }


def remembering(raises=""):
    """A logger and what it was given; one of its functions raises."""
    calls = []

    def of(name):
        def function(*arguments):
            if name == raises:
                raise RuntimeError(f"no {name}")
            calls.append((name, *arguments))

        return function

    return Logger(*map(of, Logger._fields)), calls


def backend(opens):
    return Backend("package", lambda: None, lambda folder, config: opens())


def ending(count=3, side=4, **columns):
    rng = np.random.default_rng(0)
    return Ending(
        7,
        {"fine_accuracy": 0.5, "geometry/test/alignment": 0.25},
        Points(
            rng.normal(size=(count, 2)).astype(np.float32),
            columns or {"label": np.array([f"class {k}" for k in range(count)])},
            rng.integers(256, size=(count, side, side, 3), dtype=np.uint8),
        ),
    )


class FakeRun:
    """As much of wandb's run as is used."""

    def __init__(self, arguments):
        self.arguments, self.history, self.summary = arguments, [], {}
        self.axes, self.finished = {}, False

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, values):
        assert not self.finished
        self.history.append(values)

    def finish(self, exit_code):
        self.finished, self.exit_code = True, exit_code


def fake_wandb():
    """A module of wandb's interface; `runs` has what was begun."""
    module = types.ModuleType("wandb")
    module.runs = []

    def init(**arguments):
        module.runs.append(FakeRun(arguments))
        return module.runs[-1]

    module.init = init
    module.Settings = lambda **settings: settings
    module.Image = lambda picture: ("image", picture)
    module.Table = lambda **table: ("table", table)
    return module
