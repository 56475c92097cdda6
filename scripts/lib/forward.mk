# SPDX-License-Identifier: GPL-2.0
#
# linux/Makefile, put there by `make setup`: hands goals and variables on to
# this checkout's kernel tree, in the build root.
goals := $(or $(MAKECMDGOALS),all)

.PHONY: $(goals) forward
$(goals): forward
	@:

forward:
	@../scripts/lib/kmake '$(if $(M),$(abspath $(M)))' '$(MO)' $(MAKECMDGOALS)
