"""The command line, recipes, feature sources, training, evaluation and reports."""
