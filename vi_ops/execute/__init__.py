"""The only effects: one module for each outside thing, each the only importer of its library."""
