"""The tasks: what a run does with a representation. Each task is a module with the same interface.

A task is a module of three functions, named in `thanos_jax.run.TASKS`:

    trainings(run: stages.Run) -> {name of a training: `stages.Planned`}
        In the order of training; the name is also the name of its folder. Raises ConfigError for a
        config that does not fit the data or the devices. Builds nothing.
    prepare(run: stages.Run) -> a NamedTuple with the field `first`, a stage
        Raises as `trainings`, before anything is compiled; then builds the first training. Writes
        nothing.
    perform(run: stages.Run, prepared) -> the content of results.json
        Trains, evaluates and reports in run.folder, which is locked for this run. `first` is the
        first training.

`thanos_jax.run` writes config.json to the folder, and data.json for a data set of image files. The
task writes

    metrics.jsonl, checkpoints/,
    model.json                    for each training, in a folder named after its stage
    *.npz                         findings: results for each image, written atomically
    findings.csv                  the same as a table with file names, the most urgent first
    map.npz, pictures.json        the content of the report, from which it can be made again
    report.html, results.json     written last, by `ending.finish`

A task may be stopped at any time. Called again with the same folder, it reads the findings that
exist, resumes training from the newest checkpoints, and ends with the same numbers. Every process
of a run makes the same calls. Only the first process writes; it also computes, once, the results
that later trainings depend on (`findings.once`).
"""
