"""The training loop that search and retraining share."""
