"""The program that runs on the device: the standard library and NumPy, Python 3.8 syntax, one file to copy.

`python3 runner.pyz bench BUNDLE_DIR OUT_DIR` does every benchmark, as a subprocess here and on a board: one measuring path,
so that figures mean the same everywhere. `edgekd.runner.bundle` says what a bundle holds, `edgekd.runner.bench` what comes out.
"""
