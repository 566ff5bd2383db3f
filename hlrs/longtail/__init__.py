"""What makes training fit a long tail: objectives, mixing schedules, metrics."""
