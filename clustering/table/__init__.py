"""The cluster table: its store, scores of its nearest clusters, its quality and neighbours."""
