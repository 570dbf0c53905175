"""What a graph must be for the runtimes of a target's family: one family's rules per file."""
