"""HTML pages that open offline: one about a store, one about a whole archive of stores."""
