# Variables: PG="15 16 18"   versions to test (default 18)
#            T=regress::name run only the tests whose name contains this
#            LOG=file        make demo replays this log
#            QUICK=1         make bench takes two minutes instead of eleven
#            UPDATE_EXPECTED=1  make test takes what the SQL files print as right
#            ROUNDS=50       make test T=ruin ruins a server so often
#            ACQUISITIONS=20000  make test T=crowd takes so many slots
#            PG_CONFIG=path  use this server instead of a private one

PG ?= 18
export PG_CONFIG T

# The demo is not in a hurry: without optimization it is built in half the time.
bench: PROFILE = --release
bench: FLAGS = $(if $(QUICK),--quick)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench install package clean

help:
	@echo 'make demo      replay a log through limits in a private server [LOG=file]'
	@echo 'make test      run all tests [PG="15 16 18"] [T=name]'
	@echo 'make check     formatting, lints and tests that need no server'
	@echo 'make bench     measure in a private server [QUICK=1]'
	@echo 'make install   build and install into a server [PG_CONFIG=path]'
	@echo 'make package   make an archive to install elsewhere [PG_CONFIG=path]'
	@echo 'make clean     remove all that was built, with the private servers'
	@echo
	@echo 'The first run of each gets what it needs. No server of this machine is touched,'
	@echo 'except by make install.'

demo bench:
	@dev/setup 18
	@dev/build 18
	@cargo run $(PROFILE) --package ratelimit-$@ -- \
		--pg-config "$$(dev/setup --pg-config 18)" $(if $(LOG),--log "$(LOG)") $(FLAGS) $(ARGS)

test:
	@dev/test $(PG)

check:
	@dev/check

install: export PG_CONFIG := $(or $(PG_CONFIG),pg_config)
install:
	@dev/setup
	@dev/build

package:
	@dev/setup
	@dev/package

clean:
	rm -rf target
