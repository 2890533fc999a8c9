"""Writing what a store decodes to: where it may go, and how it appears in one step."""
