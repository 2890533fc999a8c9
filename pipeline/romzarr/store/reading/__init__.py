"""What opens a store and decodes it, believing nothing that was not checked."""
