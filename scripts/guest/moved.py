# SPDX-License-Identifier: GPL-2.0
"""moved.py: watch a pipe that has moved, and an eventfd where it was that has an event."""
import os
import select
import signal

# Descriptors that a test knows, whatever it was started with.
os.closerange(3, 300)
epoll = select.epoll()
reader, writer = os.pipe()
os.dup2(reader, 100)
epoll.register(100, select.EPOLLIN)
os.close(100)
event = os.eventfd(1)
epoll.register(event, select.EPOLLIN)
print("ready", flush=True)
signal.pause()
