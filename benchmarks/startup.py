"""Times the phases of a whole run: imports, data, compilation, training, evaluation, report.

python benchmarks/startup.py --config=configs/digits.py [--runs=3] [--config.KEY=VALUE ...]

The command runs as for a user, in a separate process and a new folder: once with an empty cache of
compiled programs ("cold"), and --runs times with that cache, each with another seed ("warm"). The
phases are recognized by the output of the command, and each begins where the one before ends:

  imports, data  until the data set is loaded
  first steps    building, tracing, compiling, and the steps until the first record
  training       until the last record
  evaluation     until the report begins; it includes further trainings of a task with several
  report         until the process ends

"Processor" is the processor time of the whole run. "Compiling" and "tracing" are jax's own count of
the seconds spent on compiling or fetching programs and on tracing and lowering them, within the
phases. "Compiled" is the number of programs that were not in the cache. Warm numbers are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

PHASES = ("imports, data", "first steps", "training", "evaluation", "report")
# jax's names of measured events -> names in the table.
MEASURED = {
    "/jax/core/compile/backend_compile_duration": "compiling",
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
}
# Environment variable of a measured process: the file to which it writes jax's measurements.
COUNTS = "STARTUP_COUNTS"


def inside(counts: pathlib.Path) -> None:
    """Runs the command in this process, and writes jax's measurements.

    Args:
      counts: the file to write.
    """
    from thanos_jax import command

    command.keep_compiled_programs()
    import jax

    found = {"compiling": 0.0, "tracing": 0.0, "compiled": 0}

    def duration(event: str, duration_secs: float, **_: str | int) -> None:
        if event in MEASURED:
            found[MEASURED[event]] += duration_secs

    def counted(event: str, **_: str | int) -> None:
        # A program that compiles faster than the cache's threshold is neither a hit nor a miss.
        found["compiled"] += event == "/jax/compilation_cache/cache_misses"

    jax.monitoring.register_event_duration_secs_listener(duration)
    jax.monitoring.register_event_listener(counted)
    try:
        runpy.run_module("thanos_jax.main", run_name="__main__", alter_sys=True)
    finally:
        counts.write_text(json.dumps(found), encoding="utf-8")


def measure(words: Sequence[str], cache: pathlib.Path) -> dict[str, float]:
    """Runs the command once, in a new folder.

    Args:
      words: the command's flags, without --workdir.
      cache: folder of compiled programs.

    Returns:
      Phase -> seconds; "whole" and "processor"; and the counts of `inside`.
    """
    with tempfile.TemporaryDirectory() as folder:
        counts = pathlib.Path(folder) / "counts.json"
        environment = {**os.environ, COUNTS: str(counts), "JAX_COMPILATION_CACHE_DIR": str(cache)}
        started, processor = time.perf_counter(), _processor_seconds()
        ends: dict[str, float] = {}
        lines = []
        with subprocess.Popen(
            [sys.executable, "-u", __file__, *words, f"--workdir={folder}/run"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                now = time.perf_counter() - started
                if re.match(r"\S+: train \d", line):
                    ends["imports, data"] = now
                elif line.startswith("step "):
                    ends.setdefault("first steps", now)
                    ends["training"] = now
                elif line.startswith("report\n"):
                    ends["evaluation"] = now
        ends["report"] = time.perf_counter() - started
        if process.returncode or set(ends) != set(PHASES):
            sys.exit("".join(lines))
        seconds = [0.0, *(ends[phase] for phase in PHASES)]
        found = json.loads(counts.read_text(encoding="utf-8"))
        phases = {phase: b - a for phase, a, b in zip(PHASES, seconds, seconds[1:], strict=False)}
        used = _processor_seconds() - processor
        return {**phases, "whole": ends["report"], "processor": used, **found}


def _processor_seconds() -> float:
    """Returns the processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", required=True, help="the run's config, as in thanos_jax.main")
    parser.add_argument("--runs", type=int, default=3, help="number of warm runs")
    asked, others = parser.parse_known_args()
    if asked.runs < 1:
        parser.error(f"--runs: expected at least 1, got {asked.runs}")
    words = [f"--config={asked.config}", *others]
    with tempfile.TemporaryDirectory() as cache:
        cold = measure(words, pathlib.Path(cache))
        warm = [
            measure([*words, f"--config.seed={seed}"], pathlib.Path(cache))
            for seed in range(1, asked.runs + 1)
        ]
    print(f"{'seconds':16}{'cold':>8}{'warm':>8}")
    for name in (*PHASES, "whole", "processor", "tracing", "compiling", "compiled"):
        middle = statistics.median(run[name] for run in warm)
        print(f"{name:16}{cold[name]:8.3g}{middle:8.3g}")


if __name__ == "__main__":
    if COUNTS in os.environ:
        inside(pathlib.Path(os.environ[COUNTS]))
    else:
        main()
