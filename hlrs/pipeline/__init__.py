"""Plans, runs, locks, clusters."""
