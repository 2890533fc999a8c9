"""Files at URLs: object storage with obstore, everything else with fsspec.

Every process takes credentials from its environment (``AWS_ACCESS_KEY_ID`` and so on). Pickles
contain only the URL.
"""

from romzarr.objects.cache import caching
from romzarr.objects.folder import Folder, Stored, folder
from romzarr.objects.remote import RemoteStore, is_document, zarr_store
from romzarr.objects.requests import file_system_of, storage_errors

__all__ = [
    "Folder",
    "RemoteStore",
    "Stored",
    "caching",
    "file_system_of",
    "folder",
    "is_document",
    "storage_errors",
    "zarr_store",
]
