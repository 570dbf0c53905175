"""Every bound of the tests, with its reason."""

# Cosines of unit vectors of up to 1024 float32 entries, two ways of summing them: a few ulp of 1 (methods 3.9, 3).
DISTANCE_FP32 = 1e-6
# (2 - 2c) / P of a map with itself: c is 1 to 2 ulp (2.4e-7), P is at least 64.
SAME_MAP_DISTANCE = 1e-8
# RTK with AFD's switches runs AFD's operations in another order of sums (methods 3.4).
AFD_EQUIVALENCE = 1e-6
# A float32 loss against its float64 form in NumPy, relative: sums of ~1e4 terms.
LOSS_FP32 = 1e-5
# Logits of a network whose BatchNorms are folded, relative to their range: rounding of ~50 layers.
FOLDED_LOGITS = 1e-4
