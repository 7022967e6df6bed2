"""Configuration: a yacs tree, documented key by key in defaults.py."""

from mlt.config.config import CfgNode, check_least, value_of, with_values
from mlt.config.configurable import configurable
from mlt.config.defaults import get_cfg
from mlt.config.plug_in import add_mlt_config

__all__ = ["CfgNode", "add_mlt_config", "check_least", "configurable", "get_cfg", "value_of", "with_values"]
