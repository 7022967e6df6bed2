"""MLT and MMT: unsupervised domain-adaptive re-identification. Importing this loads no component."""

__version__ = "0.1.0"
