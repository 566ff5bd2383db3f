"""Where a number comes from: lineage, audit, RO-Crate."""
