"""The six datasets as their owners distribute them: names, annotation files, layouts on disk."""
