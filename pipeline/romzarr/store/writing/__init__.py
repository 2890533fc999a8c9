"""What writes a generation of a store."""
