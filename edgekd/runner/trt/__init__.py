"""What the engines `tensorrt` and `trtexec` are made of: the bindings' module is handed in, nothing here imports it."""
