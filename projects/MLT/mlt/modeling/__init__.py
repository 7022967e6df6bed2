"""Backbones, layers, heads, losses, memory, teacher and meta-architectures."""
