"""The tasks: what a run does with a representation. One module a task, all of one contract.

A task is a module of three functions, named in `thanos_jax.run.TASKS`:

    trainings(run: stages.Run) -> the name of each training -> `stages.Planned`
        In their order; the name is its folder's. Raises ConfigError for a config that does not fit
        the data or the devices. Builds nothing.
    prepare(run: stages.Run) -> a NamedTuple that has `first`, a stage
        Raises as `trainings`, before anything is compiled; then builds the first training. Writes
        nothing.
    perform(run: stages.Run, prepared) -> what results.json holds
        Trains, evaluates and reports in run.folder, which is locked and the run's own. `first` is
        the training that it starts with.

The folder holds config.json, and data.json of a set of image files, which `thanos_jax.run` writes,
and of the task

    metrics.jsonl, checkpoints/,
    model.json                    of each training, in a folder named after its stage
    *.npz                         findings: results for each image, whole or not at all
    findings.csv                  the same for people, by file name, the most urgent first
    map.npz, pictures.json        what the report shows, by which it is made again
    report.html, results.json     written last, by `ending.finish`

A task may be stopped anywhere. Called again with the same folder, it reads the findings that are
there, trains on from the newest checkpoints, and ends with the same numbers. Every process of a run
makes the same calls: what later trainings depend on is found once, by the first process
(`findings.once`), and only that one writes.
"""
