"""What a run is told: one YAML file -> frozen dataclasses, checked once. No torch."""
