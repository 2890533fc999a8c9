"""Pages that open anywhere: one for a store, one for a whole archive of stores."""
