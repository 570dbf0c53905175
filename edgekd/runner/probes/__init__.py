"""Power sensors of the program on the device: one file each."""
