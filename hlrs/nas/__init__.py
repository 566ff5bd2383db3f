"""Neural architecture search: primitives, supernet, genotype, derived network, bilevel steps."""
