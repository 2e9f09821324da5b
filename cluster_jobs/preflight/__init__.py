"""What is checked before `clmle run` starts anything."""
