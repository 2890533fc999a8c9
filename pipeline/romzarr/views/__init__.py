"""What pictures are made of: small parts of a store and of its source, however large they are."""
