"""Who clusters which classes: the plan, the workers, and how rows reach them. Ray is only here."""
