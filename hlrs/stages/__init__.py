"""One module per stage: read artifacts, wire the parts, write artifacts."""
