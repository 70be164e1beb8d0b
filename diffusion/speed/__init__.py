"""Speed: how fast and how exact a device computes, and how much everything beside the network costs.

May import: runs, models, data, core, stats, io. Read device.py first: the check of a device; summary.py prints it.
"""
