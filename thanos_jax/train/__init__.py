"""Training: state, optimizers, objectives, steps, the loop and checkpoints."""
