"""From a checked config to what the training loop takes: a task, its data, and its settings."""
