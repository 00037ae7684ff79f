"""What is to be seen of a run while it goes: TensorBoard and Weights & Biases.

A backend opens a `contract.Logger`, three functions:

    scalars(training, record, when)     a record of metrics.jsonl
    images(training, step, pictures)    name -> uint8 picture
    finish(ending)                      results, config and embedding; None where a run stops early

`log.BACKENDS` names the backends. `log.Log` calls them: it measures the time that they take, and an
error turns a backend off instead of ending the run.
"""
