"""How well the methods classify: methods x data sets x seeds, in the trainer that users run."""
