"""What is started: the command line, the whole run, and the jobs on a Ray cluster."""

__all__: list[str] = []  # programs; nothing here is for import
