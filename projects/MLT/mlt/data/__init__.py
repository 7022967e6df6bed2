"""Records, transforms, samplers, loaders and synthetic domains."""
