# SPDX-License-Identifier: GPL-2.0
"""For kunit.py: the machine that scripts/vm uses, as far as it matters."""

from ..qemu_config import QemuArchParams

QEMU_ARCH = QemuArchParams(linux_arch='x86_64',
                           kconfig='',
                           qemu_arch='x86_64',
                           kernel_path='arch/x86/boot/bzImage',
                           kernel_command_line='console=ttyS0 no_timer_check',
                           extra_qemu_params=['-cpu', 'max,la57=off'])
