"""Published splits: what is known of each, the grammars of their lists, importing them, and those that class names determine."""
