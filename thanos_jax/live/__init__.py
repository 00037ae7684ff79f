"""Live logging of a run: TensorBoard and Weights & Biases.

A backend opens a `contract.Logger`, three functions:

    scalars(training, record, when)     a record of metrics.jsonl
    images(training, step, pictures)    name -> uint8 picture
    finish(ending)                      results, config and embedding; None if a run stops early

`log.BACKENDS` names the backends. `log.Log` calls them and measures the time they take. An error
turns a backend off instead of ending the run.
"""
