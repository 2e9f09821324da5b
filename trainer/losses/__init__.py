"""What a training minimises, and how that changes over its steps. Pure functions."""
