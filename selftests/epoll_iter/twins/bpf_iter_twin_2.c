// SPDX-License-Identifier: GPL-2.0
#define TWIN 2
#include "bpf_iter_twin.h"
