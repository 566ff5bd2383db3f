"""Fast implementations of the operations for CPU and GPU; the only package that imports Triton."""
