"""Small, separate helpers: processes, checkpoints, logging, randomness."""
