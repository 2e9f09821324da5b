"""Which images make a step, and the loader that reads them ahead."""
