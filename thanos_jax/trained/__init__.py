"""After training: load the model of a run, embed images, find neighbours, and export it."""
