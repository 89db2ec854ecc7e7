# The commands of the book. What each does is Python: the site in book/, the proof in tests/press/.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
export CONSTRAINTS SEED GPU
IN = $(PYTHON) book/env.py
SITE = _build/html

.DEFAULT_GOAL := help
.PHONY: book serve links test check device chapter new machines moved colab sync bench mutants stress dist clean help

book:     ## build the website into _build/html and say where to open it
	@$(IN) book -m booksite.build build

serve: book  ## build the website and serve it on localhost
	@$(IN) book -m http.server 8000 --bind 127.0.0.1 --directory $(SITE)

links:    ## ask other hosts whether the pages that the book links to are still there
	@$(IN) book -m booksite.build links

test:     ## prove the book: every chapter re-executed, the package, the tests, the site
	@$(IN) dev -m tests.press.prove test

check:    ## the fast tier: static checks, quick tests, the chapters that changed
	@$(IN) dev -m tests.press.prove check

device:   ## run the tests of an accelerator on a simulated one; make test does it, too
	@SIMULATE=1 $(IN) dev -m pytest -q -m device tests/test_device.py

chapter:  ## re-execute one chapter and store its outputs: make chapter N=02
	@$(IN) dev -m tests.press.execute $(N)

new:      ## make a new chapter, or a page for its experiments: make new N=[experiments/]08_data_block
	@$(IN) dev -m tests.press.new $(N)

machines: ## execute what changed as on other processors: do its outputs hold? ALL=1: every setting
	@$(IN) dev -m tests.press.machines $(if $(ALL),--all) $(if $(SETTING),--setting $(SETTING))

colab:    ## run a few chapters as on Colab, where the package is not installed yet
	@$(IN) dev -m tests.press.colab

moved:    ## do records hold after a rename or rewrite? make moved BEFORE=COMMIT [N=norm.one_epoch]
	@$(IN) dev -m tests.press.moved $(N) --before $(BEFORE) $(if $(WAS),--was $(WAS)) $(if $(VALUES),--values $(VALUES))

sync:     ## rewrite the measured figures in the prose from the stored outputs
	@$(IN) dev -m fromfound.record sync

bench:    ## measure, side by side in one run; figures go to benchmarks/results.json
	@$(IN) dev -m benchmarks

mutants:  ## plant small mistakes in the library and see whether the tests notice; takes an hour
	@$(IN) dev -m tests.press.mutants

stress:   ## a thousand changed bits in checkpoints and a hundred kills; make test does a part of it
	@STRESS=1 $(IN) dev -m pytest -q tests/test_learner.py -k "changed_bit or random_moments"

dist:     ## build the wheel and the sdist into dist/
	@$(IN) dev -m build

clean:    ## remove the website and the environments
	rm -rf _build dist .venv .venv-book .venv-run

help:
	@$(PYTHON) -c "import re; print('\n'.join('make %-9s %s' % m for m in re.findall(r'(?m)^(\w+):[^#\n]*## (.*)', open('Makefile').read())))"
	@echo "PYTHON=python3.12 names the Python to use, CONSTRAINTS=file other pins"
