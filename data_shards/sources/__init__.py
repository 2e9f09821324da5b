"""Where images come from: one module per source, each with `read(...) -> Source`."""
