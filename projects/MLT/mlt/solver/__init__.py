"""Optimizers and learning-rate schedules from a cfg."""
