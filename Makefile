PYTHON := .venv/bin/python
DEMO := data/digits_demo/vdigits_1trials_race_3z_500samples

.PHONY: install demo reproduce test test-fast lint
.DELETE_ON_ERROR:

install: .venv/.dev

# Each stamp stands for one finished pip install; a changed pyproject.toml makes it old.
# Of the last two only the lists of names are read, so their many dependencies stay out.
.venv/.dev: .venv/.runtime
	$(PYTHON) -m pip install -e '.[dev]'
	$(PYTHON) -m pip install --no-deps clip-benchmark==1.6.2 mmpretrain==1.2.0
	touch $@

.venv/.runtime: pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install -e .
	touch $@

$(PYTHON):
	@for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv .venv"; exec $$python -m venv .venv; \
	  fi; \
	done; echo 'Python 3.11 or newer is needed; none was found' >&2; exit 1

# 50 of the 497 held-out digits; done in half a minute on 2 cores, and a second call goes on where the first stopped.
demo: .venv/.runtime
	mkdir -p data
	$(PYTHON) -c 'import numpy; numpy.save("data/demo.npy", numpy.arange(0, 497, 10))'
	LOG_DIR=data $(PYTHON) eval_prob_adaptive.py --version digits --dataset digits --search race \
	  --subset_path data/demo.npy --extra demo
	$(PYTHON) scripts/plot_errors.py $(DEMO) demo.png

# Hours: studies/reproduce.py --list says how many. PART=embedded:races is the shortest; a second call goes on.
PART := embedded
reproduce: .venv/.dev
	$(PYTHON) studies/reproduce.py $(PART)

# A process for each core, each with one thread: the embedded models are too small for more.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Without those marked slow: whole scripts, training, fifty kills, Slurm, installing.
test-fast: .venv/.dev
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --dist loadfile -m 'not slow'

lint: .venv/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy diffusion/core diffusion/stats diffusion/runs
