"""One module a stage: read artifacts, wire the parts, write artifacts."""
