"""What comes after training: the model of a run, and embeddings, neighbours and exports of it."""
