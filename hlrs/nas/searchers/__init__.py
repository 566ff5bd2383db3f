"""Searchers: how the architecture's parameters become weights of operations and edges; a module per kind."""
