"""Tool environments: tool chains whose pins do not fit beside edgekd, each in a folder of its own, driven by worker scripts."""
