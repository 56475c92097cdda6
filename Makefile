# SPDX-License-Identifier: GPL-2.0
#
# `make help` lists the goals. Everything is built in a build root of its own, in the
# cache directory: see scripts/setup. The kernel's make reads Kbuild, not this file.

KERNEL ?= base
export OUT KERNEL DEBIAN LINUX LINUX_SOURCE CRIU_SOURCE SNAPSHOT MIRROR SECURITY_MIRROR KEYRING
export RELOADS PROGRAMS CALLS MUTATIONS TESTS MINUTES URL ORIGIN TIME SEED SYZKALLER

# The value of a variable, unexpanded and quoted for the shell.
word-as-is = '$(subst ','\'',$(value $(1)))'

# Each script takes its own locks; -j has an effect on the kernel's make only.
.NOTPARALLEL:
.PHONY: all setup run check check-all bench lava kcidb fuzz vm deb static kselftest-install modules series mbox criu refresh clean distclean help

all: $(if $(KDIR),kdir,modules)

setup:
	@scripts/setup

run:
	@scripts/setup run
	@scripts/run

check: setup
	@scripts/check $(call word-as-is,T)

# What .ci/run has no time for, too. The tests of CRIU with our series are skipped where it
# has not been built.
check-all:
	@$(MAKE) --no-print-directory setup
	@$(MAKE) --no-print-directory criu
	@$(MAKE) --no-print-directory check RELOADS=200
	@$(MAKE) --no-print-directory check T=steps
	@$(MAKE) --no-print-directory check T=deb
	@$(MAKE) --no-print-directory check T=static
	@$(MAKE) --no-print-directory check KERNEL=lean
	@$(MAKE) --no-print-directory check KERNEL=debug
	@$(MAKE) --no-print-directory check LINUX=7.2
	@$(MAKE) --no-print-directory check KERNEL=distro-6.12
	@$(MAKE) --no-print-directory check KERNEL=distro-7.3

bench:
	@scripts/bench $(call word-as-is,BENCH)

# What a LAVA lab takes.
lava: setup
	@scripts/lava

# The results of the last make check, for other programs.
kcidb:
	@scripts/report

fuzz: KERNEL := $(if $(filter %fuzz,$(KERNEL)),$(KERNEL),fuzz)
fuzz: setup
	@scripts/fuzz

vm: setup
	@scripts/vng $(call word-as-is,CMD)

deb:
	@scripts/deb

static:
	@scripts/static

modules:
	@scripts/setup modules

kselftest-install: setup
	@echo 'run_kselftest.sh is in' "$$(scripts/where kselftest)"

.PHONY: kdir
kdir:
	@scripts/kdir $(call word-as-is,KDIR)

series mbox:
	@scripts/$@

criu:
	@scripts/criu build

refresh:
	@scripts/refresh

clean distclean:
	@scripts/clean $@

help:
	@cat scripts/help
