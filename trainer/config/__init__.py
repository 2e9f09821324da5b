"""A run's configuration: one YAML file -> frozen dataclasses, checked once. No torch."""
