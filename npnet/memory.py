"""How the C library hands out memory: a step of training frees all of its arrays and the next one
asks for the same again."""

import ctypes
from functools import cache

import numpy as np

# From M_MMAP_THRESHOLD on glibc maps pages for an array alone, and it accepts no larger one.
_LARGEST = 32 << 20
_ROOM = 8  # arrays of that size, more than a step of any published run needs


@cache
def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory, and the kernel for huge pages.

    By default glibc returns a large array's pages at once and faults them in again each step. And a
    step's arrays lie on more pages of 4 kB than the processor remembers the addresses of; looking
    them up costs nanoGPT's step four percent. NumPy asks for pages of 2 MB where an array has 4 MB
    or more. So arrays of that size are made and freed, untouched, which takes addresses and no
    memory, and later ones find their place there.

    Where there is no glibc nothing happens.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt(M_MMAP_THRESHOLD, _LARGEST)
    mallopt(M_TRIM_THRESHOLD, 1 << 30)
    try:
        room = [np.empty(_LARGEST - (1 << 20), np.uint8) for _ in range(_ROOM)]
    except MemoryError:  # a limit on addresses, of which others need some too
        malloc_trim(0)
        return
    del room
