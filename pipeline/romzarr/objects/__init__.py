"""Files at URLs: object storage through obstore, everything else through fsspec.

Credentials come from the environment of each process (``AWS_ACCESS_KEY_ID`` and so on) and
stay in it: what is pickled holds the URL alone.
"""

from romzarr.objects.folder import Folder, Stored, folder
from romzarr.objects.memory import remembering
from romzarr.objects.remote import RemoteStore, is_document, zarr_store
from romzarr.objects.requests import located, told

__all__ = [
    "Folder",
    "RemoteStore",
    "Stored",
    "folder",
    "is_document",
    "located",
    "remembering",
    "told",
    "zarr_store",
]
