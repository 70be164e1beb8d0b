"""The method: noise an image, compare predictions, decide which class is measured next. Tensors in, tensors out.

May import: stats. Read batching.py first: it is where the error of every condition is computed; losses.py has the
formulas, process.py the noise schedule, search.py which class is dropped, image.py the search over one image.
"""
