"""Statistics of the archived data from a store, with bounds on their errors."""
