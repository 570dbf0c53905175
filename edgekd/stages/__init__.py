"""One stage per file: what it checks, what it makes."""
