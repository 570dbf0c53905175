"""One data set kind per file -> uint8 arrays, NumPy only; how they are shared out in roles; calibration and golden rows."""
