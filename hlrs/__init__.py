"""Neural architecture search for long-tailed images, as a versioned workflow."""

__version__ = "0.1.0"
