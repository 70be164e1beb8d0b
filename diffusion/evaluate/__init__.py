"""From a command line to a folder of records: options, the run's configuration, the loop over images.

May import: every other folder. Read main in eval_prob_adaptive.py first: it names each module here in turn; then
loop.py.
"""
