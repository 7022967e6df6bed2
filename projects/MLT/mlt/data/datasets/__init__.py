"""Readers: a folder, list or table of images -> ReidSet. Importing this package fills the registry DATASETS."""

from mlt.data.datasets.dukemtmc import DukeMTMC
from mlt.data.datasets.market1501 import Market1501
from mlt.data.datasets.merge import merge_train
from mlt.data.datasets.msmt17 import MSMT17
from mlt.data.datasets.read import datasets_root, read_dataset, read_datasets

__all__ = ["MSMT17", "DukeMTMC", "Market1501", "datasets_root", "merge_train", "read_dataset", "read_datasets"]
