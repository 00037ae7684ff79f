"""What --dry_run says before a run, and that it writes nothing."""

import itertools
import pathlib
import re

import jax
import numpy as np
import pytest

from thanos_jax import agree, dry_run, sharding
from thanos_jax import config as schema
from thanos_jax.config.presets import presets
from thanos_jax.data import sources
from thanos_jax.rehearsal import Rehearsal
from thanos_jax.tasks import stages
from thanos_jax.train import cost, resident, units

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("[!_]*.py"))
BATCH, WIDTHS = 64, (96, 48)
PIXELS, CLASSES = 64, 2


def config_of(file, argument):
    scope = {"__file__": str(file)}
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), scope)
    return scope["get_config"](argument)


def small(method="supcon"):
    config = schema.default()
    config.method, config.model.encoder, config.model.arrangement = method, "mlp", "shared"
    config.model.mlp.widths, config.model.projection = WIDTHS, ()
    config.train.update(batch_size=BATCH, epochs=3.0)
    return config


@pytest.fixture(scope="module")
def said(one_device, tmp_path_factory):
    """The lines on a small run of two trainings; the folder that it was described in."""
    folder = tmp_path_factory.mktemp("empty")
    config = small()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return list(dry_run.describe(config)), folder


@pytest.fixture(scope="module")
def rehearsal(one_device):
    config = small()
    dataset = sources.load(config.data)
    run = stages.Run(
        config, dataset, sharding.make_mesh(), pathlib.Path(), resumes=False, shapes_only=True
    )
    return Rehearsal(run, "", stages.planned(run))


def number(lines, pattern):
    """The only number that a pattern finds in a line, its prefix counted in."""
    (found,) = [match for line in lines if (match := re.search(pattern, line))]
    prefix = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]]
    return float(found[1]) * prefix


FORWARD = 2 * (PIXELS * WIDTHS[0] + WIDTHS[0] * WIDTHS[1] + WIDTHS[1] * CLASSES)  # of one view
PARAMETERS = (PIXELS + 1) * WIDTHS[0] + (WIDTHS[0] + 1) * WIDTHS[1] + (WIDTHS[1] + 1) * CLASSES


def test_parameters_and_shapes_are_those_of_the_layers(said):
    lines, _ = said
    rows = 2 * BATCH
    for name, output, count in (
        ("encoders_0", [rows, WIDTHS[1]], PARAMETERS - (WIDTHS[1] + 1) * CLASSES),
        ("encoders_0/layer_0", [rows, WIDTHS[0]], (PIXELS + 1) * WIDTHS[0]),
        ("encoders_0/layer_1", [rows, WIDTHS[1]], (WIDTHS[0] + 1) * WIDTHS[1]),
        ("classifier_0", [rows, CLASSES], (WIDTHS[1] + 1) * CLASSES),
    ):
        words = re.escape(f"{name} ") + rf" *{re.escape(str(output))} +{count:,}"
        assert sum(bool(re.fullmatch(words, line.strip())) for line in lines) == 1, name
    assert any(f"{PARAMETERS:,} parameters" in line for line in lines)
    assert any(
        f"image uint8 [{BATCH}, 8, 8, 1], coarse int32 [{BATCH}]; views seen by the model: {rows}"
        in line
        for line in lines
    )
    # Adam keeps two numbers for each; all are float32.
    assert number(lines, r"parameters ([\d.]+) (\w?)B") == pytest.approx(4 * PARAMETERS, rel=6e-3)
    assert number(lines, r"optimizer ([\d.]+) (\w?)B") == pytest.approx(8 * PARAMETERS, rel=6e-3)
    # 1,294 images of 64 bytes and two labels of 4 each; with validation and test, 1,797.
    assert number(lines, r"data in memory: ([\d.]+) (\w?)B") == pytest.approx(72 * 1797, rel=6e-3)


def test_flops_are_three_times_the_products_of_the_forward_pass(said):
    lines, _ = said
    layers = number(lines, r"([\d.]+) (\w?)FLOP a step in its layers")
    assert layers == pytest.approx(3 * FORWARD * 2 * BATCH, rel=6e-3)
    # The loss has the similarities of all rows, forwards and backwards; the first layer has no
    # gradient by the images; the rest is elementwise.
    rows, width = 2 * BATCH, WIDTHS[1]
    products = layers - 2 * rows * PIXELS * WIDTHS[0] + 3 * 2 * rows**2 * width
    assert 0.95 * products < number(lines, r"([\d.]+) (\w?)FLOP a step by the") < 1.5 * products


