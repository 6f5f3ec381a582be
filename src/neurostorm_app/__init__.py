"""Foundation-model embeddings of fMRI scans, from BIDS to BIDS, offline."""

from importlib.metadata import version

__version__ = version("neurostorm-app")
