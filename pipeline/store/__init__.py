"""The coefficient store on disk: written once, replaced atomically, decoded lazily (FORMAT.md)."""