def test_memory_holds_the_state_and_the_batch(rehearsal):
    program = cost.compiled(
        rehearsal._stage.training, rehearsal._stage.step, rehearsal._stage.state, rehearsal._batch
    )
    found = cost.memory(program)
    batch = BATCH * (PIXELS + 4)
    state = cost.nbytes(rehearsal._stage.state)
    assert state == 12 * PARAMETERS + 3 * 4  # the counts of state, Adam and schedule
    assert state + batch <= found.arguments <= state + batch + 4096  # each array is aligned
    assert found.results < 4096  # a step's state takes the place of the one before
    rows = 2 * BATCH
    assert found.temporaries > 4 * rows * sum(WIDTHS)


def test_it_tells_time_and_balance_and_leaves_nothing(said):
    lines, folder = said
    assert not list(folder.iterdir())
    text = "\n".join(lines)
    assert "whose minimum is collapse" in text
    assert "WARNING: method supcon" in text
    steps = round(3 * 1294 / BATCH)
    (each,) = re.findall(r"([\d.]+) ms a step here; the first batch was read in", text)
    (whole, unit) = re.search(rf"about ([\d.]+) (m?s) for {steps} steps", text).groups()
    assert float(whole) * {"s": 1000, "ms": 1}[unit] == pytest.approx(steps * float(each), rel=0.01)
    assert "estimated from the steps timed here" in text
    silent = small("ce")
    assert "within_class_spread" not in "\n".join(dry_run.describe(silent, costs=()))


def test_shapes_alone_compile_nothing(monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: pytest.fail("compiled"))
    monkeypatch.setattr(cost, "seconds", lambda *a: pytest.fail("run"))
    config = small()
    config.task, config.coreset.method = "coreset", "common_strata"
    lines = list(dry_run.describe(config, costs=("shapes",)))
    trainings = [line for line in lines if line.startswith("training ")]
    assert [line.split()[1].rstrip(",") for line in trainings][-1] == "classifier"
    assert sum("FLOP a step in its layers" in line for line in lines) == 2
    seen = [line.rpartition(" ")[2] for line in lines if "views seen by the model" in line]
    assert seen == [str(2 * BATCH), str(BATCH)]  # two views of an image, and a classifier's one
    samples = sum("sample_" in line for line in trainings)
    assert sum("a step costs the same as one of sample_0" in line for line in lines) == samples - 1


@pytest.mark.parametrize(
    ("part", "words"), [("compiled", "a step does not compile here: "), ("seconds", "not timed: ")]
)
def test_a_step_that_does_not_fit_is_said(part, words, rehearsal, monkeypatch):
    def fails(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")

    monkeypatch.setattr(cost, "compiled", lambda *a: None)
    for name in ("memory", "flops"):
        monkeypatch.setattr(cost, name, lambda program: None)
    monkeypatch.setattr(cost, part, fails)
    lines = list(rehearsal.compiled(timed=True))
    assert lines[-1] == f"{words}RESOURCE_EXHAUSTED: out of memory"
    assert rehearsal.seconds is None


@pytest.fixture
def nothing_runs(monkeypatch):
    """No step is compiled or run; a time is told all the same."""
    monkeypatch.setattr(cost, "seconds", lambda *a: 0.5)
    for name in ("compiled", "memory", "flops"):
        monkeypatch.setattr(cost, name, lambda *a: None)


def test_a_large_batch_is_said_once(one_device, nothing_runs, capsys):
    config = small("ce")
    config.train.batch_size = 2048
    text = "\n".join(dry_run.describe(config))
    assert "500 ms a step here" in text
    assert capsys.readouterr().err.count("a batch of 2048 images is larger") == 1


def test_what_a_run_on_the_devices_compiles_is_compiled_and_timed(one_device, monkeypatch):
    """Shapes alone give the run's program, which takes the training set as an argument."""
    config = small("ce")
    config.train.resident = "yes"
    config.train.log_every = 10
    lowered, make = [], resident.make_program

    class Watched:
        def __init__(self, program):
            self.program = program

        def lower(self, *arguments):
            lowered.append(self.program.lower(*arguments))
            return lowered[-1]

        def __call__(self, *arguments):
            lowered.append(self.program.lower(*arguments))
            return self.program(*arguments)

    monkeypatch.setattr(resident, "make_program", lambda *a, **k: Watched(make(*a, **k)))
    lines = list(dry_run.describe(config))
    assert len(lowered) == 4  # before the run, two windows of a step, and one of more
    assert len({one.as_text() for one in lowered}) == 1
    text = "\n".join(lines)
    assert re.search(r"a program of up to 10 steps compiles in ", text)
    assert re.search(r"\d m?s a step here; the images were put on the devices in ", text)
    arguments = number(lines, r"arguments ([\d.]+) (\w?)B")
    # 1,294 images and coarse labels, and the images' numbers in ten batches.
    state = 12 * PARAMETERS
    assert arguments == pytest.approx(state + 1294 * (PIXELS + 4) + 4 * 10 * BATCH, rel=0.02)


def test_steps_of_one_program_are_timed_together(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    def advance(state, first, last):
        calls.append(last - first)
        now[0] += 0.125 + 0.25 * (last - first)  # a call, and each of its steps
        return state, {}

    assert cost.seconds_in_windows(advance, 0, 100) == (0.125 + 0.25 * 5) / 5
    assert calls == [1, 1, 5]
    calls.clear()
    assert cost.seconds_in_windows(advance, 0, 1) == 0.375
    assert calls == [1, 1]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([False], "a step does not compile here: "),
        ([True, False], "not timed: "),
        ([True, True, False], "not timed: "),
    ],
)
def test_what_another_process_fails_at_is_not_gone_on_with(
    answers, words, rehearsal, nothing_runs, monkeypatch
):
    monkeypatch.setattr(cost, "seconds", lambda *a: pytest.fail("run"))
    replies = iter(answers)
    monkeypatch.setattr(agree, "everywhere", lambda here: here and next(replies))
    lines = list(rehearsal.compiled(timed=True))
    assert lines[-1] == f"{words}another process failed at it"
    assert list(replies) == []
    assert rehearsal.seconds is None


