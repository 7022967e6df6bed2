"""Training over time: loop, hooks, extraction, trainer, launch."""
