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
# Gradients of one loss by two orders of float32 operations, relative to the largest: cancelling sums lose ~2 digits.
GRADIENT_FP32 = 1e-5

# ONNX against torch, float32: the same products summed in another order; 3e-7 of the logit range is seen on resnet8.
ONNX_ERROR_TO_RANGE = 2e-6
# u8s8 against its float graph on an easy toy: 43 dB seen; the project's own bound is 25.
TOY_INT8_SQNR_DB = 35.0
# Published channel statistics are rounded to 4 decimals, and a published deviation may be another estimator.
PUBLISHED_STATISTICS = 1e-3
# Compiled against eager after three steps of resnet8 under RTK: fused kernels round differently, and training amplifies it.
COMPILED_LOSS = 2e-4  # relative, of the epoch's mean loss terms; 1.4e-5 seen
COMPILED_WEIGHTS = (
    3e-2  # largest difference of a weight to the largest weight of its tensor; 9e-3 seen (BatchNorm biases, from 0)
)