@pytest.mark.parametrize(("others", "expected"), [([1, 1], True), ([0, 1], False), ([0, 0], False)])
def test_something_holds_everywhere_or_not(others, expected, monkeypatch):
    assert agree.everywhere(True)
    assert not agree.everywhere(False)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(
        agree.multihost_utils, "process_allgather", lambda here: np.array([*others, here])
    )
    assert agree.everywhere(True) is expected
    assert agree.everywhere(False) is False


def test_the_first_process_says_how_many_steps_are_timed(monkeypatch):
    """A step waits for all processes: one that ran fewer would leave the others waiting."""
    clock = itertools.count(step=100.0)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    answers = iter([True, True, True, False])
    monkeypatch.setattr(agree, "value_of_first", lambda find: next(answers))
    ran = []
    assert cost.seconds(lambda state, *rest: (state, ran.append(state)), 0, {}) == 100.0
    assert len(ran) == 3


# What is not there is taken as published; the images of the others alone tell their shapes.
ABSENT = [file for file in FILES if file.stem not in ("digits", "folder")]


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *(("celeba", "mlp"), ("mnist", "mlp,noise")),
        # Steps of one program, which only data in memory have.
        ("fashion_mnist", "convnet,groups"),
        *(
            pytest.param(file.stem, argument, marks=pytest.mark.slow)
            for file in ABSENT
            for argument in ("mlp", "")
            if file.stem in ("celeba", "isic", "randbit") or argument
            if not argument or argument in presets(file).get("encoder", ())
            if (file.stem, argument) != ("celeba", "mlp")
        ),
    ],
)
def test_a_config_whose_data_are_not_there_is_described(name, argument, tmp_path):
    (file,) = [file for file in FILES if file.stem == name]
    config = config_of(file, argument)
    config.data.data_dir = str(tmp_path)
    lines = []
    with pytest.raises(dry_run.NotThereError, match="the run cannot start: "):
        lines.extend(dry_run.describe(config, costs=("shapes",)))
    text = "\n".join(lines)
    assert f"{config.data.name} is missing; published sizes and equal classes are assumed" in text
    assert "FLOP a step in its layers" in text
    assert "disk: up to" in text


@pytest.mark.parametrize("name", ["folder", "tfds"])
def test_where_only_images_tell_shapes_the_error_is_that_of_the_run(name, tmp_path):
    config = small()
    config.data.update(name=name, data_dir=str(tmp_path), tfds="x" if name == "tfds" else "")
    with pytest.raises((sources.DataError, FileNotFoundError, ImportError)) as raised:
        list(dry_run.describe(config))
    assert not isinstance(raised.value, dry_run.NotThereError)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 "),
        (999.4, "999 "),
        (999.6, "1 k"),
        (12_345, "12.3 k"),
        (3.2e15, "3.2 P"),
        (9.994e17, "999 P"),
        (9.996e17, "1 E"),
        (1e18, "1 E"),
        (2.5e20, "250 E"),
    ],
)
def test_prefixes(number, words):
    assert units.with_prefix(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "12.3 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (5, "5 s"), (119, "119 s"),
     (180, "3 min"), (9000, "2.5 h"), (864_000, "10 days"), (1.2e8, "1,389 days")],
)  # fmt: skip
def test_times(seconds, words):
    assert units.in_time(seconds) == words
