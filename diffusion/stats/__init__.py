"""What is computed from measured errors: accuracy, intervals, calibration, level weights. Arrays in, arrays out.

May import: nothing of this package. Read metrics.py first.
"""
