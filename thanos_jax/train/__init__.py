"""The optimizer's state, the step, the loop and checkpoints."""
