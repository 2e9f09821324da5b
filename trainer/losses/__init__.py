"""What is minimised: one file a loss, and what puts their terms together."""
