"""Training and evaluation on a long tail: objectives, losses, mixing coefficients, metrics."""
