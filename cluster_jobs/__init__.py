"""What is started: the command line, the whole run, and the jobs on a Ray cluster."""
