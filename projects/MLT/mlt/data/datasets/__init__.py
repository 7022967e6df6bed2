"""Readers: a folder, list or table of images -> ReidSet. Importing this package fills the registry DATASETS."""

from mlt.data.datasets import dukemtmc, market1501, msmt17, personx, vehicleid, veri, veriwild  # noqa: F401
from mlt.data.datasets.merge import merge_train
from mlt.data.datasets.published import PUBLISHED
from mlt.data.datasets.read import datasets_root, read_dataset, read_datasets

__all__ = ["PUBLISHED", "datasets_root", "merge_train", "read_dataset", "read_datasets"]
