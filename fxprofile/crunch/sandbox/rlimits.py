"""What a child may take (``setrlimit(2)``)."""

from __future__ import annotations

import resource
import signal

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox.process import address_space


def apply(limits: Limits) -> bool:
    """
    Limit this process.

    The memory is that of the image: what the helper had before the fork, and shares,
    comes on top of it.
    """
    wanted = {
        resource.RLIMIT_AS: (address_space() + limits.memory,) * 2,
        # The signal of the soft limit can be ignored, that of the hard one cannot.
        resource.RLIMIT_CPU: (limits.cpu, limits.cpu + 1),
        resource.RLIMIT_FSIZE: (limits.max_result,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        # What is needed is open: no file, socket or pipe may come to it.
        resource.RLIMIT_NOFILE: (0, 0),
    }
    if not limits.heic:
        # Not even threads, for anyone but root; the decoder of HEIC has one.
        wanted[resource.RLIMIT_NPROC] = (0, 0)
    held = True
    for kind, (soft, hard) in wanted.items():
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):
            # The limit of this process may be lower already.
            held = resource.getrlimit(kind)[1] in range(hard + 1) and held
    # The helper ends a child in time; this is for the case that there is no helper.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.timeout + 1)
    return held
