"""Doors to other toolboxes."""
